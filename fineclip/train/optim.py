"""AdamW, the learning rate of each step, and the precision that a step is computed in."""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import AdamW

from fineclip.config import TrainConfig
from fineclip.methods.base import ParameterGroup

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def make_optimizer(groups: list[ParameterGroup], config: TrainConfig) -> AdamW:
    """AdamW in one kernel; groups that do not decay have a weight decay of 0. Parameters without gradient stay untouched."""
    return AdamW(
        [
            {"params": group.parameters, "weight_decay": config.weight_decay if group.decays else 0.0}
            for group in groups
        ],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def learning_rate(step: int, *, of: int, peak: float, warmup: int) -> float:
    """Before the update number `step` (from 0) of `of`: linear up to the peak, then half a cosine down to 0.

    Source: open_clip and FineCLIP, `training/scheduler.py`, `cosine_lr`.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return 0.5 * peak * (1 + math.cos(math.pi * (step - warmup) / (of - warmup)))


def set_learning_rate(optimizer: AdamW, rate: float) -> None:
    """The same rate for every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


@dataclass(frozen=True)
class Precision:
    """How a step is computed: in which precision, and with which factor before the loss so that fp16 does not vanish.

    The factor grows while gradients stay finite; a step whose gradients do not is left out and the factor halved, without
    the host looking on (the optimiser's kernel is told).
    """

    dtype: torch.dtype | None
    device: torch.device
    scaler: GradScaler

    @classmethod
    def of(cls, config: TrainConfig, device: torch.device) -> "Precision":
        """As configured."""
        dtype = DTYPES[config.precision]
        return cls(dtype, device, GradScaler(device.type, enabled=dtype is torch.float16))

    def autocast(self) -> AbstractContextManager[None]:
        """What the forward pass runs in."""
        enabled = self.dtype is not None
        return torch.autocast(self.device.type, dtype=self.dtype or torch.bfloat16, enabled=enabled)

    @property
    def loss_scale(self) -> Tensor | float:
        """The factor of the step at hand."""
        return self.scaler.scale(torch.ones((), device=self.device)) if self.scaler.is_enabled() else 1.0

    def update(self, total: Tensor, optimizer: AdamW, parameters: nn.Module, *, clip: float | None) -> None:
        """Go back through a loss and move the weights."""
        scaler = self.scaler
        scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters.parameters(), clip)
        scaler.step(optimizer)
        scaler.update()

"""AdamW, the learning rate schedule, mixed precision and the optimizer step."""

import math
from contextlib import AbstractContextManager
from inspect import unwrap

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import AdamW

from fineclip.config import TrainConfig
from fineclip.methods.base import ParameterGroup

AUTOCAST_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class EagerAdamW(AdamW):
    """AdamW whose methods do not import the compiler of torch, which takes 1.4 CPU-seconds."""

    step = torch.no_grad()(unwrap(AdamW.step))
    zero_grad = unwrap(AdamW.zero_grad)
    add_param_group = unwrap(AdamW.add_param_group)
    state_dict = unwrap(AdamW.state_dict)
    load_state_dict = unwrap(AdamW.load_state_dict)


def build_optimizer(groups: list[ParameterGroup], config: TrainConfig) -> AdamW:
    """Return AdamW in one fused kernel. Parameters without gradient are not changed.

    Args:
        groups: Parameters with and without weight decay.
        config: Rate, betas, eps and weight decay.

    Returns:
        Optimizer at the peak learning rate.
    """
    decay = {True: config.weight_decay, False: 0.0}
    parameters = [{"params": group.parameters, "weight_decay": decay[group.decays]} for group in groups]
    return EagerAdamW(parameters, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True)


def learning_rate(step: int, *, total: int, peak: float, warmup: int) -> float:
    """Return the learning rate of a step: linear warmup to the peak, then half a cosine to 0.

    Args:
        step: Number of the step, from 0.
        total: Steps of the training.
        peak: Highest rate.
        warmup: Steps of the warmup.

    Returns:
        Rate in [0, peak].

    Source:
        open_clip and FineCLIP, `training/scheduler.py`, `cosine_lr`.

    Examples:
        >>> [learning_rate(step, total=100, peak=1.0, warmup=10) for step in (0, 9, 55)]
        [0.1, 1.0, 0.5]
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return 0.5 * peak * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def set_learning_rate(optimizer: AdamW, rate: float) -> None:
    """Set the same rate for every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def build_scaler(config: TrainConfig, device: torch.device) -> GradScaler:
    """Return the scaler of the loss; enabled for fp16 only.

    Its factor grows while gradients are finite. A step with gradients that are not finite is skipped and the factor halved,
    without synchronizing with the device.
    """
    return GradScaler(device.type, enabled=config.precision == "fp16")


def autocast(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager[None]:
    """Return the autocast context of the forward pass; disabled if `dtype` is None."""
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def backward_and_step(
    loss: Tensor, optimizer: AdamW, scaler: GradScaler, module: nn.Module, *, max_norm: float | None
) -> None:
    """Run the backward pass, clip the gradients and update the parameters.

    Args:
        loss: Scalar.
        optimizer: Holds the trained parameters.
        scaler: Scales the loss for fp16.
        module: Module whose gradients are clipped.
        max_norm: Maximum norm of all gradients together; None: no clipping.
    """
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    if max_norm is not None:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(module.parameters(), max_norm)
    scaler.step(optimizer)
    scaler.update()

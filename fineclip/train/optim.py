"""AdamW, and the learning rate of each step."""

import math

from torch.optim import AdamW

from fineclip.config import TrainConfig
from fineclip.methods.base import ParameterGroup


def make_optimizer(groups: list[ParameterGroup], config: TrainConfig) -> AdamW:
    """AdamW; groups that do not decay have a weight decay of 0. Parameters without gradient stay untouched."""
    return AdamW(
        [
            {"params": group.parameters, "weight_decay": config.weight_decay if group.decays else 0.0}
            for group in groups
        ],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
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

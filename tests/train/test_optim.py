"""Learning rate schedule, optimizer and mixed precision."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fineclip.config import TrainConfig
from fineclip.methods.base import ParameterGroup
from fineclip.train.optim import (
    AUTOCAST_DTYPES,
    EagerAdamW,
    autocast,
    backward_and_step,
    build_optimizer,
    build_scaler,
    learning_rate,
)

CPU = torch.device("cpu")
WITHOUT_COMPILER = """
import sys, torch
from fineclip.config import TrainConfig
from fineclip.methods.base import ParameterGroup
from fineclip.train.optim import build_optimizer

weight = torch.nn.Parameter(torch.ones(2))
optimizer = build_optimizer([ParameterGroup([weight], decays=True)], TrainConfig())
optimizer.zero_grad()
weight.sum().backward()
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
assert "torch._dynamo" not in sys.modules
"""


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (55, 0.5), (100, 0.0)],
)
def test_linear_warmup_then_half_a_cosine(step: int, expected: float) -> None:
    assert learning_rate(step, total=100, peak=1.0, warmup=10) == pytest.approx(expected)


def test_without_warmup_the_first_rate_is_the_peak() -> None:
    assert learning_rate(0, total=10, peak=2.0, warmup=0) == 2.0


@pytest.mark.parametrize(("precision", "scale"), [("fp32", 1), ("bf16", 1), ("fp16", 2**16)])
def test_only_fp16_scales_the_loss(precision: str, scale: int) -> None:
    scaler = build_scaler(TrainConfig(precision=precision), CPU)
    assert scaler.is_enabled() == (precision == "fp16")
    assert scaler.scale(torch.ones(())).item() == scale


def one_weight(config: TrainConfig) -> tuple[nn.Linear, torch.optim.AdamW]:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 1.0)
    return module, build_optimizer([ParameterGroup(list(module.parameters()), decays=True)], config)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_fp16_step_equals_fp32_step(clip: float | None) -> None:
    weights = []
    for precision in ("fp32", "fp16"):
        config = TrainConfig(precision=precision, learning_rate=0.1)
        module, optimizer = one_weight(config)
        backward_and_step((3 * module.weight).sum(), optimizer, build_scaler(config, CPU), module, max_norm=clip)
        weights.append(module.weight.item())
    assert weights[0] == pytest.approx(weights[1], rel=1e-6)
    assert weights[0] < 1


@pytest.mark.parametrize("clip", [None, 0.5])
def test_overflow_skips_the_step_and_halves_the_scale(clip: float | None) -> None:
    config = TrainConfig(precision="fp16", learning_rate=0.1)
    module, optimizer = one_weight(config)
    scaler = build_scaler(config, CPU)
    loss = (module.weight * torch.tensor(float("inf"))).sum()
    backward_and_step(loss, optimizer, scaler, module, max_norm=clip)
    assert module.weight.item() == 1.0
    assert scaler.get_scale() == 2**15


def test_adamw_has_the_configured_values() -> None:
    config = TrainConfig(learning_rate=0.25, betas=(0.8, 0.75), eps=0.125, weight_decay=0.5)
    module = nn.Linear(2, 2)
    groups = [ParameterGroup([module.weight], decays=True), ParameterGroup([module.bias], decays=False)]
    optimizer = build_optimizer(groups, config)
    assert [group["params"] for group in optimizer.param_groups] == [[module.weight], [module.bias]]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
    for group in optimizer.param_groups:
        assert (group["lr"], tuple(group["betas"]), group["eps"]) == (0.25, (0.8, 0.75), 0.125)


def test_a_step_of_adamw_by_hand() -> None:
    """Gradient 3 at weight 1, first step: m = v = g once debiased, so 1 - 0.1 * (0.5 * 1 + 3 / (3 + 0.25))."""
    module, optimizer = one_weight(TrainConfig(learning_rate=0.1, eps=0.25, weight_decay=0.5))
    scaler = build_scaler(TrainConfig(), CPU)
    backward_and_step((3 * module.weight).sum(), optimizer, scaler, module, max_norm=None)
    assert module.weight.item() == pytest.approx(1 - 0.1 * (0.5 + 3 / 3.25), rel=1e-6)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_autocast_has_the_configured_precision(precision: str, dtype: torch.dtype | None) -> None:
    assert AUTOCAST_DTYPES[precision] is dtype
    with autocast(AUTOCAST_DTYPES[precision], CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is (dtype or torch.float32)


def test_steps_are_those_of_torch() -> None:
    weights = []
    for kind in (torch.optim.AdamW, EagerAdamW):
        weight = nn.Parameter(torch.linspace(-1, 1, 7))
        optimizer = kind([weight], lr=0.1, betas=(0.9, 0.98), weight_decay=0.2, fused=True)
        for _ in range(3):
            optimizer.zero_grad()
            (weight**2).sum().backward()
            optimizer.step()
            optimizer.load_state_dict(optimizer.state_dict())
        weights.append(weight.detach())
    assert torch.equal(*weights)


def test_the_optimizer_does_not_import_the_compiler() -> None:
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", WITHOUT_COMPILER], check=True, cwd=root)

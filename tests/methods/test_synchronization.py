"""Why the loss must come from what DistributedDataParallel wraps: the way of the released trainers does not synchronize.

CLIPSelf, CLIM and FineCLIP as released unwrap the model (`model = model.module`) before they compute the loss. The reducer
is armed by the wrapper's own forward, so that no gradient is exchanged and every process trains its own replica.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from fineclip.errors import TrainingError
from fineclip.methods import METHODS
from fineclip.train.distributed import DistributedContext
from fineclip.train.grad_cache import GradCache
from tests.helpers.processes import run_processes
from tests.helpers.tiny import batch_of, parts_of, tiny_encoder

REGIONS, SPLIT, STEPS = (2, 1, 3, 0), (2, 2), 3


@pytest.fixture(scope="module")
def everywhere() -> list[dict[str, tuple[dict[str, Tensor], str]]]:
    return run_processes(trained_both_ways, range(2))


def test_wrapped_replicas_stay_equal(everywhere: list[dict[str, Any]]) -> None:
    (first, complaint), (second, _) = (each["wrapped"] for each in everywhere)
    assert complaint == ""
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_unwrapped_replicas_diverge_and_the_first_step_detects_it(everywhere: list[dict[str, Any]]) -> None:
    (first, complaint), (second, other) = (each["unwrapped"] for each in everywhere)
    assert not torch.equal(first["visual.conv1.weight"], second["visual.conv1.weight"])
    assert "gradients differ between ranks" in complaint
    assert complaint == other  # all processes stop together


def trained_both_ways(rank: int) -> dict[str, tuple[dict[str, Tensor], str]]:
    return {how: trained(rank, how) for how in ("wrapped", "unwrapped")}


def trained(rank: int, how: str) -> tuple[dict[str, Tensor], str]:
    """Weights after a few steps, and what the check of the first step said."""
    method = METHODS["fineclip"](tiny_encoder(), METHODS["fineclip"].config_type())
    processes = DistributedContext(rank, 2, torch.device("cpu"))
    wrapped = processes.wrap(GradCache(method))
    called = wrapped if how == "wrapped" else wrapped.module
    optimizer = torch.optim.SGD([each for group in method.parameter_groups() for each in group.parameters], lr=0.1)
    complaint = ""
    for step in range(STEPS):
        optimizer.zero_grad()
        called(parts_of(batch_of(REGIONS, seed=step), REGIONS, SPLIT)[rank]).total.backward()
        if step == 0:
            try:
                processes.require_equal_gradients(method)
            except TrainingError as error:
                complaint = str(error)
        optimizer.step()
    return method.encoder.state_dict(), complaint

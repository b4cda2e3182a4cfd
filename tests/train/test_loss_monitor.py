"""Detection of divergence: all ranks stop, with the step and its samples."""

import math

import pytest
import torch

from fineclip.errors import TrainingError
from fineclip.train.distributed import DistributedContext
from fineclip.train.metrics import MAX_KEYS, WINDOW, LossMonitor
from fineclip.types import Losses
from tests.helpers.processes import run_processes


def monitor_of(*, divergence_factor: float | None = 2.0, rank: int = 0, world_size: int = 1) -> LossMonitor:
    return LossMonitor(
        DistributedContext(rank, world_size, torch.device("cpu")), divergence_factor, "results/run", steps=100
    )


def push(monitor: LossMonitor, step: int, losses: Losses, keys: list[str]) -> dict[str, float]:
    """Check the losses of the step before, then push, as the loop does."""
    values = monitor.check()
    monitor.push(step, losses, keys)
    return values


def losses(total: float) -> Losses:
    return Losses(torch.tensor(total), {"global": torch.tensor(total)})


def test_losses_are_checked_one_step_later() -> None:
    monitor = monitor_of()
    assert push(monitor, 0, losses(1.0), ["a"]) == {}
    assert push(monitor, 1, losses(math.nan), ["b", "c"]) == {"total": 1.0, "global": 1.0}
    with pytest.raises(TrainingError, match=r"no longer finite at step 2 of 100: total nan, global nan. Batch: b, c\."):
        push(monitor, 2, losses(1.0), ["d"])


def test_losses_are_checked_once() -> None:
    monitor = monitor_of()
    push(monitor, 0, losses(4.0), ["a"])
    assert monitor.check() == {"total": 4.0, "global": 4.0}
    assert monitor.check() == {}
    assert list(monitor.recent) == [4.0]


def test_ten_high_losses_are_a_divergence_and_one_is_not() -> None:
    monitor = monitor_of()
    for step, total in enumerate([1.0] * WINDOW + [9.0] + [1.0] * WINDOW):
        push(monitor, step, losses(total), ["a"])
    with pytest.raises(TrainingError, match=r"diverges: mean of 10 steps 2\.\d+, first loss 1 "):
        for step in range(WINDOW):
            push(monitor, 30 + step, losses(3.0), ["a"])
    endless = monitor_of(divergence_factor=None)
    for step in range(3 * WINDOW):
        push(endless, step, losses(1.0 + 100 * step), ["a"])


def test_state_is_restored() -> None:
    before, after = monitor_of(), monitor_of()
    for step in range(7):
        push(before, step, losses(1.0 if step == 0 else 2.5), ["a"])
    before.check()
    after.load_state_dict(before.state_dict())
    assert (after.first, list(after.recent)) == (1.0, [1.0, *[2.5] * 6])
    with pytest.raises(TrainingError, match="first loss 1 "):
        for step in range(7, 20):
            push(after, step, losses(2.5), ["a"])


def test_all_ranks_stop_and_name_samples_of_all() -> None:
    messages = run_processes(nan_on_rank_1, range(2))
    assert messages[0] == messages[1]
    assert "no longer finite at step 1 of 100" in messages[0]
    assert "k0-0, k0-1, k0-2, k0-3, k0-4, k1-0, k1-1, k1-2 and 2 others" in messages[0]
    assert MAX_KEYS == 8


def nan_on_rank_1(rank: int) -> str:
    monitor = monitor_of(rank=rank, world_size=2)
    push(monitor, 0, losses(math.nan if rank else 1.0), [f"k{rank}-{number}" for number in range(5)])
    with pytest.raises(TrainingError) as raised:
        monitor.check()
    return str(raised.value)


def test_divergence_is_detected_long_after_a_resume() -> None:
    before, after = monitor_of(), monitor_of()
    for step in range(4):
        push(before, step, losses(1.0), ["a"])
    before.check()
    after.load_state_dict(before.state_dict())
    for step in range(4, 4 + 2 * WINDOW):
        push(after, step, losses(1.0), ["a"])
    assert len(after.recent) == WINDOW
    with pytest.raises(TrainingError, match="first loss 1 "):
        for step in range(WINDOW):
            push(after, 30 + step, losses(3.0), ["a"])


def test_first_loss_has_a_lower_limit() -> None:
    """The limit is divergence_factor * max(first, 0.1): 0.2 here and not 0.002."""
    monitor = monitor_of()
    for step, total in enumerate([0.001] + [0.19] * 2 * WINDOW):
        push(monitor, step, losses(total), ["a"])
    with pytest.raises(TrainingError, match=r"first loss 0\.001 "):
        for step in range(WINDOW + 1):
            push(monitor, 30 + step, losses(0.21), ["a"])

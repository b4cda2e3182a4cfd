"""A training that is none any more stops, all processes alike, with the step and its samples."""

import math

import pytest
import torch

from fineclip.errors import TrainingError
from fineclip.train.distributed import Processes
from fineclip.train.watch import LOOKS, NAMED, Watch
from fineclip.types import Losses
from tests.helpers.processes import run_processes


def watch_of(*, max_growth: float | None = 2.0, rank: int = 0, world_size: int = 1) -> Watch:
    return Watch(Processes(rank, world_size, torch.device("cpu")), max_growth, "results/run", steps=100)


def losses(total: float) -> Losses:
    return Losses(torch.tensor(total), {"global": torch.tensor(total)})


def test_every_step_is_judged_one_step_later() -> None:
    watch = watch_of()
    assert watch.begin(0, losses(1.0), ["a"]) is None
    assert watch.begin(1, losses(math.nan), ["b", "c"]) == {"total": 1.0, "global": 1.0}
    with pytest.raises(
        TrainingError, match=r"no longer finite at step 2 of 100: total nan, global nan. Its batch: b, c\."
    ):
        watch.begin(2, losses(1.0), ["d"])


def test_what_was_judged_is_not_judged_again() -> None:
    watch = watch_of()
    watch.begin(0, losses(4.0), ["a"])
    assert watch.judged() == {"total": 4.0, "global": 4.0}
    assert watch.judged() is None
    assert list(watch.recent) == [4.0]


def test_one_bad_step_is_none_and_ten_are_a_divergence() -> None:
    watch = watch_of()
    for step, total in enumerate([1.0] * LOOKS + [9.0] + [1.0] * LOOKS):
        watch.begin(step, losses(total), ["a"])
    with pytest.raises(TrainingError, match=r"diverges, 2\.\d+ in the mean of 10 steps after 1 at first"):
        for step in range(LOOKS):
            watch.begin(30 + step, losses(3.0), ["a"])
    endless = watch_of(max_growth=None)
    for step in range(3 * LOOKS):
        endless.begin(step, losses(1.0 + 100 * step), ["a"])


def test_a_checkpoint_keeps_what_was_seen() -> None:
    before, after = watch_of(), watch_of()
    for step in range(7):
        before.begin(step, losses(1.0 if step == 0 else 2.5), ["a"])
    before.judged()
    after.take_up(before.state())
    assert (after.first, list(after.recent)) == (1.0, [1.0, *[2.5] * 6])
    with pytest.raises(TrainingError, match="after 1 at first"):
        for step in range(7, 20):
            after.begin(step, losses(2.5), ["a"])


def test_all_processes_stop_and_name_the_samples_of_all() -> None:
    messages = run_processes(nan_on_the_second, range(2))
    assert messages[0] == messages[1]
    assert "no longer finite at step 1 of 100" in messages[0]
    assert "k0-0, k0-1, k0-2, k0-3, k0-4, k1-0, k1-1, k1-2 and 2 others" in messages[0]
    assert NAMED == 8


def nan_on_the_second(rank: int) -> str:
    watch = watch_of(rank=rank, world_size=2)
    watch.begin(0, losses(math.nan if rank else 1.0), [f"k{rank}-{number}" for number in range(5)])
    with pytest.raises(TrainingError) as raised:
        watch.judged()
    return str(raised.value)


def test_after_a_resume_growth_is_seen_at_any_step() -> None:
    before, after = watch_of(), watch_of()
    for step in range(4):
        before.begin(step, losses(1.0), ["a"])
    before.judged()
    after.take_up(before.state())
    for step in range(4, 4 + 2 * LOOKS):
        after.begin(step, losses(1.0), ["a"])
    assert len(after.recent) == LOOKS
    with pytest.raises(TrainingError, match="after 1 at first"):
        for step in range(LOOKS):
            after.begin(30 + step, losses(3.0), ["a"])


def test_a_loss_that_begins_near_zero_is_measured_against_a_tenth() -> None:
    """The limit is max_growth * max(first, 0.1): 0.2 here and not 0.002."""
    watch = watch_of()
    for step, total in enumerate([0.001] + [0.19] * 2 * LOOKS):
        watch.begin(step, losses(total), ["a"])
    with pytest.raises(TrainingError, match=r"after 0\.001 at first"):
        for step in range(LOOKS + 1):
            watch.begin(30 + step, losses(0.21), ["a"])

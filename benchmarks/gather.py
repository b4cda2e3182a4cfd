"""CPU time of gathering the features of 8 ranks with 640 slots each: row by row, and ours.

    python -m benchmarks.gather

Torch's `fake` process group replaces the other seven ranks: neither variant sends data.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from benchmarks.command import build_parser, run
from benchmarks.figures import Figure, ratio_to_limit, ratio_to_plain
from benchmarks.limits import copy_rate
from benchmarks.plain import dropped
from benchmarks.timing import spreads, time_alternately
from fineclip.losses.contrastive import all_gather_rows


class Rows(NamedTuple):
    """Features of W ranks, padded to the same number of slots, and the number of used slots of each."""

    padded: Sequence[Tensor]
    counts: Sequence[int]


def random_rows(*, processes: int = 8, slots: int = 640, width: int = 512, seed: int = 0) -> Rows:
    """Draw features; half to all of the slots are used, as with 10 to 20 boxes per image."""
    rng = torch.Generator().manual_seed(seed)
    counts = torch.randint(slots // 2, slots + 1, (processes,), generator=rng).tolist()
    padded = []
    for count in counts:
        rows = torch.zeros(slots, width)
        rows[:count] = torch.randn(count, width, generator=rng)
        padded.append(rows)
    return Rows(padded, counts)


@contextmanager
def fake_process_group(processes: int) -> Iterator[None]:
    """Run the block as rank 0 of a fake process group."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    try:
        yield
    finally:
        dist.destroy_process_group()


def official(rows: Rows) -> Callable[[], Tensor]:
    """Pad, gather, insert the local rows, drop zero rows one by one; forward and backward.

    Source: FineCLIP, eva_clip/loss.py `gather_features`.
    """
    own = rows.padded[0][: rows.counts[0]].clone().requires_grad_()

    def run() -> Tensor:
        own.grad = None
        filled = torch.zeros_like(rows.padded[0])
        filled[: len(own)] = own
        everywhere = [each.clone() for each in rows.padded]
        dist.all_gather([torch.empty_like(each) for each in rows.padded], filled.detach())
        everywhere[0] = filled
        together = dropped(torch.cat(everywhere))
        together.sum().backward()
        return together

    return run


def ours(rows: Rows) -> Callable[[], Tensor]:
    """Gather as `contrastive_loss` does, forward and backward; counts are known, so used rows are sliced in blocks."""
    own = rows.padded[0][: rows.counts[0]].clone().requires_grad_()

    def run() -> Tensor:
        own.grad = None
        together = all_gather_rows(own, rows.counts)
        together.sum().backward()
        return together

    return run


def measure(*, repeats: int) -> list[Figure]:
    """Compare ours with the official code and with one copy of the features."""
    rows = random_rows()
    with fake_process_group(len(rows.counts)):
        found = time_alternately({"official": official(rows), "ours": ours(rows)}, repeats=repeats)
    times = {name: each.per(1 / 1000) for name, each in found.items()}
    copied = sum(rows.counts) * rows.padded[0].shape[1] * 4 / copy_rate() * 1000
    title = "gather of 8 x 640 rows, forward and backward"
    return [
        ratio_to_plain(title, "ms", times["official"].least, times["ours"].least, target=4, spread=spreads(times)),
        ratio_to_limit(title, "ms", copied, times["ours"].least, against="one copy of the features"),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    run("gather", build_parser(__doc__, repeats=15), lambda chosen: measure(repeats=chosen.repeats), arguments)


if __name__ == "__main__":
    main()

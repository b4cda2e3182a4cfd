"""CPU-seconds of putting the features of 8 processes together, 640 slots each: row by row, and ours.

    python -m benchmarks.gather

Torch's `fake` process group stands in for the other seven: nothing is sent, for ours as for the official code.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from benchmarks.command import parser_of, run
from benchmarks.figures import Figure, less, of_limit
from benchmarks.limits import copy_rate
from benchmarks.plain import dropped
from benchmarks.timing import alternated, spreads
from fineclip.losses.contrastive import all_gather_rows


class Rows(NamedTuple):
    """What a process has: features of W processes padded to equally many slots, and how many of each are real."""

    padded: Sequence[Tensor]
    counts: Sequence[int]


def made_rows(*, processes: int = 8, slots: int = 640, width: int = 512, seed: int = 0) -> Rows:
    """Half to all of the slots are taken, as with 10 to 20 boxes an image."""
    rng = torch.Generator().manual_seed(seed)
    counts = torch.randint(slots // 2, slots + 1, (processes,), generator=rng).tolist()
    padded = []
    for count in counts:
        rows = torch.zeros(slots, width)
        rows[:count] = torch.randn(count, width, generator=rng)
        padded.append(rows)
    return Rows(padded, counts)


@contextmanager
def pretended(processes: int) -> Iterator[None]:
    """As the first of so many processes."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    try:
        yield
    finally:
        dist.destroy_process_group()


def official(rows: Rows) -> Callable[[], Tensor]:
    """Pad, gather, put the own rows back in, drop rows of zeros one by one, forward and backward.

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
    """As `contrastive_loss` gathers, forward and backward: counts are known, so what is real is cut out in blocks."""
    own = rows.padded[0][: rows.counts[0]].clone().requires_grad_()

    def run() -> Tensor:
        own.grad = None
        together = all_gather_rows(own, rows.counts)
        together.sum().backward()
        return together

    return run


def measured(*, repeats: int) -> list[Figure]:
    """Against the loop, and against copying the features once."""
    rows = made_rows()
    with pretended(len(rows.counts)):
        found = alternated({"official": official(rows), "ours": ours(rows)}, repeats=repeats)
    times = {name: each.per(1 / 1000) for name, each in found.items()}
    copied = sum(rows.counts) * rows.padded[0].shape[1] * 4 / copy_rate() * 1000
    what = "gather of 8 x 640 rows, forward and backward"
    return [
        less(what, "ms", times["official"].least, times["ours"].least, target=4, spread=spreads(times)),
        of_limit(what, "ms", copied, times["ours"].least, against="one copy of the features"),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, show, write."""
    run("gather", parser_of(__doc__, repeats=15), lambda chosen: measured(repeats=chosen.repeats), arguments)


if __name__ == "__main__":
    main()

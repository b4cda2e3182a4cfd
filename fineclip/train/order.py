"""Which samples a step sees: a pure function of the seed, whatever the number of processes and workers.

Samples are numbered through the shards of the selection, in their order there. An epoch permutes the shards, cuts them
into windows of a few, and permutes the samples inside each window, so that reading stays within a few files at a time.
Step s takes the s-th slice of that order, and each process its share of the slice, cut where the method allows it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fineclip.methods.transforms import ImageGroup

Rows = npt.NDArray[np.int64]


class Position(NamedTuple):
    """Where a training stands: so many whole epochs, and so many steps of the next."""

    epoch: int
    step: int


class Visit(NamedTuple):
    """One sample at one epoch; its draws come from both."""

    row: int
    epoch: int


@dataclass(frozen=True)
class Order:
    """The order of a whole training.

    Args:
        shard_sizes: samples of each shard, in the order of the selection.
        batch_size: samples of a step, over all processes.
        shuffle_shards: shards of a window.
    """

    shard_sizes: tuple[int, ...]
    batch_size: int
    seed: int
    shuffle_shards: int

    @property
    def samples(self) -> int:
        """In all."""
        return sum(self.shard_sizes)

    @property
    def images_per_step(self) -> int:
        """Of every step, over all processes; fewer samples than a batch make one step of all of them."""
        return min(self.batch_size, self.samples)

    @property
    def steps_per_epoch(self) -> int:
        """The last incomplete batch is left out."""
        return max(1, self.samples // self.batch_size)

    def position(self, step: int) -> Position:
        """After so many steps since the beginning."""
        return Position(*divmod(step, self.steps_per_epoch))

    def batch(self, step: int) -> list[Visit]:
        """What step number `step` since the beginning sees, over all processes."""
        epoch, within = self.position(step)
        start = within * self.batch_size
        rows = _epoch_order(self.shard_sizes, (self.seed, epoch), self.shuffle_shards)[start : start + self.batch_size]
        return [Visit(int(row), epoch) for row in rows]


@lru_cache(maxsize=2)
def _epoch_order(shard_sizes: tuple[int, ...], seed: tuple[int, int], shuffle_shards: int) -> Rows:
    """Every sample once."""
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *shard_sizes])
    rows_of = [np.arange(start, start + size) for start, size in zip(starts[:-1], shard_sizes, strict=True)]
    shards = rng.permutation(len(shard_sizes))
    windows = [shards[first : first + shuffle_shards] for first in range(0, len(shards), shuffle_shards)]
    order = [rng.permutation(np.concatenate([rows_of[shard] for shard in window])) for window in windows]
    return np.concatenate(order) if order else np.empty(0, dtype=np.int64)


def share(visits: Sequence[Visit], groups: Sequence[ImageGroup], *, rank: int, world_size: int) -> list[Visit]:
    """The contiguous part of one process, of whole groups; each cut is the one that comes nearest to equal costs.

    Of groups of one image and one cost the parts differ by one sample at most. A process may get nothing.
    """
    ends = np.cumsum([0, *(group.images for group in groups)])
    costs = np.cumsum([0.0, *(group.cost for group in groups)])
    cuts = [ends[np.abs(costs - costs[-1] * part / world_size).argmin()] for part in (rank, rank + 1)]
    return list(visits[cuts[0] : cuts[1]])


@dataclass(frozen=True)
class BatchSampler:
    """What a loader of one process goes through: the shares of the steps from `start` up to `stop`.

    `groups` are those of every step, as a method's `groups` gives them; None lets each image lie on any process.
    """

    order: Order
    start: int
    stop: int
    rank: int
    world_size: int
    groups: Sequence[ImageGroup] | None = None

    def __iter__(self) -> Iterator[list[Visit]]:
        groups = self.groups or [ImageGroup(images=1, cost=1)] * self.order.images_per_step
        for step in range(self.start, self.stop):
            yield share(self.order.batch(step), groups, rank=self.rank, world_size=self.world_size)

    def __len__(self) -> int:
        return self.stop - self.start

"""Order of the samples: a pure function of the seed, for any number of ranks and workers.

The samples of a training run are the samples of its shards, numbered from 0 in the order of the selection.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fineclip.methods.transforms import ImageGroup


class SampleRef(NamedTuple):
    """Reference to one sample in one epoch.

    Attributes:
        row: Row of the sample in the concatenated shards, from 0.
        epoch: Epoch, from 0; the random draws of the sample depend on it.
    """

    row: int
    epoch: int


class Position(NamedTuple):
    """Number of complete epochs, and of steps in the epoch after them."""

    epoch: int
    step: int


@dataclass(frozen=True)
class EpochOrder:
    """Order of the samples of a training run, over all ranks.

    Each epoch permutes the shards, cuts them into windows of `shuffle_shards` shards and permutes the samples of each window.
    Reads therefore stay within a few files at a time.

    Args:
        shard_sizes: Samples of each shard, in the order of the selection.
        batch_size: Samples of one step over all ranks.
        seed: Seed of the permutations.
        shuffle_shards: Shards of one window, at least 1.
    """

    shard_sizes: tuple[int, ...]
    batch_size: int
    seed: int
    shuffle_shards: int

    @property
    def samples(self) -> int:
        """Samples of one epoch."""
        return sum(self.shard_sizes)

    @property
    def images_per_step(self) -> int:
        """Images of one step over all ranks: `batch_size`, or all samples if there are fewer."""
        return min(self.batch_size, self.samples)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch, at least 1. An incomplete last batch is left out."""
        return max(1, self.samples // self.batch_size)

    def position(self, step: int) -> Position:
        """Convert the number of finished steps to a position."""
        return Position(*divmod(step, self.steps_per_epoch))

    def batch(self, step: int) -> list[SampleRef]:
        """Return the samples of step `step` (from 0, over all epochs) over all ranks."""
        epoch, within = self.position(step)
        start = within * self.batch_size
        order = _epoch_permutation(self.shard_sizes, (self.seed, epoch), self.shuffle_shards)
        return [SampleRef(int(row), epoch) for row in order[start : start + self.batch_size]]


@lru_cache(maxsize=2)
def _epoch_permutation(
    shard_sizes: tuple[int, ...], seed: tuple[int, int], shuffle_shards: int
) -> npt.NDArray[np.int64]:
    """Return every row once, in the order of one epoch."""
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *shard_sizes])
    rows = [np.arange(start, start + size) for start, size in zip(starts[:-1], shard_sizes, strict=True)]
    shards = rng.permutation(len(shard_sizes))
    windows = [shards[first : first + shuffle_shards] for first in range(0, len(shards), shuffle_shards)]
    order = [rng.permutation(np.concatenate([rows[shard] for shard in window])) for window in windows]
    return np.concatenate(order) if order else np.empty(0, dtype=np.int64)


def split_by_rank(
    samples: Sequence[SampleRef], groups: Sequence[ImageGroup], *, rank: int, world_size: int
) -> list[SampleRef]:
    """Return the contiguous slice of a global batch that one rank processes.

    Slices consist of whole groups. Each boundary is the closest to equal costs; with groups of one image and
    equal cost, slices differ by at most one sample.

    Args:
        samples: Samples of the step over all ranks.
        groups: Consecutive images of the step that must stay on one rank, with their costs.
        rank: Rank, in [0, world_size).
        world_size: Number of ranks.

    Returns:
        Samples of the rank, in order; may be empty.
    """
    ends = np.cumsum([0, *(group.images for group in groups)])
    costs = np.cumsum([0.0, *(group.cost for group in groups)])
    bounds = [ends[np.abs(costs - costs[-1] * part / world_size).argmin()] for part in (rank, rank + 1)]
    return list(samples[bounds[0] : bounds[1]])


@dataclass(frozen=True)
class BatchSampler:
    """Sampler of one rank: its samples of each step in [start, stop).

    Args:
        order: Order over all ranks.
        start: First step.
        stop: End of the steps, exclusive.
        rank: Rank, in [0, world_size).
        world_size: Number of ranks.
        groups: Image groups of every step (`Method.image_groups`); None lets each image be on any rank.
    """

    order: EpochOrder
    start: int
    stop: int
    rank: int
    world_size: int
    groups: Sequence[ImageGroup] | None = None

    def __iter__(self) -> Iterator[list[SampleRef]]:
        groups = self.groups or [ImageGroup(images=1, cost=1)] * self.order.images_per_step
        for step in range(self.start, self.stop):
            yield split_by_rank(self.order.batch(step), groups, rank=self.rank, world_size=self.world_size)

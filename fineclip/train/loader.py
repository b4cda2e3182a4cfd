"""From packed shards to batches: read, decode, prepare, put together.

A worker sees one process's share of a step at a time. What it draws depends on the seed, the epoch and the sample's key
alone, so any number of processes and workers makes the same items. Workers draw pixels into a ring of slots that the
training's process shares with them; what is small comes through the DataLoader's queue.
"""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fineclip.errors import DataError, FineclipError
from fineclip.methods.transforms import TrainingExample, Transform, sample_rng
from fineclip.models.images import UndecodableImage
from fineclip.models.pixels import drawn_on
from fineclip.shards import PieceReader
from fineclip.train.host import Collate, HostBatch, placed
from fineclip.train.order import BatchSampler, Visit
from fineclip.train.ring import SPARE_SLOTS, Lease, Ring, Size, Spot, enough
from fineclip.train.selection import PackedShard
from fineclip.train.workers import ended, quiet_worker, worker_context

__all__ = ["Collate", "HostBatch", "PackedSamples", "batches", "placed"]

log = logging.getLogger(__name__)

PREFETCH = 2  # batches that each worker makes ahead
MEASURED = 32  # samples that tell how large a slot must be


@dataclass
class PackedSamples(Dataset[TrainingExample]):
    """Samples by their number through the shards; picklable, so that any kind of worker can have it."""

    shards: Sequence[PackedShard]
    prepare: Transform
    seed: int
    _starts: np.ndarray = field(init=False, repr=False)
    _reader: PieceReader | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._starts = np.cumsum([0, *map(len, self.shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None}  # open files cannot be sent

    def __getitems__(self, visits: Sequence[Visit]) -> list[TrainingExample] | FineclipError:
        """A share of a step. What goes wrong is returned, because a worker's exception would lose its message."""
        try:
            return [self.item(visit) for visit in visits]
        except FineclipError as error:
            return error

    def measured(self, most: int) -> list[Size]:
        """Bytes of the pixels of some samples, from all over the shards; those that cannot be read are left out."""
        sizes = []
        for row in np.linspace(0, len(self) - 1, min(most, len(self))).astype(int).tolist():
            try:
                item = self.item(Visit(row, epoch=0))
            except FineclipError:
                continue
            sizes.append(Size(item.image.nbytes, 0 if item.crops is None else item.crops.nbytes))
        return sizes

    def item(self, visit: Visit) -> TrainingExample:
        """One sample at one epoch.

        Raises:
            DataError: its bytes are no image.
            ShardError: its tar is gone, cut, or not the one of its index.
        """
        number = int(np.searchsorted(self._starts, visit.row, side="right")) - 1
        shard, index = self.shards[number], visit.row - int(self._starts[number])
        self._reader = self._reader or PieceReader(wholly=True)
        sample = shard.read(index, self._reader)
        try:
            return self.prepare(sample, sample_rng(self.seed, visit.epoch, sample.key))
        except UndecodableImage as error:
            raise DataError(
                f"{shard.tar}: sample {sample.key} {error}. It was an image when it was packed: delete"
                f" {shard.tar.with_suffix('.json')} and run again."
            ) from None


def batches(
    samples: PackedSamples, collate: Collate, sampler: BatchSampler, *, workers: int, pin: bool
) -> Iterator[HostBatch]:
    """The batches of a process, in the order of the sampler.

    `workers` processes read and decode; 0 does it here. `pin` makes the copies to a GPU asynchronous. The pixels of a batch
    are gone when the next but one is asked for: `placed` copies them.

    Raises:
        DataError: a sample is no image.
        ShardError: a tar is gone, cut, or not the one of its index.
    """
    ring = _ring(samples, sampler, workers=workers) if workers else None
    if ring is not None and pin:
        ring.pin()
    try:
        yield from _made(_Making(samples, collate, ring), sampler, workers=workers, pin=pin)
    finally:
        if ring is not None:
            ring.close()


def _ring(samples: PackedSamples, sampler: BatchSampler, *, workers: int) -> Ring | None:
    """Of slots that hardly any batch is too large for; None where batches have no pixels."""
    images = len(next(iter(sampler), ()))
    measured = samples.measured(MEASURED)
    if not images or not measured:
        return None
    ring = Ring(workers * PREFETCH + SPARE_SLOTS, enough(measured, images))
    log.debug("the loader has %d slots of %.1f MB", ring.slots, ring.slot_bytes / 1e6)
    return ring


class _Request(NamedTuple):
    """A share of a step, and its number among those of a loader."""

    number: int
    visits: Sequence[Visit]


@dataclass(frozen=True)
class _Numbered:
    """The shares of a sampler, numbered."""

    sampler: BatchSampler

    def __iter__(self) -> Iterator[Any]:
        return (_Request(number, visits) for number, visits in enumerate(self.sampler))

    def __len__(self) -> int:
        return len(self.sampler)


@dataclass
class _Making(Dataset[TrainingExample]):
    """What a worker does: from a share of a step to its batch, packed for the queue."""

    samples: PackedSamples
    collate: Collate
    ring: Ring | None

    def __getitems__(self, request: _Request) -> "_Packed | HostBatch | FineclipError":
        """One batch. What goes wrong is returned, because a worker's exception would lose its message."""
        if self.ring is None:
            return self.collate(self.samples.__getitems__(request.visits))
        canvas = self.ring.canvas(request.number)
        with drawn_on(canvas):
            outcome = self.samples.__getitems__(request.visits)
        batch = self.collate(outcome, canvas)
        return batch if isinstance(batch, FineclipError) else _packed(batch, self.ring)


class _Packed(NamedTuple):
    """The fields of a batch, by name. Small ones are arrays: tensors would each take a piece of shared memory of their own.

    Attributes:
        pixels: where they lie in the ring, or, where they did not fit, themselves.
    """

    arrays: dict[str, np.ndarray]
    pixels: dict[str, Spot | Tensor]
    others: dict[str, Any]


def _packed(batch: HostBatch, ring: Ring) -> _Packed:
    tensors, others = batch.tensors, batch._asdict()
    packed = _Packed({}, {}, {name: value for name, value in others.items() if name not in tensors})
    for name, tensor in tensors.items():
        if name in {"images", "crops"}:
            packed.pixels[name] = ring.spot(tensor) or tensor
        else:
            packed.arrays[name] = tensor.numpy()
    return packed


def _unpacked(packed: _Packed, ring: Ring, lease: Lease) -> HostBatch:
    fields = dict(packed.others, lease=lease)
    fields |= {name: torch.from_numpy(array) for name, array in packed.arrays.items()}
    fields |= {name: ring.tensor(at) if isinstance(at, Spot) else at for name, at in packed.pixels.items()}
    return HostBatch(**fields)


def _made(making: _Making, sampler: BatchSampler, *, workers: int, pin: bool) -> Iterator[HostBatch]:
    loader = DataLoader(
        making,
        batch_sampler=_Numbered(sampler),
        collate_fn=_as_it_is,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        multiprocessing_context=worker_context(preload=__name__) if workers else None,
        worker_init_fn=quiet_worker if workers else None,
    )
    leases, too_large = deque[Lease](), 0
    with ended(iter(loader)) as stream:
        while True:
            if len(leases) == SPARE_SLOTS:
                leases.popleft().wait()
            outcome = next(stream, None)
            if outcome is None:
                break
            if isinstance(outcome, FineclipError):
                raise outcome
            if isinstance(outcome, _Packed) and making.ring is not None:
                too_large += _is_too_large(outcome, making.ring, said=too_large > 0)
                leases.append(Lease())
                outcome = _unpacked(outcome, making.ring, leases[-1])
            yield _pinned(outcome) if pin else outcome
    if too_large:
        log.info("%d of %d batches were too large for their slot", too_large, len(sampler))


def _is_too_large(packed: _Packed, ring: Ring, *, said: bool) -> bool:
    """Of a batch whose pixels did not fit their slot: that is said once."""
    outside = [value.nbytes for value in packed.pixels.values() if isinstance(value, Tensor) and value.numel()]
    if outside and not said:
        log.info(
            "a batch has %.1f MB of pixels that do not fit the loader's slot of %.1f MB: it comes another way, with a copy"
            " more",
            sum(outside) / 1e6,
            ring.slot_bytes / 1e6,
        )
    return bool(outside)


def _pinned(batch: HostBatch) -> HostBatch:
    """Copies to a GPU need not wait for the host then; pixels in the ring are already."""
    pinned = {name: value.pin_memory() for name, value in batch.tensors.items() if not value.is_pinned()}
    return HostBatch(**(batch._asdict() | pinned))


def _as_it_is(outcome: Any) -> Any:
    return outcome

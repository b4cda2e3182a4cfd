"""From packed shards to batches: read, decode, prepare, put together. Regions are packed, never padded.

Legend: B images and R regions of this process, N texts of L tokens.

A worker sees one process's share of a step at a time. What it draws depends on the seed, the epoch and the sample's key
alone, so any number of processes and workers makes the same items.
"""

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fineclip.errors import DataError, FineclipError
from fineclip.methods.items import Inputs, Item, Prepare, generator
from fineclip.models.images import UndecodableImage, normalise
from fineclip.models.tokenizer import cut_after_ends
from fineclip.shards import PieceReader
from fineclip.train.order import BatchSampler, Visit
from fineclip.train.selection import PackedShard
from fineclip.train.signals import unheard
from fineclip.types import Batch, Counts

PREFETCH = 4  # batches that each worker makes ahead


class HostBatch(NamedTuple):
    """A batch as it comes from a worker: pixels are uint8, a quarter of the bytes to move."""

    keys: tuple[str, ...]
    images: Tensor
    texts: Tensor | None
    boxes: Tensor | None
    box_to_image: Tensor | None
    region_texts: Tensor | None
    region_labels: Tensor | None
    crops: Tensor | None

    @property
    def regions(self) -> int:
        """R."""
        return 0 if self.boxes is None else len(self.boxes)


@dataclass(frozen=True)
class Collate:
    """Puts items together. `inputs` gives the shapes of a batch that has none."""

    inputs: Inputs

    def __call__(self, outcome: Sequence[Item] | FineclipError) -> HostBatch | FineclipError:
        """A batch of any number of items, also none."""
        if isinstance(outcome, FineclipError):
            return outcome
        empty = self._empty()
        items = list(outcome)
        per_image = [0 if item.boxes is None else len(item.boxes) for item in items]
        return HostBatch(
            keys=tuple(item.key for item in items),
            images=torch.stack([item.image for item in items]) if items else empty.image[None][:0],
            texts=_cut(_joined([None if item.text is None else item.text[None] for item in items], empty.text)),
            boxes=_joined([item.boxes for item in items], empty.boxes),
            box_to_image=torch.repeat_interleave(torch.arange(len(items)), torch.tensor(per_image, dtype=torch.int64)),
            region_texts=_cut(_joined([item.region_texts for item in items], empty.region_texts)),
            region_labels=_joined([item.region_labels for item in items], empty.region_labels),
            crops=_joined([item.crops for item in items], empty.crops),
        )

    def _empty(self) -> Item:
        size, crop_size = self.inputs.image_size, self.inputs.crop_size
        texts = self.inputs.tokenize([])
        pixels = torch.empty(0, 3, crop_size, crop_size, dtype=torch.uint8)
        image = torch.empty(3, size, size, dtype=torch.uint8)
        labels = torch.empty(0, dtype=torch.int64)
        boxes = torch.empty(0, 4)
        return Item("", image, text=texts, boxes=boxes, region_texts=texts, region_labels=labels, crops=pixels)


def _joined(parts: Sequence[Tensor | None], empty: Tensor | None) -> Tensor | None:
    """One after another; `empty` where there is no item to tell whether the method asks for the field."""
    if not parts:
        return empty
    return None if any(part is None for part in parts) else torch.cat([part for part in parts if part is not None])


def _cut(tokens_NL: Tensor | None) -> Tensor | None:
    """As long as the longest of the texts; a copy, because a worker sends all the memory that a view stands in."""
    return None if tokens_NL is None else cut_after_ends(tokens_NL).contiguous()


def placed(host: HostBatch, counts: Counts, device: torch.device, *, seed: int) -> Batch:
    """The batch on its device, pixels normalised; `seed` is that of the step."""
    moved = {
        name: value.to(device, non_blocking=True) for name, value in host._asdict().items() if isinstance(value, Tensor)
    }
    crops = moved.get("crops")
    return Batch(
        keys=host.keys,
        counts=counts,
        images=normalise(moved["images"]),
        texts=moved.get("texts"),
        boxes=moved.get("boxes"),
        box_to_image=moved.get("box_to_image"),
        region_texts=moved.get("region_texts"),
        region_labels=moved.get("region_labels"),
        seed=seed,
        crops=None if crops is None else normalise(crops),
    )


@dataclass
class PackedSamples(Dataset[Item]):
    """Samples by their number through the shards; picklable, so that any kind of worker can have it."""

    shards: Sequence[PackedShard]
    prepare: Prepare
    seed: int
    _starts: np.ndarray = field(init=False, repr=False)
    _reader: PieceReader | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._starts = np.cumsum([0, *map(len, self.shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None}  # open files cannot be sent

    def __getitems__(self, visits: Sequence[Visit]) -> list[Item] | FineclipError:
        """A share of a step. What goes wrong is returned, because a worker's exception would lose its message."""
        try:
            return [self.item(visit) for visit in visits]
        except FineclipError as error:
            return error

    def item(self, visit: Visit) -> Item:
        """One sample at one epoch.

        Raises:
            DataError: its bytes are no image.
            ShardError: its tar is gone, cut, or not the one of its index.
        """
        number = int(np.searchsorted(self._starts, visit.row, side="right")) - 1
        shard, index = self.shards[number], visit.row - int(self._starts[number])
        self._reader = self._reader or PieceReader()
        sample = shard.read(index, self._reader)
        try:
            return self.prepare(sample, generator(self.seed, visit.epoch, sample.key))
        except UndecodableImage as error:
            raise DataError(
                f"{shard.tar}: sample {sample.key} {error}. It was an image when it was packed: delete"
                f" {shard.tar.with_suffix('.json')} and run again."
            ) from None


def batches(
    samples: PackedSamples, collate: Collate, sampler: BatchSampler, *, workers: int, pin: bool
) -> Iterator[HostBatch]:
    """The batches of a process, in the order of the sampler.

    `workers` processes read and decode; 0 does it here. `pin` makes the copies to a GPU asynchronous.

    Raises:
        DataError: a sample is no image.
        ShardError: a tar is gone, cut, or not the one of its index.
    """
    loader = DataLoader(
        samples,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        multiprocessing_context=_worker_context() if workers else None,
        worker_init_fn=_quiet_worker if workers else None,
        pin_memory=pin,
    )
    for outcome in loader:
        if isinstance(outcome, FineclipError):
            raise outcome
        yield outcome


def _worker_context() -> BaseContext:
    """Workers are forked from a server that has imported what they need and nothing else.

    A fork of the training itself would copy its threads, locks and open files; a new interpreter for each worker would
    hold its own copy of every library. The signals that ask a training to stop reach its whole group: server and workers
    do not hear them, and the training itself tells them when to end.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with unheard(signal.SIGTERM):
        forkserver.ensure_running()
    return context


def _quiet_worker(_: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

"""Data path of a training run, from sample references to a batch on the device.

    BatchSampler -> PackedDataset -> Collate -> to_device
    [SampleRef]     [TrainingExample] CPUBatch  Batch

The batch of a step is a function of (seed, step), and the random draws of a sample are a function of (seed, epoch, key).
So a resumed run sees the batches of an uninterrupted one, and examples do not depend on the number of ranks and workers.

Legend: B images and R regions of this rank, r regions of one image, N texts of L tokens or D numbers, S side of an image and
s side of a crop in pixels.
"""

import atexit
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from fineclip.errors import DataError, FineclipError
from fineclip.methods.transforms import DataSpec, TrainingExample, Transform, sample_rng
from fineclip.models.pixels import CropPlan, crop_on_device, stack_squares
from fineclip.models.tokenizer import trim_padding
from fineclip.shards import ByteRangeReader
from fineclip.shards.images import UndecodableImage
from fineclip.system_errors import SHARED_MEMORY, explain, refusal
from fineclip.train.sampler import BatchSampler, SampleRef
from fineclip.train.selection import PackedShard
from fineclip.types import Batch, Counts


@dataclass
class PackedDataset(Dataset[TrainingExample]):
    """Training examples of packed shards, indexed by `SampleRef`. Can be pickled.

    Args:
        shards: Shards, in the order of the selection.
        transform: Turns a sample and its random generator into an example.
        seed: Seed of the draws.
    """

    shards: Sequence[PackedShard]
    transform: Transform
    seed: int
    _starts: npt.NDArray[np.int64] = field(init=False, repr=False)
    _reader: ByteRangeReader | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._starts = np.cumsum([0, *map(len, self.shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None}  # open files cannot be pickled

    def __getitem__(self, sample: SampleRef) -> TrainingExample:
        """Read, decode and transform one sample.

        Args:
            sample: Row in the concatenated shards, and epoch.

        Returns:
            Example; equal references give equal examples.

        Raises:
            DataError: The image cannot be decoded.
            ShardError: The tar is missing, truncated, or does not match its index.
        """
        number = int(np.searchsorted(self._starts, sample.row, side="right")) - 1
        shard, within = self.shards[number], sample.row - int(self._starts[number])
        self._reader = self._reader or ByteRangeReader(read_ahead=True)
        packed = shard.read(within, self._reader)
        try:
            return self.transform(packed, sample_rng(self.seed, sample.epoch, packed.key))
        except UndecodableImage as error:
            raise DataError(
                f"{shard.tar}: sample {packed.key} {error}. It was decodable when it was packed: delete"
                f" {shard.tar.with_suffix('.json')} and run again."
            ) from None

    def __getitems__(self, samples: Sequence[SampleRef]) -> list[TrainingExample] | FineclipError:
        """Return the examples of one batch, or the error: `DataLoader` changes the message of an error that a worker raises."""
        try:
            return [self[sample] for sample in samples]
        except FineclipError as error:
            return error
        except OSError as error:
            refused = refusal(error)
            if refused is None:
                raise
            return refused


@dataclass(frozen=True)
class CPUBatch:
    """Batch of one rank in host memory. Regions of all images are concatenated, without padding.

    A field that the method does not use is None. Equal texts of a batch are stored once, in the order of their first use.

    Attributes:
        keys: Keys of the B images.
        images: (B, 3, S, S) uint8, or, with `crop_plans`, (n,) uint8: all decoded images one after another.
        texts: (N, L) int64 tokens or (N, D) float32 embeddings.
        text_rows: (B,) int64, row of `texts` of each image.
        boxes: (R, 4) float32, x1 y1 x2 y2 as fractions of the image square.
        box_to_image: (R,) int64, ascending.
        region_texts: (N, L) or (N, D).
        region_text_rows: (R,) int64, row of `region_texts` of each region.
        region_labels: (R,) int64.
        crops: (R, 3, s, s) uint8.
        crop_plans: One for each image if the device resizes and crops.
    """

    keys: tuple[str, ...]
    images: Tensor
    texts: Tensor | None
    text_rows: Tensor | None
    boxes: Tensor | None
    box_to_image: Tensor | None
    region_texts: Tensor | None
    region_text_rows: Tensor | None
    region_labels: Tensor | None
    crops: Tensor | None
    crop_plans: tuple[CropPlan, ...] | None = None

    @property
    def regions(self) -> int:
        """Number of regions, R."""
        return 0 if self.boxes is None else len(self.boxes)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Fields that are copied to the device, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def pin_memory(self) -> "CPUBatch":
        """Copy all tensors to pinned memory. `DataLoader` calls it."""
        pinned: dict[str, Any] = {name: value.pin_memory() for name, value in self.tensors.items()}
        return replace(self, **pinned)


@dataclass(frozen=True)
class Collate:
    """Concatenate examples to a batch.

    Args:
        data_spec: Sizes of images, crops and texts; they give the shapes of an empty batch.
    """

    data_spec: DataSpec

    def __call__(self, examples: Sequence[TrainingExample] | FineclipError) -> CPUBatch | FineclipError:
        """Collate any number of examples, also none. An error is returned unchanged, a refusal of the system as an error."""
        if isinstance(examples, FineclipError):
            return examples
        try:
            return self._shared(examples) if get_worker_info() else self._collated(examples)
        except (OSError, RuntimeError) as error:
            refused = refusal(error, SHARED_MEMORY, doing="has no room for the batches of loader workers")
            if refused is None:
                raise
            return refused

    def _shared(self, examples: Sequence[TrainingExample]) -> CPUBatch:
        """Collate in shared memory. A worker would else move the batch in a thread, whose errors are lost."""
        batch = self._collated(examples)
        for tensor in batch.tensors.values():
            tensor.share_memory_()  # type: ignore[no-untyped-call]
        return batch

    def _collated(self, examples: Sequence[TrainingExample]) -> CPUBatch:
        empty = self._empty_example()
        crop_plans = tuple(example.crop_plan for example in examples if example.crop_plan is not None) or None
        regions = torch.tensor(
            [0 if example.boxes is None else len(example.boxes) for example in examples], dtype=torch.int64
        )
        texts = _concatenate([None if example.text is None else example.text[None] for example in examples], empty.text)
        region_texts = _concatenate([example.region_texts for example in examples], empty.region_texts)
        unique_texts, text_rows = _unique_texts(texts)
        unique_region_texts, region_text_rows = _unique_texts(region_texts)
        return CPUBatch(
            keys=tuple(example.key for example in examples),
            images=stack_squares([example.image for example in examples], self.data_spec.image_size)
            if crop_plans is None
            else torch.cat([example.image.permute(1, 2, 0).reshape(-1) for example in examples]),
            texts=unique_texts,
            text_rows=text_rows,
            boxes=_concatenate([example.boxes for example in examples], empty.boxes),
            box_to_image=torch.repeat_interleave(torch.arange(len(examples)), regions),
            region_texts=unique_region_texts,
            region_text_rows=region_text_rows,
            region_labels=_concatenate([example.region_labels for example in examples], empty.region_labels),
            crops=None
            if any(example.crops is None for example in examples)
            else stack_squares(
                [crop for example in examples for crop in example.crops or ()], self.data_spec.crop_size
            ),
            crop_plans=crop_plans,
        )

    def _empty_example(self) -> TrainingExample:
        size = self.data_spec.image_size
        texts = self.data_spec.texts("", [])
        return TrainingExample(
            "",
            torch.empty(0, 3, size, size, dtype=torch.uint8),
            text=texts,
            boxes=torch.empty(0, 4),
            region_texts=texts,
            region_labels=torch.empty(0, dtype=torch.int64),
        )


def _concatenate(parts: Sequence[Tensor | None], empty: Tensor | None) -> Tensor | None:
    """Concatenate along the first dimension; None if a part is None, `empty` if there is no part."""
    if not parts:
        return empty
    return None if any(part is None for part in parts) else torch.cat([part for part in parts if part is not None])


def _unique_texts(texts: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Return the different rows of `texts` in the order of their first use, and for each row its index among them.

    Tokens are cut after the end of the longest text. The result is a copy, because a worker sends the whole storage of a view.
    """
    if texts is None:
        return None, None
    numbers: dict[bytes, int] = {}
    rows = [numbers.setdefault(row.tobytes(), len(numbers)) for row in texts.numpy()]
    unique = texts[np.unique(rows, return_index=True)[1]]
    shortened = unique if texts.is_floating_point() else trim_padding(unique).contiguous()
    return shortened, torch.tensor(rows, dtype=torch.int64)


def build_batches(
    dataset: PackedDataset, collate: Collate, sampler: BatchSampler, *, workers: int, pin_memory: bool
) -> Iterator[CPUBatch]:
    """Yield the batches of one rank in the order of the sampler.

    Args:
        dataset: Source of the examples.
        collate: Builds a batch of them.
        sampler: Samples of each step.
        workers: Processes that read and decode; 0 does both in this process.
        pin_memory: Copy batches to pinned memory, so that copies to a GPU are asynchronous.

    Yields:
        One batch per step of the sampler.

    Raises:
        DataError: An image cannot be decoded.
        ShardError: A tar is missing, truncated, or does not match its index.
        SystemRefusalError: The system refuses shared memory or files to the workers.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_init_worker,
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,  # starts without imports
    )
    iterator = iter(loader)
    # The iterator's own __del__ calls this method; it is absent if there are no workers.
    end_workers = getattr(iterator, "_shutdown_workers", lambda: None)
    # At exit, Python sends SIGTERM to the workers and joins them. They ignore it, so they must end before.
    atexit.register(end_workers)
    try:
        while (batch := _next_of(iterator)) is not None:
            if isinstance(batch, FineclipError):
                raise batch
            yield batch
    finally:
        atexit.unregister(end_workers)
        end_workers()


def _next_of(iterator: Iterator[CPUBatch | FineclipError]) -> CPUBatch | FineclipError | None:
    """Return the next batch, an error that a user can act on, or None at the end."""
    try:
        return next(iterator, None)
    except (OSError, RuntimeError) as error:
        explained = explain(error)
        if explained is None:
            raise
        return explained


def _init_worker(_: int) -> None:
    """Ignore SIGTERM and SIGINT, and exit when the training process dies.

    Both signals reach all processes of a job. The training process stops after the current step, and needs its
    workers until that step ends.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Wait for the end of the parent process, so that a worker does not keep the lock of the run for some seconds longer."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def to_device(batch: CPUBatch, counts: Counts, device: torch.device, *, seed: int) -> Batch:
    """Copy a batch to the device, and resize and crop there if the workers have not.

    Args:
        batch: Batch of this rank.
        counts: Rows of all ranks.
        device: Device of this rank.
        seed: Seed of the step, equal on all ranks.

    Returns:
        Batch with images (B, 3, S, S) and crops (R, 3, s, s), uint8.
    """
    moved: dict[str, Any] = {name: value.to(device, non_blocking=True) for name, value in batch.tensors.items()}
    images, crops = moved.pop("images"), moved.pop("crops", None)
    if batch.crop_plans is not None:
        images, crops = crop_on_device(images, batch.crop_plans)
    per_image = None
    if batch.box_to_image is not None:
        per_image = tuple(torch.bincount(batch.box_to_image, minlength=len(batch.keys)).tolist())
    return Batch(
        keys=batch.keys, counts=counts, images=images, crops=crops, seed=seed, regions_per_image=per_image, **moved
    )

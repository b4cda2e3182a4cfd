"""Batches on the host: put together of items, and placed on a device. Regions are packed, never padded.

Legend: B images and R regions of this process, N texts of L tokens or D numbers, S side of an image, s of a crop.

Of the texts of a batch each is kept once, in the order in which they come first, with a row for each image or region: a
text that many share is sent and encoded once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fineclip.errors import FineclipError
from fineclip.methods.transforms import DataSpec, TrainingExample
from fineclip.models.cuts import Cuts, cut
from fineclip.models.pixels import Arena, Canvas
from fineclip.models.tokenizer import cut_after_ends
from fineclip.train.ring import Lease
from fineclip.types import Batch, Counts


class HostBatch(NamedTuple):
    """A batch as it comes from a worker: pixels are uint8, a quarter of the bytes to move.

    images (B, 3, S, S) and crops (R, 3, s, s), colour innermost in memory; with `cuts`, one for each image, images are the
    bytes of all pictures, one after another, and there are no crops yet. With a `lease` pixels lie in a ring of slots:
    they are gone when the next batch but one is asked for.
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
    cuts: tuple[Cuts, ...] | None = None
    lease: Lease | None = None

    @property
    def regions(self) -> int:
        """R."""
        return 0 if self.boxes is None else len(self.boxes)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All there are, by name: what goes to the device."""
        return {name: value for name, value in self._asdict().items() if isinstance(value, Tensor)}

    @property
    def bytes_to_device(self) -> int:
        """Of all tensors."""
        return sum(value.nbytes for value in self.tensors.values())


@dataclass(frozen=True)
class Collate:
    """Puts items together. `inputs` gives the shapes of a batch that has none."""

    inputs: DataSpec

    def __call__(
        self, outcome: Sequence[TrainingExample] | FineclipError, canvas: Canvas | None = None
    ) -> HostBatch | FineclipError:
        """A batch of any number of items, also none; pixels that were all drawn on `canvas` stay there."""
        if isinstance(outcome, FineclipError):
            return outcome
        items, empty, canvas = list(outcome), self._empty(), canvas or Canvas(Arena(), Arena())
        cuts = tuple(item.cuts for item in items if item.cuts is not None) or None
        per_image = torch.tensor([0 if item.boxes is None else len(item.boxes) for item in items], dtype=torch.int64)
        texts, text_rows = _once(
            _joined([None if item.text is None else item.text[None] for item in items], empty.text)
        )
        region_texts, region_text_rows = _once(_joined([item.region_texts for item in items], empty.region_texts))
        images = [item.image if cuts else item.image[None] for item in items]
        return HostBatch(
            keys=tuple(item.key for item in items),
            images=_together(images, canvas.images, flat=cuts is not None) if items else empty.image[None][:0],
            texts=texts,
            text_rows=text_rows,
            boxes=_joined([item.boxes for item in items], empty.boxes),
            box_to_image=torch.repeat_interleave(torch.arange(len(items)), per_image),
            region_texts=region_texts,
            region_text_rows=region_text_rows,
            region_labels=_joined([item.region_labels for item in items], empty.region_labels),
            crops=_crops([item.crops for item in items], canvas.crops) if items else empty.crops,
            cuts=cuts,
        )

    def _empty(self) -> TrainingExample:
        size, crop_size = self.inputs.image_size, self.inputs.crop_size
        texts = self.inputs.texts("", [])
        pixels = torch.empty(0, 3, crop_size, crop_size, dtype=torch.uint8)
        image = torch.empty(3, size, size, dtype=torch.uint8)
        labels = torch.empty(0, dtype=torch.int64)
        boxes = torch.empty(0, 4)
        return TrainingExample(
            "", image, text=texts, boxes=boxes, region_texts=texts, region_labels=labels, crops=pixels
        )


def _joined(parts: Sequence[Tensor | None], empty: Tensor | None) -> Tensor | None:
    """One after another; `empty` where there is no item to tell whether the method asks for the field."""
    if not parts:
        return empty
    return None if any(part is None for part in parts) else torch.cat([part for part in parts if part is not None])


def _crops(parts: Sequence[Tensor | None], arena: Arena) -> Tensor | None:
    given = [part for part in parts if part is not None]
    return _together(given, arena) if len(given) == len(parts) else None


def _together(parts: Sequence[Tensor], arena: Arena, *, flat: bool = False) -> Tensor:
    """Pixels one after another, colour innermost, without a copy if they are all that the arena holds.

    Args:
        parts: (n, 3, S, S) each, or (3, H, W).
        arena: where they may lie.
        flat: give their bytes alone, of any sizes.
    """
    last = [part.movedim(-3, -1) for part in parts]
    content = arena.content
    if content is None or len(content) != sum(part.numel() for part in parts):
        content = torch.cat([part.reshape(-1) for part in last])
    return content if flat else content.view(-1, *last[0].shape[1:]).permute(0, 3, 1, 2)


def _once(texts: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Each text once, in the order in which they come first, and (N,) which of them each row is.

    Tokens are cut after the longest; a copy, because a worker sends all the memory that a view stands in.
    """
    if texts is None:
        return None, None
    numbers: dict[bytes, int] = {}
    rows = [numbers.setdefault(row.tobytes(), len(numbers)) for row in texts.numpy()]
    first = {row: place for place, row in reversed(list(enumerate(rows)))}
    kept = texts[[first[number] for number in range(len(numbers))]]
    shortest = kept if texts.is_floating_point() else cut_after_ends(kept).contiguous()
    return shortest, torch.tensor(rows, dtype=torch.int64)


def placed(host: HostBatch, counts: Counts, device: torch.device, *, seed: int) -> Batch:
    """The batch on its device, pixels cut where that is left to it, as 8-bit pixels; `seed` is that of the step."""
    moved: dict[str, Any] = {name: value.to(device, non_blocking=True) for name, value in host.tensors.items()}
    if host.lease is not None:
        host.lease.copied(device)
    images, crops = moved.pop("images"), moved.pop("crops", None)
    if host.cuts is not None:
        images, crops = cut(images, host.cuts)
    return Batch(
        keys=host.keys,
        counts=counts,
        images=images,
        crops=crops,
        seed=seed,
        regions_per_image=None
        if host.box_to_image is None
        else tuple(torch.bincount(host.box_to_image, minlength=len(host.keys)).tolist()),
        **moved,
    )

"""A CLIP of a few thousand weights, and batches for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from torch import Tensor

from fineclip.models.encoder import RegionEncoder
from fineclip.types import Batch, Counts

VOCABULARY, CONTEXT = 64, 8
IMAGE_PX, CROP_PX = 16, 8
ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": IMAGE_PX, "patch_size": 4, "layers": 2, "width": 16, "head_width": 8},
    "text_cfg": {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": 16, "heads": 2, "layers": 1},
}


def tiny_encoder(seed: int = 0, dtype: torch.dtype = torch.float64) -> RegionEncoder:
    """The same weights for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return RegionEncoder(open_clip.CLIP(**ARCHITECTURE)).to(dtype)


@dataclass(frozen=True)
class TinyTokenizer:
    """A token for each letter; the end token is the largest."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        tokens = torch.zeros(len(texts), CONTEXT, dtype=torch.int64)
        for row, text in zip(tokens, texts, strict=True):
            letters = [1 + ord(letter) % (VOCABULARY - 2) for letter in text[: CONTEXT - 1]]
            row[: len(letters) + 1] = torch.tensor([*letters, VOCABULARY - 1])
        return tokens


def batch_of(regions_per_image: Sequence[int], *, seed: int = 0) -> Batch:
    """Random pixels, texts and boxes in float64; one process."""
    rng = torch.Generator().manual_seed(seed)
    images, regions = len(regions_per_image), sum(regions_per_image)
    corners = torch.rand(regions, 2, 2, generator=rng, dtype=torch.float64).sort(dim=1).values.reshape(regions, 4)
    return Batch(
        keys=tuple(map(str, range(images))),
        counts=Counts([images], [regions]),
        images=torch.randn(images, 3, IMAGE_PX, IMAGE_PX, generator=rng, dtype=torch.float64),
        texts=texts(images, rng),
        boxes=corners * 0.8 + torch.tensor([0.0, 0.0, 0.2, 0.2], dtype=torch.float64),
        box_to_image=torch.repeat_interleave(torch.arange(images), torch.tensor(regions_per_image, dtype=torch.int64)),
        region_texts=texts(regions, rng),
        crops=torch.randn(regions, 3, CROP_PX, CROP_PX, generator=rng, dtype=torch.float64),
    )


def texts(count: int, rng: torch.Generator) -> Tensor:
    """Random letters, then the end token."""
    tokens = torch.randint(1, VOCABULARY - 1, (count, CONTEXT), generator=rng)
    tokens[:, -1] = VOCABULARY - 1
    return tokens


def part_of(batch: Batch, images: range, counts: Counts) -> Batch:
    """The share of a process that sees some of the images."""
    assert batch.box_to_image is not None
    own = (batch.box_to_image >= images.start) & (batch.box_to_image < images.stop)
    rows = slice(images.start, images.stop)
    return Batch(
        keys=batch.keys[rows],
        counts=counts,
        images=batch.images[rows],
        texts=batch.texts[rows],
        boxes=batch.boxes[own],
        box_to_image=batch.box_to_image[own] - images.start,
        region_texts=batch.region_texts[own],
        crops=batch.crops[own],
    )


def parts_of(batch: Batch, regions_per_image: Sequence[int], images_per_process: Sequence[int]) -> list[Batch]:
    """The batch, dealt out in order; every part knows the counts of all."""
    ends = [sum(images_per_process[: rank + 1]) for rank in range(len(images_per_process))]
    shares = [range(end - count, end) for end, count in zip(ends, images_per_process, strict=True)]
    counts = Counts(list(images_per_process), [sum(regions_per_image[share.start : share.stop]) for share in shares])
    return [part_of(batch, share, counts) for share in shares]

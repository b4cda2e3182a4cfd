"""From a packed sample to what the encoder takes: one caption, some regions, their crops. Runs in the loader's workers.

Legend: L context length, r regions of one image, S side of the square image, s side of the square crops, in pixels.

What is drawn comes from a generator of (seed, epoch, key) alone: first the caption, then the regions. So two methods see
the same captions and the same regions, whichever process or worker prepares them.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fineclip.types import Box, Region, Sample

Tokenize = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class Inputs:
    """What an encoder takes: texts as (N, L) tokens, square images and crops of so many pixels."""

    tokenize: Tokenize
    image_size: int
    crop_size: int


@dataclass(frozen=True, slots=True)
class Item:
    """One image as one visit of the training sees it. A field that the method does not ask for is None.

    image (3, S, S) uint8; text (L,) int64; boxes (r, 4) fractions of the image, x1 y1 x2 y2; region_texts (r, L);
    crops (r, 3, s, s) uint8.
    """

    key: str
    image: Tensor
    text: Tensor | None = None
    boxes: Tensor | None = None
    region_texts: Tensor | None = None
    crops: Tensor | None = None


Prepare = Callable[[Sample, np.random.Generator], Item]


def generator(seed: int, epoch: int, key: str) -> np.random.Generator:
    """The draws of one visit to one sample."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{key}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def draw_caption(captions: Sequence[str], rng: np.random.Generator) -> str:
    """One of them; the empty text where there is none, which only a filter that lets such images in makes happen."""
    return captions[int(rng.integers(len(captions)))] if captions else ""


def draw_regions(sample: Sample, rng: np.random.Generator, *, at_most: int) -> list[Region]:
    """Captioned regions in stored order, a random subset where there are more than `at_most`.

    Boxes are clipped to the image. A region without a caption has no partner in the regional contrast, one without
    area has no feature: both are left out.
    """
    usable = [
        Region(box, region.score, region.label, region.caption)
        for region in sample.regions
        if (region.caption or "").strip()
        and (box := region.box.clipped(sample.width, sample.height)).width > 0
        and box.height > 0
    ]
    if len(usable) <= at_most:
        return usable
    return [usable[index] for index in sorted(rng.choice(len(usable), at_most, replace=False))]


def fractions(box: Box, sample: Sample) -> tuple[float, float, float, float]:
    """The box in fractions of the image: the same after the image is resized to any shape."""
    return box.x1 / sample.width, box.y1 / sample.height, box.x2 / sample.width, box.y2 / sample.height

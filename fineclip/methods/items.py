"""From a packed sample to what the encoder takes: one caption, some regions, their crops. Runs in the loader's workers.

Legend: L context length, r regions of one image, S side of the square image, s side of the square crops, in pixels.

What is drawn comes from a generator of (seed, epoch, key) alone: first the caption, then the regions. So two methods see
the same captions and the same regions, whichever process or worker prepares them.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from fineclip.models.images import centred, letterbox, letterboxed, squash
from fineclip.types import Box, Region, Sample

Tokenize = Callable[[Sequence[str]], Tensor]
ToSquare = Callable[[Image.Image, int], Tensor]
Fractions = tuple[float, float, float, float]


@dataclass(frozen=True)
class Inputs:
    """What an encoder takes: texts as (N, L) tokens, square images and crops of so many pixels.

    `concepts` are the names that regions are told apart by, in the order of their numbers; only some methods have them.
    """

    tokenize: Tokenize
    image_size: int
    crop_size: int
    concepts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """One image as one visit of the training sees it. A field that the method does not ask for is None.

    image (3, S, S) uint8; text (L,) int64; boxes (r, 4) fractions of the square, x1 y1 x2 y2; region_texts (r, L);
    region_labels (r,) int64; crops (r, 3, s, s) uint8.
    """

    key: str
    image: Tensor
    text: Tensor | None = None
    boxes: Tensor | None = None
    region_texts: Tensor | None = None
    region_labels: Tensor | None = None
    crops: Tensor | None = None


Prepare = Callable[[Sample, np.random.Generator], Item]


def generator(seed: int, epoch: int, key: str) -> np.random.Generator:
    """The draws of one visit to one sample."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{key}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def draw_caption(captions: Sequence[str], rng: np.random.Generator) -> str:
    """One of them; the empty text where there is none, which only a filter that lets such images in makes happen."""
    return captions[int(rng.integers(len(captions)))] if captions else ""


def draw_regions(
    sample: Sample, rng: np.random.Generator, *, at_most: int, usable: Callable[[Region], bool] | None = None
) -> list[Region]:
    """Usable regions in stored order, a random subset where there are more than `at_most`.

    Boxes are clipped to the image; one without area has no feature and is left out. Usable are those with a caption,
    the partner in a regional contrast, unless the method says otherwise.
    """
    is_usable = usable or has_caption
    found = [
        Region(box, region.score, region.label, region.caption)
        for region in sample.regions
        if is_usable(region) and (box := region.box.clipped(sample.width, sample.height)).width > 0 and box.height > 0
    ]
    if len(found) <= at_most:
        return found
    return [found[index] for index in sorted(rng.choice(len(found), at_most, replace=False))]


def has_caption(region: Region) -> bool:
    """Whether the region can find, and be found by, its text."""
    return bool((region.caption or "").strip())


def fractions(box: Box, sample: Sample) -> Fractions:
    """The box in fractions of the image: the same after the image is squashed to any shape."""
    return box.x1 / sample.width, box.y1 / sample.height, box.x2 / sample.width, box.y2 / sample.height


def fractions_of_square(box: Box, sample: Sample, size: int) -> Fractions:
    """The box in fractions of the square of `size` pixels that the image is letterboxed on.

    Source: CLIPSelf, training/data.py: one scale for both axes, the smaller of the two that rounding leaves.
    """
    width, height = letterboxed(sample.width, sample.height, size)
    scale = min(width / sample.width, height / sample.height) / size
    return box.x1 * scale, box.y1 * scale, box.x2 * scale, box.y2 * scale


class Resize(NamedTuple):
    """How images and crops come on their squares of so many pixels, and where a box of the image lies then."""

    image: ToSquare
    crop: ToSquare
    fractions: Callable[[Box, Sample, int], Fractions]


RESIZES: Mapping[str, Resize] = {
    "squash": Resize(squash, squash, lambda box, sample, _: fractions(box, sample)),
    "letterbox": Resize(letterbox, centred, fractions_of_square),
}

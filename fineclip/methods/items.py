"""From a packed sample to what the encoder takes: one caption, some regions, their crops. Runs in the loader's workers.

Legend: L context length, r regions of one image, S side of the square image, s side of the square crops, in pixels.

What is drawn comes from a generator of (seed, epoch, key) alone: first the caption, then the regions. So two methods see
the same captions and the same regions, whichever process or worker prepares them.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from fineclip import boxes
from fineclip.boxes import clip
from fineclip.config import LoaderConfig
from fineclip.methods.texts import CachedTexts
from fineclip.models.device_crops import CropPlan, ResizeTarget
from fineclip.models.images import LETTERBOX, LETTERBOX_CENTERED, SQUASH, ResizeRule
from fineclip.models.pixels import DecodeRequest, Pixels, decode_for_device, resize_and_crop
from fineclip.types import Box, Region, Sample

Tokenize = Callable[[Sequence[str]], Tensor]
Fractions = tuple[float, float, float, float]
T = TypeVar("T")


@dataclass(frozen=True)
class Inputs:
    """What an encoder takes: texts as (N, L) tokens, square images and crops of so many pixels.

    `concepts` are the names that regions are told apart by, in the order of their numbers; only some methods have them.
    `embedded` are the captions' embeddings, where they were made beforehand. `loader` says by which way pixels are made.
    """

    tokenize: Tokenize
    image_size: int
    crop_size: int
    concepts: tuple[str, ...] = ()
    embedded: CachedTexts | None = None
    loader: LoaderConfig = field(default_factory=LoaderConfig)

    def texts(self, key: str, captions: Sequence[str]) -> Tensor:
        """Captions of one sample: (N, L) int64 tokens, or (N, D) float32 embeddings that were made beforehand.

        Raises:
            ShardError: an embedding is not where it should be.
        """
        return self.tokenize(captions) if self.embedded is None else self.embedded(key, captions)

    def pixels(
        self,
        content: bytes,
        resize: "Resize",
        *,
        boxes: Sequence[Box] | None = None,
        part: Box | None = None,
        crop_size: int | None = None,
    ) -> Pixels:
        """A picture on its square and its crops on theirs; or as it is, where the device cuts them.

        Args:
            content: encoded.
            resize: how they come on their squares.
            boxes: of the crops, in pixels of the picture; None where the method has none.
            part: what of the picture comes on its square; None is all.
            crop_size: None takes the encoder's.

        Raises:
            UndecodableImage: it is no image.
        """
        crop = ResizeTarget(resize.crop, crop_size or self.crop_size)
        request = DecodeRequest(ResizeTarget(resize.image, self.image_size), crop, boxes, part)
        if self.loader.crops == "device":
            return decode_for_device(content, request)
        return resize_and_crop(content, request, pillow=self.loader.resample == "pillow")


@dataclass(frozen=True, slots=True)
class Item:
    """One image as one visit of the training sees it. A field that the method does not ask for is None.

    image (3, S, S) uint8; text (L,) int64, or an embedding (D,); boxes (r, 4) fractions of the square, x1 y1 x2 y2;
    region_texts (r, L), or (r, D); region_labels (r,) int64; crops (r, 3, s, s) uint8. With `cuts` the image is (3, H, W), as
    decoded, and the device makes of it what they say.
    """

    key: str
    image: Tensor
    text: Tensor | None = None
    boxes: Tensor | None = None
    region_texts: Tensor | None = None
    region_labels: Tensor | None = None
    crops: Tensor | None = None
    cuts: CropPlan | None = None


Prepare = Callable[[Sample, np.random.Generator], Item]


class Group(NamedTuple):
    """Consecutive images of a step that one process must see together.

    Attributes:
        images: how many.
        cost: of the arithmetic for them, more than 0, in any unit that all groups of a step share.
    """

    images: int
    cost: float


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
        if is_usable(region) and (box := clip(region.box, sample.width, sample.height)).width > 0 and box.height > 0
    ]
    return draw_subset(found, rng, at_most=at_most)


def draw_subset(found: Sequence[T], rng: np.random.Generator, *, at_most: int) -> list[T]:
    """All in their order, or a random subset where there are more than `at_most`."""
    if len(found) <= at_most:
        return list(found)
    return [found[index] for index in sorted(rng.choice(len(found), at_most, replace=False))]


def has_caption(region: Region) -> bool:
    """Whether the region can find, and be found by, its text."""
    return bool((region.caption or "").strip())


def grid_boxes(rows: int, columns: int, *, width: float = 1, height: float = 1) -> list[Box]:
    """The cells of a regular grid over a rectangle, row by row; of the unit square they are fractions.

    Source: CLIPSelf and CLIM. Edges are rounded as torch does it, in float32: where one lies half way between two pixels,
    or a cell is a whole number of patches, the next bit decides which pixels and how many samples it gets.
    """
    xs = (torch.linspace(0, 1, columns + 1) * width).tolist()
    ys = (torch.linspace(0, 1, rows + 1) * height).tolist()
    return [Box(x1, y1, x2, y2) for y1, y2 in pairwise(ys) for x1, x2 in pairwise(xs)]


def stack_boxes(boxes: Sequence[Fractions]) -> Tensor:
    """(r, 4) float32, also where there is none."""
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


def fractions(box: Box, sample: Sample) -> Fractions:
    """The box in fractions of the image: the same after the image is squashed to any shape."""
    return boxes.fractions(box, sample.width, sample.height)


def fractions_of_square(box: Box, sample: Sample) -> Fractions:
    """The box in fractions of the square that the image is letterboxed on, of any size.

    Source: CLIPSelf, training/data.py `get_scale`: one scale for both axes, as if the shorter side had not been rounded to
    whole pixels.
    """
    longer = max(sample.width, sample.height)
    return boxes.fractions(box, longer, longer)


class Resize(NamedTuple):
    """How images and crops come on their squares of so many pixels, and where a box of the image lies then."""

    image: ResizeRule
    crop: ResizeRule
    fractions: Callable[[Box, Sample], Fractions]


RESIZES: Mapping[str, Resize] = {
    "squash": Resize(SQUASH, SQUASH, fractions),
    "letterbox": Resize(LETTERBOX, LETTERBOX_CENTERED, fractions_of_square),
}

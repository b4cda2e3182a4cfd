"""Transforms from a packed sample to a training example: one caption, some regions, their crops.

Legend: L context length, r regions of one image, S side of the square image, s side of the square crops, in pixels.

Transforms run in workers of the loader. All random draws come from a generator of (seed, epoch, key): first the caption,
then the regions, so that all methods see the same captions and regions, on any rank and worker.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from fineclip import boxes
from fineclip.boxes import clip
from fineclip.config import LoaderConfig
from fineclip.methods.texts import CachedTexts
from fineclip.models.images import LETTERBOX, LETTERBOX_CENTERED, SQUASH, ResizeRule
from fineclip.models.pixels import CropPlan, DecodeRequest, Pixels, ResizeTarget, decode_for_device, resize_and_crop
from fineclip.types import Box, Region, Sample

Tokenize = Callable[[Sequence[str]], Tensor]
Fractions = tuple[float, float, float, float]
T = TypeVar("T")


@dataclass(frozen=True)
class DataSpec:
    """Inputs that an encoder takes.

    Attributes:
        tokenize: Texts to (N, L) int64 tokens.
        image_size: Side of the square images in px.
        crop_size: Side of the square crops in px.
        concepts: Names that regions are classified by, in the order of their numbers; empty for most methods.
        embedded: Embeddings of the captions if they were computed beforehand.
        loader: How pixels are decoded and resized.
    """

    tokenize: Tokenize
    image_size: int
    crop_size: int
    concepts: tuple[str, ...] = ()
    embedded: CachedTexts | None = None
    loader: LoaderConfig = field(default_factory=LoaderConfig)

    def texts(self, key: str, captions: Sequence[str]) -> Tensor:
        """Return captions of one sample as (N, L) int64 tokens, or as (N, D) float32 embeddings computed beforehand.

        Args:
            key: Key of the sample.
            captions: N texts.

        Returns:
            Tensor on the CPU.

        Raises:
            ShardError: An embedding is missing.
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
        """Decode an image and resize it and its crops, or only decode it if the device resizes.

        Args:
            content: Encoded image.
            resize: Resize rules of image and crops.
            boxes: Boxes of the crops in px of the image; None if the method uses no crops.
            part: Part of the image to use, in px; None: all of it.
            crop_size: Side of the crops in px; None: `self.crop_size`.

        Returns:
            Image and crops, or the decoded image with its pending resizes.

        Raises:
            UndecodableImage: The bytes are not an image.
        """
        crop = ResizeTarget(resize.crop, crop_size or self.crop_size)
        request = DecodeRequest(ResizeTarget(resize.image, self.image_size), crop, boxes, part)
        if self.loader.crops == "device":
            return decode_for_device(content, request)
        return resize_and_crop(content, request, pillow=self.loader.image_backend == "pillow")


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One image of a batch after the transform. Fields that a method does not use are None.

    Attributes:
        key: Key of the sample.
        image: (3, S, S) uint8; (3, H, W) as decoded with `crop_plan`.
        text: (L,) int64 tokens or (D,) embedding.
        boxes: (r, 4) x1 y1 x2 y2 in fractions of the square.
        region_texts: (r, L) or (r, D).
        region_labels: (r,) int64 numbers of concepts.
        crops: r squares, (3, s, s) uint8 each.
        crop_plan: Resizing and cropping that the device does; None if they are done.
    """

    key: str
    image: Tensor
    text: Tensor | None = None
    boxes: Tensor | None = None
    region_texts: Tensor | None = None
    region_labels: Tensor | None = None
    crops: Sequence[Tensor] | None = None
    crop_plan: CropPlan | None = None


Transform = Callable[[Sample, np.random.Generator], TrainingExample]


@dataclass(frozen=True)
class MethodTransform(ABC):
    """Base class of the transforms of methods. Picklable.

    Attributes:
        data_spec: Sizes, tokenizer and concepts.
        config: Section of the method.
        max_regions: Regions per image, at most.
    """

    data_spec: DataSpec
    config: Any
    max_regions: int

    @abstractmethod
    def __call__(self, sample: Sample, rng: np.random.Generator) -> TrainingExample:
        """Return the example of one sample in one epoch.

        Args:
            sample: A packed sample.
            rng: Generator of the sample.

        Returns:
            Example with the fields that `encode` reads.

        Raises:
            UndecodableImage: The bytes are not an image.
        """

    @property
    def resize(self) -> "Resize":
        """Resize rules of the section."""
        return RESIZES[self.config.resize]

    def fractions(self, boxes: Sequence[Box], sample: Sample) -> Tensor:
        """Return boxes in px of the image as fractions of the square, (r, 4) float32; r may be 0."""
        return stack_boxes([self.resize.fractions(box, sample) for box in boxes])


class ImageGroup(NamedTuple):
    """Consecutive images of a batch that one rank must hold together.

    Attributes:
        images: Number of images.
        cost: Relative cost of encoding them, above 0.
    """

    images: int
    cost: float


def sample_rng(seed: int, epoch: int, key: str) -> np.random.Generator:
    """Return the generator of one sample in one epoch.

    Args:
        seed: Seed of the run.
        epoch: From 0.
        key: Key of the sample.

    Returns:
        Generator; equal arguments give equal draws on every machine.
    """
    digest = hashlib.sha256(f"{seed}/{epoch}/{key}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def draw_caption(captions: Sequence[str], rng: np.random.Generator) -> str:
    """Return one caption at random; the empty text if there is none (`filter.min_words: 0`)."""
    return captions[int(rng.integers(len(captions)))] if captions else ""


def has_caption(region: Region) -> bool:
    """Return whether the region has a caption that is not blank."""
    return bool((region.caption or "").strip())


def draw_regions(
    sample: Sample, rng: np.random.Generator, *, at_most: int, usable: Callable[[Region], bool] = has_caption
) -> list[Region]:
    """Return usable regions in stored order, a random subset if there are more than `at_most`.

    Args:
        sample: Boxes are clipped to its image; boxes without area are left out.
        rng: Generator of the sample.
        at_most: Maximum number of regions.
        usable: Condition on a region; regional contrast needs a caption.

    Returns:
        Regions with clipped boxes.
    """
    found = [
        Region(box, region.score, region.label, region.caption)
        for region in sample.regions
        if usable(region) and (box := clip(region.box, sample.width, sample.height)).width > 0 and box.height > 0
    ]
    return draw_subset(found, rng, at_most=at_most)


def draw_subset(found: Sequence[T], rng: np.random.Generator, *, at_most: int) -> list[T]:
    """Return all elements in order, or a random subset in order.

    Args:
        found: Elements to draw from.
        rng: Not used if all elements are returned.
        at_most: Maximum number of elements.

    Returns:
        At most `at_most` elements, each at most once.
    """
    if len(found) <= at_most:
        return list(found)
    return [found[index] for index in sorted(rng.choice(len(found), at_most, replace=False))]


def grid_boxes(rows: int, columns: int, *, width: float = 1, height: float = 1) -> list[Box]:
    """Return the cells of a regular grid over a rectangle, row by row.

    Args:
        rows: Rows of the grid.
        columns: Columns of the grid.
        width: Width of the rectangle; 1 gives fractions.
        height: Height of the rectangle.

    Returns:
        `rows * columns` boxes.

    Source:
        CLIPSelf and CLIM. Edges are computed by torch in float32: if an edge is half way between two pixels, or a cell is
        a whole number of patches, the last bit determines its pixels and its number of sampling points.
    """
    xs = (torch.linspace(0, 1, columns + 1) * width).tolist()
    ys = (torch.linspace(0, 1, rows + 1) * height).tolist()
    return [Box(x1, y1, x2, y2) for y1, y2 in pairwise(ys) for x1, x2 in pairwise(xs)]


def stack_boxes(boxes: Sequence[Fractions]) -> Tensor:
    """Return the boxes as (r, 4) float32; r may be 0."""
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


def fractions(box: Box, sample: Sample) -> Fractions:
    """Return the box in fractions of the image, which squashing does not change."""
    return boxes.fractions(box, sample.width, sample.height)


def fractions_of_square(box: Box, sample: Sample) -> Fractions:
    """Return the box in fractions of the square that the image is letterboxed to.

    Source:
        CLIPSelf, training/data.py `get_scale`: one scale for both axes, without the rounding of the shorter side to pixels.
    """
    longer = max(sample.width, sample.height)
    return boxes.fractions(box, longer, longer)


class Resize(NamedTuple):
    """Resize rules of images and crops, and the matching conversion of boxes to fractions of the square."""

    image: ResizeRule
    crop: ResizeRule
    fractions: Callable[[Box, Sample], Fractions]


RESIZES: Mapping[str, Resize] = {
    "squash": Resize(SQUASH, SQUASH, fractions),
    "letterbox": Resize(LETTERBOX, LETTERBOX_CENTERED, fractions_of_square),
}

"""Resize images to the squares of an encoder, draw random crops, normalize pixels.

Legend: B images, S side of a square in pixels.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fineclip.shards.images import MAX_PIXELS, UndecodableImage, crop, decode, edges, read_header
from fineclip.types import Box

__all__ = [
    "LETTERBOX",
    "LETTERBOX_CENTERED",
    "MAX_PIXELS",
    "MEAN",
    "SQUASH",
    "SQUASH_BICUBIC",
    "STD",
    "PasteBox",
    "ResizeRule",
    "UndecodableImage",
    "crop",
    "decode",
    "edges",
    "letterbox",
    "letterbox_centered",
    "normalize_pixels",
    "random_resized_crop",
    "read_header",
    "squash",
    "to_batch",
]

BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training images; red, green, blue in [0, 1]
STD = (0.26862954, 0.26130258, 0.27577711)


class PasteBox(NamedTuple):
    """Place and size of a resized image on its square, in pixels."""

    left: int
    top: int
    width: int
    height: int


class ResizeRule(NamedTuple):
    """Rule for resizing an image to a square. Calling it applies the rule with Pillow.

    Attributes:
        filter: Filter of the antialiased resampling.
        padding_before: None changes the aspect ratio to fill the square. A number keeps the ratio and pads with black; it is the
            fraction, in [0, 1], of the padding that comes before the image, rounded down to whole pixels.
    """

    filter: Literal["bilinear", "bicubic"]
    padding_before: float | None = None

    def paste_box(self, width: int, height: int, size: int) -> PasteBox:
        """Return the place of the resized image on the square.

        Args:
            width: Width of the image in pixels.
            height: Height of the image in pixels.
            size: Side of the square in pixels.

        Returns:
            Whole pixels; the whole square if the aspect ratio is not kept.

        Examples:
            >>> LETTERBOX_CENTERED.paste_box(640, 480, 224)
            PasteBox(left=0, top=28, width=224, height=168)
        """
        if self.padding_before is None:
            return PasteBox(0, 0, size, size)
        scale = size / max(width, height)
        wide, high = (max(1, round(side * scale)) for side in (width, height))
        return PasteBox(int((size - wide) * self.padding_before), int((size - high) * self.padding_before), wide, high)

    def __call__(self, image: Image.Image, size: int) -> Tensor:
        """Resize with Pillow.

        Args:
            image: RGB image.
            size: Side S of the square in pixels.

        Returns:
            (3, S, S) uint8.
        """
        left, top, width, height = self.paste_box(image.width, image.height, size)
        resized = image.resize((width, height), BILINEAR if self.filter == "bilinear" else BICUBIC)
        if (width, height) == (size, size):
            return _to_tensor(resized)
        square = Image.new("RGB", (size, size))
        square.paste(resized, (left, top))
        return _to_tensor(square)


SQUASH = ResizeRule("bilinear")
SQUASH_BICUBIC = ResizeRule("bicubic")
LETTERBOX = ResizeRule("bicubic", padding_before=0)
LETTERBOX_CENTERED = ResizeRule("bicubic", padding_before=0.5)


def squash(image: Image.Image, size: int) -> Tensor:
    """Resize to a square without keeping the aspect ratio.

    Args:
        image: RGB image.
        size: Side S of the square in pixels.

    Returns:
        (3, S, S) uint8.

    Source:
        FineCLIP, training/data.py: torchvision's Resize to (S, S) of a Pillow image, bilinear, which calls Pillow's resize.
    """
    return SQUASH(image, size)


def letterbox(image: Image.Image, size: int) -> Tensor:
    """Resize the longer side to the square and pad with black on the right or below.

    Args:
        image: RGB image.
        size: Side S of the square in pixels.

    Returns:
        (3, S, S) uint8.

    Source:
        CLIPSelf, `ResizeLongest`: bicubic on a Pillow image, padded before normalization.
    """
    return LETTERBOX(image, size)


def letterbox_centered(image: Image.Image, size: int) -> Tensor:
    """Resize as `letterbox` and pad on both sides. Odd padding has its larger part after the image.

    Args:
        image: RGB image.
        size: Side S of the square in pixels.

    Returns:
        (3, S, S) uint8.

    Source:
        Crops of CLIPSelf; open_clip, `ResizeMaxSize`.
    """
    return LETTERBOX_CENTERED(image, size)


def random_resized_crop(
    width: int,
    height: int,
    rng: np.random.Generator,
    *,
    area: tuple[float, float],
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
    attempts: int = 10,
) -> Box:
    """Draw a box of random area, aspect ratio and place inside an image. Its edges are whole pixels.

    Args:
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        rng: Generator of the draws.
        area: Least and largest fraction of the image area.
        aspect: Least and largest ratio of width to height; the logarithm of the ratio is uniform.
        attempts: Draws of a box that may not fit. After them the result is the largest central box within `aspect`.

    Returns:
        Box inside the image.

    Source:
        torchvision, `RandomResizedCrop.get_params`, with the same draws from a NumPy generator.
    """
    for _ in range(attempts):
        pixels = width * height * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        wide, high = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < wide <= width and 0 < high <= height:
            top, left = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
            return Box(left, top, left + wide, top + high)
    wide, high = width, height
    if width / height < aspect[0]:
        high = round(width / aspect[0])
    elif width / height > aspect[1]:
        wide = round(height * aspect[1])
    top, left = (height - high) // 2, (width - wide) // 2
    return Box(left, top, left + wide, top + high)


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).contiguous()


def normalize_pixels(images_B3SS: Tensor) -> Tensor:
    """Normalize pixels by the mean and standard deviation of CLIP's training images.

    Args:
        images_B3SS: uint8 in [0, 255], any memory layout. Any leading dimensions are allowed.

    Returns:
        float32 of the same shape. Memory is contiguous for any layout of the input, so that an encoder gives the same bits.
    """
    mean, std = _mean_and_std(images_B3SS.device)
    values = images_B3SS.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    return values.div_(255).sub_(mean).div_(std)


@cache
def _mean_and_std(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return `MEAN` and `STD` as (3, 1, 1) tensors; cached, because a copy from the host synchronizes the device."""
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    return mean, std


def to_batch(images: Sequence[Tensor], *, size: int) -> Tensor:
    """Stack and normalize images.

    Args:
        images: (3, S, S) uint8 each; may be empty.
        size: Side S, the shape of an empty result.

    Returns:
        (B, 3, S, S) float32.
    """
    if not images:
        return torch.zeros(0, 3, size, size)
    return normalize_pixels(torch.stack(list(images)))

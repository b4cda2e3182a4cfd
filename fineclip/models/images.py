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

from fineclip.types import Box

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
        square = Image.new("RGB", (size, size))
        square.paste(image.resize((width, height), BILINEAR if self.filter == "bilinear" else BICUBIC), (left, top))
        return torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1).contiguous()


# FineCLIP, training/data.py: torchvision's Resize of a Pillow image, which calls Pillow's resize
SQUASH = ResizeRule("bilinear")
SQUASH_BICUBIC = ResizeRule("bicubic")
LETTERBOX = ResizeRule("bicubic", padding_before=0)  # CLIPSelf, `ResizeLongest`, padded before normalization
LETTERBOX_CENTERED = ResizeRule("bicubic", padding_before=0.5)  # crops of CLIPSelf; open_clip, `ResizeMaxSize`

ASPECT = (3 / 4, 4 / 3)  # least and largest ratio of width to height of a random crop
ATTEMPTS = 10


def random_resized_crop(width: int, height: int, rng: np.random.Generator, *, area: tuple[float, float]) -> Box:
    """Draw a box of random area, aspect ratio and place inside an image. Its edges are whole pixels.

    The logarithm of the aspect ratio is uniform within `ASPECT`. After `ATTEMPTS` draws that do not fit, the result is the
    largest central box within `ASPECT`.

    Args:
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        rng: Generator of the draws.
        area: Least and largest fraction of the image area.

    Returns:
        Box inside the image.

    Source:
        torchvision, `RandomResizedCrop.get_params`, with the same draws from a NumPy generator.
    """
    for _ in range(ATTEMPTS):
        pixels = width * height * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        wide, high = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < wide <= width and 0 < high <= height:
            top, left = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
            return Box(left, top, left + wide, top + high)
    wide, high = width, height
    if width / height < ASPECT[0]:
        high = round(width / ASPECT[0])
    elif width / height > ASPECT[1]:
        wide = round(height * ASPECT[1])
    top, left = (height - high) // 2, (width - wide) // 2
    return Box(left, top, left + wide, top + high)


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

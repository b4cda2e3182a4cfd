"""Images as the encoder wants them.

Legend: B images, S side of the square.
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
    "CENTRED",
    "LETTERBOX",
    "MAX_PIXELS",
    "MEAN",
    "SQUASH",
    "SQUASH_BICUBIC",
    "STD",
    "Fit",
    "Place",
    "UndecodableImage",
    "centred",
    "crop",
    "decode",
    "draw_crop",
    "edges",
    "letterbox",
    "normalise",
    "read_header",
    "squash",
    "to_batch",
]

BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training images, in red, green, blue; values in [0, 1]
STD = (0.26862954, 0.26130258, 0.27577711)


class Place(NamedTuple):
    """Where a resized picture lies on its square, in pixels."""

    left: int
    top: int
    width: int
    height: int


class Fit(NamedTuple):
    """How a picture comes on a square; called, it does so by Pillow.

    Attributes:
        filter: of the resampling, antialiased.
        black_before: None squashes. Otherwise the aspect is kept, black fills the rest, and so much of it lies on the left
            or above; of an odd rest the larger part comes after.
    """

    filter: Literal["bilinear", "bicubic"]
    black_before: float | None = None

    def place(self, width: int, height: int, size: int) -> Place:
        """Of a picture of so many pixels, on a square of side `size`."""
        if self.black_before is None:
            return Place(0, 0, size, size)
        scale = size / max(width, height)
        wide, high = (max(1, round(side * scale)) for side in (width, height))
        return Place(int((size - wide) * self.black_before), int((size - high) * self.black_before), wide, high)

    def __call__(self, image: Image.Image, size: int) -> Tensor:
        """(3, S, S) uint8."""
        left, top, width, height = self.place(image.width, image.height, size)
        resized = image.resize((width, height), BILINEAR if self.filter == "bilinear" else BICUBIC)
        if (width, height) == (size, size):
            return _as_tensor(resized)
        square = Image.new("RGB", (size, size))
        square.paste(resized, (left, top))
        return _as_tensor(square)


SQUASH = Fit("bilinear")
SQUASH_BICUBIC = Fit("bicubic")
LETTERBOX = Fit("bicubic", black_before=0)
CENTRED = Fit("bicubic", black_before=0.5)


def squash(image: Image.Image, size: int) -> Tensor:
    """(3, S, S) uint8: the whole image on a square, its aspect not kept.

    Source: FineCLIP, training/data.py: torchvision's Resize of both sides on a Pillow image, bilinear, which is
    Pillow's own resize.
    """
    return SQUASH(image, size)


def letterbox(image: Image.Image, size: int) -> Tensor:
    """(3, S, S) uint8: the longer side fills the square, black fills the rest on the right or below.

    Source: CLIPSelf, `ResizeLongest`: bicubic on a Pillow image, padded before the normalisation.
    """
    return LETTERBOX(image, size)


def centred(image: Image.Image, size: int) -> Tensor:
    """(3, S, S) uint8: as `letterbox`, with the black on both sides.

    Source: CLIPSelf's crops, open_clip's `ResizeMaxSize`; of an odd rest the larger part comes after.
    """
    return CENTRED(image, size)


def draw_crop(
    width: int,
    height: int,
    rng: np.random.Generator,
    *,
    area: tuple[float, float],
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
    attempts: int = 10,
) -> Box:
    """A box inside an image of so many pixels, its edges whole numbers, anywhere with the same chance.

    Args:
        width: of the image.
        height: of the image.
        rng: what is drawn comes from here.
        area: least and largest share of the image's area.
        aspect: least and largest width over height, drawn so that its logarithm is uniform.
        attempts: draws that may fall outside; then it is the largest box in the middle whose aspect lies inside.

    Source: torchvision, `RandomResizedCrop.get_params`, draw by draw, from another generator.
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


def _as_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).contiguous()


def normalise(images_B3SS: Tensor) -> Tensor:
    """float32 of mean 0 and deviation 1 over CLIP's training images, from uint8; any leading shape before (3, S, S).

    However the pixels lie in memory, the result lies colour by colour, so that it is encoded to the same bits.
    """
    mean, std = _mean_and_std(images_B3SS.device)
    values = images_B3SS.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    return values.div_(255).sub_(mean).div_(std)


@cache
def _mean_and_std(device: torch.device) -> tuple[Tensor, Tensor]:
    """Made once: to bring numbers to a device, the host waits for it."""
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    return mean, std


def to_batch(images: Sequence[Tensor], *, size: int) -> Tensor:
    """(B, 3, S, S) float32, normalised, from uint8 images of one size; (0, 3, S, S) from none."""
    if not images:
        return torch.zeros(0, 3, size, size)
    return normalise(torch.stack(list(images)))

"""What is cut out of decoded pictures, and cutting it on the device, in float.

Legend: N bytes of all pictures of a batch, B pictures, R crops of all of them, S side of the image's square, s of the crops'.
"""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fineclip.models.images import Fit

MOST_SHRUNK = 64  # times, in one pass: CUDA's kernel holds the weights of a pixel in a memory of 48 kB
Edges = tuple[int, int, int, int]  # x1 y1 x2 y2 in whole pixels of the picture


class Square(NamedTuple):
    """A square of so many pixels, and how a picture comes on it."""

    fit: Fit
    size: int


class Cuts(NamedTuple):
    """Of one decoded picture: what comes on the image's square, and what on those of its crops.

    Attributes:
        height: of the picture, in pixels.
        width: of it.
        crops: None where the method has none.
    """

    height: int
    width: int
    image: Square
    part: Edges
    crop: Square
    crops: tuple[Edges, ...] | None


def cut(pictures_N: Tensor, cuts: Sequence[Cuts]) -> tuple[Tensor, Tensor | None]:
    """(B, 3, S, S) and (R, 3, s, s) uint8 of pictures that lie one after another, on their device.

    The host knows all sizes and waits for nothing. Resampled in float and rounded once, where Pillow rounds after each of
    its two passes too: at worst 54 dB away.

    Args:
        pictures_N: uint8, each picture row by row, colour innermost.
        cuts: of each, at least one.
    """
    image, crop = cuts[0].image, cuts[0].crop
    images_BSS3 = pictures_N.new_zeros(len(cuts), image.size, image.size, 3)
    rows = sum(len(each.crops or ()) for each in cuts)
    crops_Rss3 = pictures_N.new_zeros(rows, crop.size, crop.size, 3)
    end, row = 0, 0
    for number, each in enumerate(cuts):
        start, end = end, end + prod((each.height, each.width, 3))
        picture_13HW = pictures_N[start:end].view(1, each.height, each.width, 3).permute(0, 3, 1, 2).float()
        _draw(picture_13HW, each.part, image.fit, images_BSS3[number])
        for edges in each.crops or ():
            _draw(picture_13HW, edges, crop.fit, crops_Rss3[row])
            row += 1
    has_crops = cuts[0].crops is not None
    return images_BSS3.permute(0, 3, 1, 2), crops_Rss3.permute(0, 3, 1, 2) if has_crops else None


def _draw(picture_13HW: Tensor, edges: Edges, fit: Fit, square_SS3: Tensor) -> None:
    """One part of a picture on its square, which is black."""
    x1, y1, x2, y2 = edges
    left, top, width, height = fit.place(x2 - x1, y2 - y1, len(square_SS3))
    values_13hw = _resized(picture_13HW[:, :, y1:y2, x1:x2], width, height, fit.filter)
    square_SS3[top : top + height, left : left + width] = values_13hw[0].permute(1, 2, 0).round_().clamp_(0, 255)


def _resized(part_13HW: Tensor, width: int, height: int, mode: str) -> Tensor:
    if part_13HW.shape[3] > MOST_SHRUNK * width:
        tall = (part_13HW.shape[2], width)
        part_13HW = interpolate(part_13HW.transpose(2, 3), size=tall[::-1], mode=mode, antialias=True).transpose(2, 3)
    return torch.as_tensor(interpolate(part_13HW, size=(height, width), mode=mode, antialias=True))

"""From an encoded picture to the squares that an encoder takes: by libjpeg-turbo and 8-bit resampling, or by Pillow.

Legend: H W of the picture, S side of the image's square, s of the crops', r crops of one picture, in pixels.

The fast way decodes what Pillow would, to the bit, and hands whatever else there is (other formats, CMYK, 12 bit, files
with a warning) to Pillow, which alone says what is no image. It resamples 8-bit pixels with the same filters as Pillow and
other rounding. Pixels lie colour innermost, and a part is a view of its picture: only on such memory `interpolate` takes
its vectorised way (a crop takes 0.12 ms, else 0.18, and 0.58 where colours lie apart).
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from math import prod
from typing import NamedTuple

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from fineclip.models.cuts import Cuts, Edges, Square
from fineclip.models.images import MAX_PIXELS, Fit, decode, edges
from fineclip.types import Box

JPEG = b"\xff\xd8\xff"
COLOURS = ("YCbCr", "RGB", "Gray")
KEPT_BYTES = 64_000_000  # memory for decoding that a process keeps; what is larger is rare


class Wanted(NamedTuple):
    """What is to be made of a picture.

    Attributes:
        image: its square.
        crop: that of each crop.
        boxes: of the crops, in pixels of the picture; None where the method has none.
        part: what of the picture comes on its square; None is all.
    """

    image: Square
    crop: Square
    boxes: Sequence[Box] | None = None
    part: Box | None = None


class Pixels(NamedTuple):
    """What was made of it: (3, S, S) and (r, 3, s, s) uint8; or (3, H, W), the picture itself, with the cuts to make."""

    image: Tensor
    crops: Tensor | None
    cuts: Cuts | None = None


def draw(content: bytes, wanted: Wanted, *, pillow: bool) -> Pixels:
    """The squares of an encoded picture.

    Raises:
        UndecodableImage: the bytes are no image that we read.
    """
    image, crop, boxes, part = wanted
    if pillow:
        picture = decode(content)
        width, height = picture.size
        onto = partial(_by_pillow, picture)
    else:
        picture_HW3 = _decoded(content, _scratch)
        height, width = picture_HW3.shape[:2]
        onto = partial(_by_torch, picture_HW3)
    image_SS3 = _empty(image.size, image.size, 3)
    onto((0, 0, width, height) if part is None else edges(part, width, height), image.fit, image_SS3)
    if boxes is None:
        return Pixels(image_SS3.permute(2, 0, 1), None)
    crops_rss3 = _empty(len(boxes), crop.size, crop.size, 3)
    for box, crop_ss3 in zip(boxes, crops_rss3, strict=True):
        onto(edges(box, width, height), crop.fit, crop_ss3)
    return Pixels(image_SS3.permute(2, 0, 1), crops_rss3.permute(0, 3, 1, 2))


def decode_only(content: bytes, wanted: Wanted) -> Pixels:
    """The picture as it is, and the cuts that are to be made of it.

    Raises:
        UndecodableImage: the bytes are no image that we read.
    """
    picture_HW3 = _decoded(content, _empty)
    height, width = picture_HW3.shape[:2]
    part = (0, 0, width, height) if wanted.part is None else edges(wanted.part, width, height)
    crops = None if wanted.boxes is None else tuple(edges(box, width, height) for box in wanted.boxes)
    cuts = Cuts(height, width, wanted.image, part, wanted.crop, crops)
    return Pixels(picture_HW3.permute(2, 0, 1), None, cuts)


def _decoded(content: bytes, allocate: Callable[..., Tensor]) -> Tensor:
    """Decode to (H, W, 3) uint8, by libjpeg-turbo into allocated memory if it can, else by Pillow.

    Raises:
        UndecodableImage: the bytes are no image that we read.
    """
    if (size := _fast_size(content)) is not None:
        memory_HW3 = allocate(*size, 3)
        with suppress(ValueError):
            simplejpeg.decode_jpeg(content, buffer=memory_HW3.numpy())
            return memory_HW3
    return torch.from_numpy(np.array(decode(content)))


def _fast_size(content: bytes) -> tuple[int, int] | None:
    """Height and width of a picture of the kind that libjpeg-turbo is asked to decode."""
    if not content.startswith(JPEG):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    return (height, width) if colours in COLOURS and 0 < height * width <= MAX_PIXELS else None


_kept = threading.local()


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.uint8)


def _scratch(*shape: int) -> Tensor:
    """Memory of that shape; mapping new pages for each picture would take as long as a third of its decoding."""
    size = prod(shape)
    if size > KEPT_BYTES:
        return _empty(*shape)
    if getattr(_kept, "memory_N", None) is None or len(_kept.memory_N) < size:
        _kept.memory_N = _empty(size)
    memory_HW3: Tensor = _kept.memory_N[:size].view(shape)
    return memory_HW3


def _by_torch(picture_HW3: Tensor, part: Edges, fit: Fit, square_SS3: Tensor) -> None:
    x1, y1, x2, y2 = part
    left, top, width, height = fit.place(x2 - x1, y2 - y1, len(square_SS3))
    part_13hw = picture_HW3[None, y1:y2, x1:x2].permute(0, 3, 1, 2)  # this order: strides say that colour is innermost
    resized_13hw = interpolate(part_13hw, size=(height, width), mode=fit.filter, antialias=True)
    if (width, height) != (len(square_SS3), len(square_SS3)):
        square_SS3.zero_()
    square_SS3[top : top + height, left : left + width] = resized_13hw[0].permute(1, 2, 0)


def _by_pillow(picture: Image.Image, part: Edges, fit: Fit, square_SS3: Tensor) -> None:
    cropped = picture if part == (0, 0, *picture.size) else picture.crop(part)
    square_SS3.copy_(fit(cropped, len(square_SS3)).permute(1, 2, 0))

"""Decode an image and make the squares that an encoder takes, with libjpeg-turbo and 8-bit resampling or with Pillow.

The fast path decodes JPEGs to the same bits as Pillow. Other formats, CMYK, 12 bits, and files for which libjpeg-turbo reports a
warning are decoded by Pillow, which also decides which files are not images. The fast path resamples 8-bit pixels with
Pillow's filters and other rounding. Decoded pixels have colors innermost in memory, and a part is a view: only there does
`interpolate` take its vectorized path (0.12 ms per crop; 0.18 ms on a copy of the part, 0.58 ms with separate color planes).

With `loader.crops: device`, images are only decoded here, and `crop_on_device` resizes and crops them on the device of the
encoder, in float32.

Legend: H W height and width of the decoded image, h w of a resized part, S side of an image square, s of a crop square, r crops
of one image, R of a batch, B images, N bytes.
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
from torch.utils.data import default_collate

from fineclip.models.images import ResizeRule
from fineclip.shards.images import MAX_PIXELS, decode, edges
from fineclip.types import Box

JPEG_MAGIC = b"\xff\xd8\xff"
FAST_COLOR_SPACES = ("YCbCr", "RGB", "Gray")
MAX_KEPT_BYTES = 64_000_000  # decoding buffer that a thread keeps for the next image
MAX_SHRINK = 64  # of the width in one pass: CUDA's kernel keeps the weights of a pixel in 48 kB of shared memory
PixelBox = tuple[int, int, int, int]  # x1 y1 x2 y2 in whole pixels of the decoded image, half-open


class ResizeTarget(NamedTuple):
    """Square that an image or a crop is resized to.

    Attributes:
        rule: How it is resized.
        size: Side of the square in pixels.
    """

    rule: ResizeRule
    size: int


class CropPlan(NamedTuple):
    """Resizes and crops to make of one decoded image.

    Attributes:
        height: Height of the decoded image in pixels.
        width: Width of the decoded image in pixels.
        image: Square of the image.
        part: Part of the decoded image that is resized to the square of the image.
        crop: Square of each crop.
        crops: Parts that become crops; None if the method has no crops.
    """

    height: int
    width: int
    image: ResizeTarget
    part: PixelBox
    crop: ResizeTarget
    crops: tuple[PixelBox, ...] | None


class DecodeRequest(NamedTuple):
    """Squares to make of one image.

    Attributes:
        image: Square of the image.
        crop: Square of each crop.
        boxes: Boxes of the crops in pixels of the image; None if the method has no crops.
        part: Part of the image that is resized to the square of the image; None is the whole image.
    """

    image: ResizeTarget
    crop: ResizeTarget
    boxes: Sequence[Box] | None = None
    part: Box | None = None


class Pixels(NamedTuple):
    """Pixels of one image, uint8, with colors innermost in memory.

    Attributes:
        image: (3, S, S), or, with `crop_plan`, the decoded image (3, H, W).
        crops: r squares, (3, s, s) each; None if the method has no crops, or with `crop_plan`.
        crop_plan: Resizes and crops that the device does; None if they are done.
    """

    image: Tensor
    crops: tuple[Tensor, ...] | None
    crop_plan: CropPlan | None = None


def resize_and_crop(content: bytes, request: DecodeRequest, *, pillow: bool) -> Pixels:
    """Decode an image and make its squares.

    Args:
        content: Encoded image.
        request: Squares to make.
        pillow: Use Pillow for everything; the pixels then equal those of the authors' code bit by bit.

    Returns:
        Image square, and crops if the request has boxes.

    Raises:
        UndecodableImage: The bytes are not an image of a supported format, or have more than `MAX_PIXELS` pixels.
    """
    if pillow:
        opened = decode(content)
        return _squares(partial(_resize_by_pillow, opened), _plan(request, *opened.size))
    decoded_HW3 = _decode(content, _scratch)
    plan = _plan(request, decoded_HW3.shape[1], decoded_HW3.shape[0])
    return _squares(partial(_resize_by_torch, decoded_HW3), plan)


def decode_for_device(content: bytes, request: DecodeRequest) -> Pixels:
    """Decode an image and return it with the plan of its squares, for `crop_on_device`.

    Args:
        content: Encoded image.
        request: Squares to make on the device.

    Returns:
        Whole decoded image (3, H, W), and its `crop_plan`.

    Raises:
        UndecodableImage: The bytes are not an image of a supported format, or have more than `MAX_PIXELS` pixels.
    """
    decoded_HW3 = _decode(content, _empty)
    plan = _plan(request, decoded_HW3.shape[1], decoded_HW3.shape[0])
    return Pixels(decoded_HW3.permute(2, 0, 1), None, plan)


def _plan(request: DecodeRequest, width: int, height: int) -> CropPlan:
    """Return the request with boxes in whole pixels of the decoded image."""
    part = (0, 0, width, height) if request.part is None else edges(request.part, width, height)
    crops = None if request.boxes is None else tuple(edges(box, width, height) for box in request.boxes)
    return CropPlan(height, width, request.image, part, request.crop, crops)


def _decode(content: bytes, allocate: Callable[..., Tensor]) -> Tensor:
    """Decode to (H, W, 3) uint8: by libjpeg-turbo into allocated memory if it can, else by Pillow."""
    if content.startswith(JPEG_MAGIC):
        with suppress(ValueError):
            height, width, color_space, _ = simplejpeg.decode_jpeg_header(content)
            if color_space in FAST_COLOR_SPACES and 0 < height * width <= MAX_PIXELS:
                decoded_HW3 = allocate(height, width, 3)
                simplejpeg.decode_jpeg(content, buffer=decoded_HW3.numpy())
                return decoded_HW3
    return torch.from_numpy(np.array(decode(content)))


_kept = threading.local()


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.uint8)


def _scratch(*shape: int) -> Tensor:
    """Return memory that the next call in this thread reuses: mapping new pages would take a third of the time of decoding."""
    size = prod(shape)
    if size > MAX_KEPT_BYTES:
        return _empty(*shape)
    if getattr(_kept, "memory_N", None) is None or len(_kept.memory_N) < size:
        _kept.memory_N = _empty(size)
    memory_HW3: Tensor = _kept.memory_N[:size].view(shape)
    return memory_HW3


def _squares(resize: Callable[[PixelBox, ResizeTarget], Tensor], plan: CropPlan) -> Pixels:
    """Make the squares of one image by a function that resizes a part of it to a square."""
    crops = None if plan.crops is None else tuple(resize(box, plan.crop) for box in plan.crops)
    return Pixels(resize(plan.part, plan.image), crops)


def _resize_by_torch(decoded_HW3: Tensor, box: PixelBox, target: ResizeTarget) -> Tensor:
    """Resize a part of a decoded image, uint8 or float32, to a (3, size, size) square, uint8 with colors innermost in memory."""
    x1, y1, x2, y2 = box
    left, top, width, height = target.rule.paste_box(x2 - x1, y2 - y1, target.size)
    part_13hw = decoded_HW3[None, y1:y2, x1:x2].permute(0, 3, 1, 2)  # in this order the strides show channels_last
    resized_3hw = _resize(part_13hw, width, height, target.rule.filter)[0]
    if resized_3hw.is_floating_point():
        resized_3hw = resized_3hw.round_().clamp_(0, 255).to(torch.uint8)
    if width == height == target.size:
        return resized_3hw
    square_SS3 = resized_3hw.new_zeros(target.size, target.size, 3)
    square_SS3[top : top + height, left : left + width] = resized_3hw.permute(1, 2, 0)
    return square_SS3.permute(2, 0, 1)


def _resize_by_pillow(image: Image.Image, box: PixelBox, target: ResizeTarget) -> Tensor:
    """Resize a part of an image to a (3, size, size) square with Pillow."""
    return target.rule(image if box == (0, 0, *image.size) else image.crop(box), target.size)


def stack_squares(squares: Sequence[Tensor], size: int) -> Tensor:
    """Stack n squares to (n, 3, size, size), uint8 with colors innermost in memory; in a worker of the loader, in shared memory."""
    if not squares:
        return torch.empty(0, 3, size, size, dtype=torch.uint8)
    stacked_nSS3: Tensor = default_collate([square.permute(1, 2, 0) for square in squares])
    return stacked_nSS3.permute(0, 3, 1, 2)


def crop_on_device(decoded_N: Tensor, plans: Sequence[CropPlan]) -> tuple[Tensor, Tensor | None]:
    """Resize and crop images on the device that holds them. Sizes come from the host, so no synchronization is needed.

    Values are resampled in float32 and rounded once; Pillow rounds after each of its two passes. The PSNR between both is at
    least 54 dB.

    Args:
        decoded_N: uint8, all decoded images one after another; each row by row with colors innermost.
        plans: Plan of each image, at least one.

    Returns:
        Images (B, 3, S, S) and crops (R, 3, s, s), uint8 with colors innermost in memory; None for crops if plans have none.
    """
    sizes = [prod((plan.height, plan.width, 3)) for plan in plans]
    images: list[Tensor] = []
    crops: list[Tensor] = []
    for rows_n, plan in zip(torch.split(decoded_N, sizes), plans, strict=True):
        made = _squares(partial(_resize_by_torch, rows_n.view(plan.height, plan.width, 3).float()), plan)
        images.append(made.image)
        crops += made.crops or ()
    has_crops = plans[0].crops is not None
    return stack_squares(images, plans[0].image.size), stack_squares(crops, plans[0].crop.size) if has_crops else None


def _resize(part_13HW: Tensor, width: int, height: int, mode: str) -> Tensor:
    """Resize to (1, 3, height, width); floats whose width shrinks by more than `MAX_SHRINK`, the width before the height."""
    if part_13HW.is_floating_point() and part_13HW.shape[3] > MAX_SHRINK * width:
        unchanged_height = part_13HW.shape[2]
        part_13HW = interpolate(
            part_13HW.transpose(2, 3), size=(width, unchanged_height), mode=mode, antialias=True
        ).transpose(2, 3)
    return torch.as_tensor(interpolate(part_13HW, size=(height, width), mode=mode, antialias=True))

"""Resize and crop decoded images on the device of the encoder, in float32.

Legend: N bytes of all images of a batch, B images, R crops of all images, S side of an image square, s side of a crop square,
H W height and width of a decoded image or a part of it, h w of a resized part.
"""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fineclip.models.images import ResizeRule

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
    image, crop = plans[0].image, plans[0].crop
    images_BSS3 = decoded_N.new_zeros(len(plans), image.size, image.size, 3)
    rows = sum(len(plan.crops or ()) for plan in plans)
    crops_Rss3 = decoded_N.new_zeros(rows, crop.size, crop.size, 3)
    end, row = 0, 0
    for number, plan in enumerate(plans):
        start, end = end, end + prod((plan.height, plan.width, 3))
        decoded_13HW = decoded_N[start:end].view(1, plan.height, plan.width, 3).permute(0, 3, 1, 2).float()
        _paste(decoded_13HW, plan.part, image.rule, images_BSS3[number])
        for box in plan.crops or ():
            _paste(decoded_13HW, box, crop.rule, crops_Rss3[row])
            row += 1
    has_crops = plans[0].crops is not None
    return images_BSS3.permute(0, 3, 1, 2), crops_Rss3.permute(0, 3, 1, 2) if has_crops else None


def _paste(decoded_13HW: Tensor, box: PixelBox, rule: ResizeRule, square_SS3: Tensor) -> None:
    """Resize a part of an image and write it to its place on a black square."""
    x1, y1, x2, y2 = box
    left, top, width, height = rule.paste_box(x2 - x1, y2 - y1, len(square_SS3))
    values_13hw = _resize(decoded_13HW[:, :, y1:y2, x1:x2], width, height, rule.filter)
    square_SS3[top : top + height, left : left + width] = values_13hw[0].permute(1, 2, 0).round_().clamp_(0, 255)


def _resize(part_13HW: Tensor, width: int, height: int, mode: str) -> Tensor:
    """Resize to (1, 3, height, width); if the width shrinks by more than `MAX_SHRINK`, the width first and then the height."""
    if part_13HW.shape[3] > MAX_SHRINK * width:
        unchanged_height = part_13HW.shape[2]
        part_13HW = interpolate(
            part_13HW.transpose(2, 3), size=(width, unchanged_height), mode=mode, antialias=True
        ).transpose(2, 3)
    return torch.as_tensor(interpolate(part_13HW, size=(height, width), mode=mode, antialias=True))

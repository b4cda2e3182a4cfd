"""Decode images with Pillow, without torch.

The EXIF orientation is ignored: boxes refer to the stored pixels.
"""

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from fineclip.boxes import clip
from fineclip.errors import DataError
from fineclip.shards.packed import EXTENSIONS
from fineclip.types import Box

FORMATS = tuple(EXTENSIONS)  # other decoders of Pillow are not used: some start external programs
MAX_PIXELS = 120_000_000  # 360 MB; larger images are refused before decoding, because a small file can claim any size

# Exceptions that Pillow's decoders raise on damaged files.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    ArithmeticError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class UndecodableImage(DataError):  # noqa: N818 (it names the image, not the error)
    """Image that cannot be decoded: not an image, truncated, damaged, of an unsupported format, or too large."""


class Header(NamedTuple):
    """Header of an image.

    Attributes:
        width: Width of the stored image in pixels.
        height: Height of the stored image in pixels.
        format: Pillow's name of the format.
    """

    width: int
    height: int
    format: str


def read_header(content: bytes) -> Header | None:
    """Read size and format of an encoded image without decoding pixels.

    Args:
        content: Encoded image.

    Returns:
        Header, or None if `decode` would refuse the image because of its header.
    """
    try:
        image = _opened(content)
    except UndecodableImage:
        return None
    return Header(image.width, image.height, image.format or "")


def decode(content: bytes) -> Image.Image:
    """Decode an image and convert it to RGB as `rgb` does.

    Args:
        content: Encoded image. Of several frames the first is used.

    Returns:
        Image in mode RGB.

    Raises:
        UndecodableImage: The bytes are not an image of `FORMATS`, are truncated or damaged, or have more than `MAX_PIXELS` pixels.
    """
    return rgb(_opened(content))


def rgb(image: Image.Image) -> Image.Image:
    """Load an opened image and convert it to RGB.

    Transparent pixels are shown on white and 16-bit gray is scaled to 8 bits. (CLIP's authors drop the alpha channel, which shows the
    color below it, mostly black.)

    Args:
        image: Image in any mode.

    Returns:
        Image in mode RGB, of the same size.

    Raises:
        UndecodableImage: The image is truncated or damaged, or has floating point pixels.
    """
    try:
        image.load()
        return _as_rgb(image)
    except _BROKEN as error:
        raise UndecodableImage(f"cannot be decoded: {_reason(error)}") from None


def crop(image: Image.Image, box: Box) -> Image.Image:
    """Crop an image to a box, with the edges that `edges` returns."""
    return image.crop(edges(box, image.width, image.height))


def edges(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """Return x1 y1 x2 y2 of a box in whole pixels, clipped to the image. The result is never empty.

    Args:
        box: Box in pixels.
        width: Width of the image in pixels.
        height: Height of the image in pixels.

    Returns:
        Half-open pixel ranges, at least 1 x 1.

    Examples:
        >>> edges(Box(0.5, 1.5, 10.5, 99), 40, 30)
        (0, 2, 10, 30)

    Source:
        The authors clip the box of a region to the image and pass it to `Image.crop`, which rounds each coordinate half to even.
        Deviation: a box that rounds to an empty one becomes one pixel (an error in their code).
    """
    x1, y1, x2, y2 = map(round, clip(box, width, height))
    x1, y1 = min(x1, width - 1), min(y1, height - 1)
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


def _opened(content: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except _BROKEN as error:
        raise UndecodableImage(f"no header of {', '.join(FORMATS)}: {_reason(error)}") from None
    width, height = image.size
    if width < 1 or height < 1:
        raise UndecodableImage(f"has no pixels: {width} x {height}")
    if width * height > MAX_PIXELS:
        raise UndecodableImage(f"{width} x {height} are more than {MAX_PIXELS} pixels")
    return image


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode == "I" or image.mode.startswith("I;16"):
        gray = np.asarray(image).astype(np.int64)
        image = Image.fromarray(np.clip(gray >> 8, 0, 255).astype(np.uint8))
    if image.mode == "F":
        raise UndecodableImage(
            "cannot be decoded: floating point images are not supported, because their value range is unknown"
        )
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    return str(error).replace("<_io.BytesIO object at", "<bytes at") or type(error).__name__

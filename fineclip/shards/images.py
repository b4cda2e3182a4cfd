"""Encoded images and their pixels: Pillow alone, no torch.

Nothing here turns an image by its EXIF note: boxes are in the frame that is stored.
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

FORMATS = tuple(EXTENSIONS)  # no other decoder of Pillow's is ever tried: some start other programs
MAX_PIXELS = 120_000_000  # a larger image is refused before it is decoded: 360 MB of pixels from a file of a few bytes

# What Pillow's decoders are known to raise on broken bytes.
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
    """Bytes that are no image, an image cut short, of a kind we do not read, or too large."""


class Header(NamedTuple):
    """What an image says of itself: pixels of the stored frame, Pillow's name of the format."""

    width: int
    height: int
    format: str


def read_header(content: bytes) -> Header | None:
    """Size and format from the first bytes, no pixel decoded; None for what `decode` would refuse unseen."""
    try:
        return _header(_opened(content))
    except UndecodableImage:
        return None


def decode(content: bytes) -> Image.Image:
    """Every pixel, in RGB as `rgb` makes it; the first frame where there are several.

    Raises:
        UndecodableImage: the bytes are no image of `FORMATS`, are cut short or broken, or over `MAX_PIXELS`.
    """
    return rgb(_opened(content))


def rgb(image: Image.Image) -> Image.Image:
    """Every pixel of an opened image, in RGB.

    What is transparent is shown on white, 16-bit grey is scaled to 8 bits. (The authors of CLIP drop the alpha channel,
    which shows whatever colour lies under it, mostly black.)

    Raises:
        UndecodableImage: it is cut short or broken, or has pixels of a kind whose white nobody knows.
    """
    try:
        image.load()
        return _as_rgb(image)
    except _BROKEN as error:
        raise UndecodableImage(f"cannot be decoded: {_reason(error)}") from None


def crop(image: Image.Image, box: Box) -> Image.Image:
    """The pixels of a box, as `edges` says."""
    return image.crop(edges(box, image.width, image.height))


def edges(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """Whole pixels of a box, clipped to an image of that size and rounded as Pillow rounds; never empty.

    Source: the authors clip the box of a region to the image and hand it to `Image.crop`, which rounds each coordinate
    half to even. Deviation: a box that rounds to nothing gives one pixel (there: an error).
    """
    x1, y1, x2, y2 = map(round, clip(box, width, height))
    x1, y1 = min(x1, width - 1), min(y1, height - 1)
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


def _opened(content: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except _BROKEN as error:
        raise UndecodableImage(f"no header of {', '.join(FORMATS)}: {_reason(error)}") from None
    width, height, _ = _header(image)
    if width < 1 or height < 1:
        raise UndecodableImage(f"has no pixels: {width} x {height}")
    if width * height > MAX_PIXELS:
        raise UndecodableImage(f"{width} x {height} are more than {MAX_PIXELS} pixels")
    return image


def _header(image: Image.Image) -> Header:
    return Header(image.width, image.height, image.format or "")


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.int64)
        image = Image.fromarray(np.clip(grey >> 8, 0, 255).astype(np.uint8))
    if image.mode == "F":
        raise UndecodableImage("cannot be decoded: pixels are floating point numbers, whose white nobody knows")
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    return str(error).replace("<_io.BytesIO object at", "<bytes at") or type(error).__name__

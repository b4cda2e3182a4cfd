"""Decode images with Pillow, without torch.

The EXIF orientation is ignored: boxes refer to the stored pixels.
"""

import io
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from fineclip.boxes import clip
from fineclip.errors import DataError
from fineclip.shards.packed import EXTENSIONS
from fineclip.shards.png import without_texts
from fineclip.types import Box

FORMATS = tuple(EXTENSIONS)  # other decoders of Pillow are not used: some start external programs
MAX_PIXELS = 120_000_000  # 360 MB; larger images are refused before decoding, because a small file can claim any size
MAX_SIDE = 2**31 - 1  # of PNG, and of the columns of tables
PLUGINS = {  # importing them registers the formats with Pillow; that of JPEG also opens MPO
    "JPEG": JpegImagePlugin,
    "PNG": PngImagePlugin,
    "WEBP": WebPImagePlugin,
    "GIF": GifImagePlugin,
    "BMP": BmpImagePlugin,
    "TIFF": TiffImagePlugin,
}
SCALED_GRAY = {"L;2": 85, "L;4": 17}  # factor from the values in a PNG to 8 bits
ORIENTATION, TURNED = 0x0112, range(2, 9)  # EXIF tag, and its values if pixels are stored turned or mirrored
WHITE_IS_ZERO = 0  # value of the TIFF tag of that name

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

    @property
    def is_too_large(self) -> bool:
        """Whether `decode` refuses the image because of its size."""
        return self.width * self.height > MAX_PIXELS


def read_header(content: bytes) -> Header | None:
    """Read size and format of an encoded image without decoding pixels.

    Args:
        content: Encoded image.

    Returns:
        Header, also of an image that is too large to decode, or None if `decode` would refuse the image because of its header.
    """
    try:
        return _opened(content)[1]
    except UndecodableImage:
        return None


def is_turned(image: Image.Image) -> bool:
    """Return whether EXIF states that an image, opened or decoded, is shown in another orientation than it is stored."""
    try:
        return image.getexif().get(ORIENTATION) in TURNED
    except _BROKEN:
        return False


def read_header_and_turn(content: bytes) -> tuple[Header | None, bool]:
    """Return what `read_header` and `is_turned` return, without decoding pixels."""
    try:
        image, header = _opened(content)
    except UndecodableImage:
        return None, False
    return header, image is not None and is_turned(image)


def decode(content: bytes) -> Image.Image:
    """Decode an image and convert it to RGB as `rgb` does.

    Args:
        content: Encoded image. Of several frames the first is used.

    Returns:
        Image in mode RGB.

    Raises:
        UndecodableImage: The bytes are not an image of `FORMATS`, are truncated or damaged, or have more than `MAX_PIXELS` pixels.
    """
    image, header = _opened(content)
    if image is None or header.is_too_large:
        raise UndecodableImage(f"{header.width} x {header.height} are more than {MAX_PIXELS} pixels")
    return rgb(image)


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
        raw_mode, low_bytes = _raw_mode(image), _low_bytes(image)
        image.load()
        return _as_rgb(image, raw_mode, low_bytes)
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


def _opened(content: bytes) -> tuple[Image.Image | None, Header]:
    """Open an image without decoding pixels; None for the image if it is too large to be opened."""
    if (webp := _webp_header(content)) and webp.is_too_large:  # the decoder would reserve memory for all pixels
        return None, webp
    try:
        image = _by_plugin(without_texts(content))
    except _BROKEN as error:
        raise UndecodableImage(f"no header of {', '.join(FORMATS)}: {_reason(error)}") from None
    width, height = image.size
    if width < 1 or height < 1:
        raise UndecodableImage(f"has no pixels: {width} x {height}")
    if max(width, height) > MAX_SIDE:
        raise UndecodableImage(f"{width} x {height} is not the size of an image")
    return image, Header(width, height, image.format or "")


def _by_plugin(content: bytes) -> Image.Image:
    """Open an image as `Image.open` does, without its own limit of sizes and the warning about them."""
    refused: Exception = ValueError("unknown beginning")
    for name in PLUGINS:
        factory, accepts = Image.OPEN[name]
        if accepts is None or accepts(content[:16]) is True:
            try:
                image: Image.Image = factory(io.BytesIO(content), "")
            except (SyntaxError, IndexError, TypeError, struct.error) as error:  # those after which Pillow tries others
                refused = error
            else:
                return image
    raise refused


def _webp_header(content: bytes) -> Header | None:
    """Return the header of a WebP file; None for another file, or an incomplete one."""
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP" or len(content) < 30:
        return None
    match content[12:16]:
        case b"VP8X":
            width, height = (1 + int.from_bytes(content[at : at + 3], "little") for at in (24, 27))
        case b"VP8L":
            bits = int.from_bytes(content[21:25], "little")
            width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case b"VP8 ":
            width, height = (int.from_bytes(content[at : at + 2], "little") & 0x3FFF for at in (26, 28))
        case _:
            return None
    return Header(width, height, "WEBP")


def _as_rgb(image: Image.Image, raw_mode: str, low_bytes: npt.NDArray[np.uint8] | None) -> Image.Image:
    """Return a loaded image in RGB.

    Args:
        image: Loaded image.
        raw_mode: Layout of its pixels in the file; empty if unknown.
        low_bytes: (H, W, 3), the lower bytes of 16-bit colors with a transparent one; None for other images.

    Returns:
        Image in mode RGB, transparent pixels on white.

    Raises:
        UndecodableImage: Pixels are floating point.
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode == "F":
        raise UndecodableImage(
            "cannot be decoded: floating point images are not supported, because their value range is unknown"
        )
    key = image.info.get("transparency")
    if image.mode == "I" or image.mode.startswith("I;16"):
        gray_HW = np.asarray(image)
        shown_HW = np.clip(gray_HW >> (_bits(image) - 8), 0, 255).astype(np.uint8)
        if _is_inverted(image):
            shown_HW = 255 - shown_HW
        return Image.fromarray(shown_HW if key is None else np.where(gray_HW == key, 255, shown_HW)).convert("RGB")
    if low_bytes is not None and isinstance(key, tuple):
        color_HW3 = np.asarray(image) * np.uint16(256) + low_bytes
        is_shown_HW1 = (color_HW3 != np.array(key)).any(axis=2, keepdims=True)
        return Image.fromarray(np.where(is_shown_HW1, np.asarray(image), np.uint8(255)))
    if raw_mode in SCALED_GRAY and isinstance(key, int):
        image.info["transparency"] = key * SCALED_GRAY[raw_mode]  # Pillow scales the pixels, and not their key
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _raw_mode(image: Image.Image) -> str:
    """Return Pillow's name for the layout of the pixels in a PNG that is not loaded yet; else an empty text."""
    tiles: Any = getattr(image, "tile", None)
    return str(tiles[0].args) if image.format == "PNG" and tiles else ""


def _low_bytes(image: Image.Image) -> npt.NDArray[np.uint8] | None:
    """Return the lower bytes (H, W, 3) of a PNG with 16-bit colors of which one is transparent; None for other images.

    Pillow keeps the upper bytes, which do not tell the transparent color from similar ones.
    """
    file: Any = getattr(image, "fp", None)
    if _raw_mode(image) != "RGB;16B" or "transparency" not in image.info or file is None:
        return None
    position = file.tell()
    file.seek(0)
    twin: Any = _by_plugin(without_texts(file.read()))
    file.seek(position)
    twin.tile = [twin.tile[0]._replace(args="RGB;16L")]  # the other of the two bytes
    return np.array(twin)


def _bits(image: Image.Image) -> int:
    """Return the bits of a gray pixel: 12 for some TIFFs, else 16."""
    stated = getattr(image, "tag_v2", {}).get(TiffImagePlugin.BITSPERSAMPLE, ())
    return 12 if stated == (12,) else 16


def _is_inverted(image: Image.Image) -> bool:
    """Return whether 0 is white in a gray TIFF. Pillow honors it for 8 bits only."""
    return getattr(image, "tag_v2", {}).get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO


def _reason(error: Exception) -> str:
    return str(error).replace("<_io.BytesIO object at", "<bytes at") or type(error).__name__

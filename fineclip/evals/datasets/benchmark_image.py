"""One image of a benchmark, in the same form for every layout."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fineclip.errors import DataError
from fineclip.shards import BenchmarkBox
from fineclip.shards.images import read_header


class BenchmarkClass(NamedTuple):
    """Class of boxes: a thing is countable, stuff is not."""

    name: str
    is_thing: bool


@dataclass(frozen=True, slots=True)
class BenchmarkImage:
    """Encoded image with its captions and boxes.

    Attributes:
        file: File that holds the image.
        offset: Position of its first byte in the file.
        content: Its bytes.
        width: Pixels.
        height: Pixels.
        captions: Texts that describe it.
        boxes: Boxes in pixels of the image.
    """

    file: Path
    offset: int
    content: bytes
    width: int
    height: int
    captions: list[str]
    boxes: list[BenchmarkBox]


class Contents(NamedTuple):
    """Data of a benchmark: its classes, if it has boxes, and its images, each read when the iterator reaches it."""

    classes: list[BenchmarkClass]
    images: Iterator[BenchmarkImage]


def read_image(file: Path, *, captions: list[str]) -> BenchmarkImage:
    """Read an image from its own file, without boxes.

    Args:
        file: JPEG or another supported format.
        captions: Texts that describe the image; may be empty.

    Returns:
        Encoded image with offset 0 and the size from its header.

    Raises:
        DataError: The file cannot be read, is not an image of a supported format, or has too many pixels.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    header = read_header(content)
    if header is None:
        raise DataError(f"{file}: is not an image of a supported format. Download it again.")
    if header.is_too_large:
        raise DataError(f"{file}: {header.width} x {header.height} are more pixels than are decoded. Leave it out.")
    return BenchmarkImage(file, 0, content, header.width, header.height, captions, [])

"""An image of a benchmark, as any layout gives it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fineclip.errors import DataError
from fineclip.shards import BenchmarkBox
from fineclip.shards.images import read_header


class BenchmarkClass(NamedTuple):
    """A class that boxes are named by: a thing can be counted, stuff cannot."""

    name: str
    is_thing: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded image, which lies in `file` from `offset`, its size in pixels, and what belongs to it."""

    file: Path
    offset: int
    content: bytes
    width: int
    height: int
    captions: list[str]
    boxes: list[BenchmarkBox]


class Contents(NamedTuple):
    """What a benchmark's data holds: its classes, where it has boxes, and its images, read when they are asked for."""

    classes: list[BenchmarkClass]
    pictures: Iterator[Picture]


def picture_of(file: Path, *, captions: list[str]) -> Picture:
    """The image in a file of its own, without boxes.

    Raises:
        DataError: it cannot be read, or no decoder we trust reads its header.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    header = read_header(content)
    if header is None:
        raise DataError(f"{file}: is no image, or one of a format that is not read. Fetch it again.")
    return Picture(file, 0, content, header.width, header.height, captions, [])

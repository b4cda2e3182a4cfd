"""Boxes of one image as a file of labels states them, and what the readers of such files share."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fineclip.errors import DataError
from fineclip.readers.text import decode_text, lines_of
from fineclip.types import Box

MOST_BYTES = 64_000_000  # of one file of labels or names: far above any real one, and bounds the memory of a wrong file
NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?", re.ASCII)


class ScoredBox(NamedTuple):
    """A box with the name of its class and its score; unclipped and not rounded."""

    box: Box
    label: str
    score: float = 1.0


class ImageBoxes(NamedTuple):
    """All boxes of one image.

    Attributes:
        image: Name of the image, with or without a suffix.
        boxes: Boxes in file order.
        width: Width of the image in pixels as the file states it, or None.
        height: Height likewise.
        fractions: Whether edges are fractions of width and height, and not pixels.
    """

    image: str
    boxes: list[ScoredBox]
    width: int | None = None
    height: int | None = None
    fractions: bool = False


def read_labels(path: Path) -> bytes:
    """Return the bytes of a file of labels.

    Args:
        path: File of at most `MOST_BYTES`.

    Returns:
        Its content.

    Raises:
        DataError: The file cannot be read, or is larger.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}. Make it readable.") from None
    if len(content) > MOST_BYTES:
        raise DataError(
            f"{path}: is larger than {MOST_BYTES / 1e6:.0f} MB, too large for labels of images. Move it away."
        )
    return content


def numbered_lines(content: bytes) -> Iterator[tuple[int, str]]:
    """Yield number, from 1, and text of each line that is not blank; LF, CR LF and CR end a line."""
    lines = lines_of(decode_text(content))
    return ((number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip())


def number_of(text: str, where: str, what: str) -> float:
    """Return a finite number.

    Args:
        text: Decimal number with a point; a comma is refused.
        where: File and line, for messages.
        what: Name of the number, for messages.

    Returns:
        The number.

    Raises:
        DataError: The text is something else.
    """
    number = float(text) if NUMBER.fullmatch(text.strip()) else math.nan
    if not math.isfinite(number):
        comma = " with a point and not a comma" if "," in text else ""
        raise DataError(f"{where}: {what} is {text!r:.40}, expected a number{comma}. Correct it.")
    return number


def score_of(text: str, where: str) -> float:
    """Return a score.

    Args:
        text: Number from 0 to 1.
        where: File and line, for messages.

    Returns:
        The score.

    Raises:
        DataError: The text is something else.
    """
    score = number_of(text, where, "the score")
    if not 0 <= score <= 1:
        raise DataError(f"{where}: the score is {text}, expected a number from 0 to 1. Correct it.")
    return score

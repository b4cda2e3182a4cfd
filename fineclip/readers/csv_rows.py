"""Rows of CSV files that users bring, as Excel, pandas and people write them.

A CSV is decoded as every text is. Its separator is the one of comma, semicolon, tab and `|` under which the first line has the
expected columns, or the one that Excel's line `sep=;` states. Line numbers in messages are those of an editor: the breaks
inside quoted values count.
"""

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fineclip.errors import DataError
from fineclip.readers.text import decode_text, lines_of, read_bytes

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "|"}
LONGEST_HEADER = 100_000  # characters that are searched for the first line
EXAMPLE = '"a dog, running"'


class Line(NamedTuple):
    """Values of one row, and the number of the line on which it begins, from 1."""

    number: int
    values: list[str]


def csv_rows(path: Path, forms: Sequence[Collection[str]]) -> Iterator[Line]:
    """Yield the header and then the rows of a CSV, without blank ones.

    Args:
        path: File in any encoding that `decode_text` knows.
        forms: Sets of columns; the separator is the first under which the header has all of one set.

    Yields:
        Header as written, and rows with as many values.

    Raises:
        DataError: The file cannot be read, a quotation is not closed, or a row has more or fewer values than the header.
    """
    text = decode_text(read_bytes(path))
    separator, is_stated = _separator(text, forms)
    lines = _lines(path, text, separator)
    if is_stated:
        next(lines)
    header = next(lines, Line(1, []))
    if any("\0" in name for name in header.values):
        raise DataError(
            f"{path}: holds NUL characters: it is UTF-16 without a byte order mark, or no text. Save it as UTF-8."
        )
    yield header
    for line in lines:
        if len(line.values) != len(header.values):
            raise DataError(
                f"{path}: line {line.number} has {len(line.values)} values, and the first line {len(header.values)}:"
                f" {separator.join(line.values)!r:.80}. Quote each value that contains {SEPARATORS.get(separator, separator)} or"
                f" a line break, such as {EXAMPLE.replace(',', separator)}"
            )
        yield line


def require_columns(path: Path, found: Sequence[str], required: Sequence[str]) -> None:
    """Check that a table has columns, each once.

    Args:
        path: The table, for messages.
        found: Names of its columns.
        required: Names that it must have.

    Raises:
        DataError: A name is absent or occurs twice. A name that differs by blanks or capitals is pointed out.
    """
    missing = [name for name in required if name not in found]
    if missing:
        similar = [(name, plain) for name in found if (plain := _plain(name)) in missing]
        advice = " ".join(f"Rename {name!r} to {plain!r}." for name, plain in similar)
        advice = advice or f"Name them so: {','.join(required)}"
        raise DataError(
            f"{path}: has no column {' and no column '.join(missing)}; it has {', '.join(found) or 'none'}. {advice}"
        )
    twice = [name for name in required if list(found).count(name) > 1]
    if twice:
        raise DataError(f"{path}: has {list(found).count(twice[0])} columns {twice[0]}. Keep one of them.")


def _lines(path: Path, text: str, separator: str) -> Iterator[Line]:
    """Yield the rows that are not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    number = 1
    try:
        for values in reader:
            if any(map(str.strip, values)):
                yield Line(number, values)
            number = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}: line {number} cannot be read as CSV: {error}. Quote values that contain"
            f" {SEPARATORS.get(separator, separator)} or quotation marks, and write a quotation mark inside as two."
        ) from None


def _separator(text: str, forms: Sequence[Collection[str]]) -> tuple[str, bool]:
    """Return the separator, and whether the first line is Excel's statement of it."""
    first = next((line for line in lines_of(text[:LONGEST_HEADER]) if line.strip()), "")
    stated = first.strip(' "')
    if stated[:4].lower() == "sep=" and len(stated) == len("sep=;"):
        return stated[-1], True
    for separator in SEPARATORS:
        names = {_plain(name) for name in first.split(separator)}
        if any(names >= set(map(_plain, form)) for form in forms):
            return separator, False
    return ",", False


def _plain(name: str) -> str:
    return name.strip(' \t"').casefold()

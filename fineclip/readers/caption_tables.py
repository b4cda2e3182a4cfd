"""Tables of captions that users bring: CSV or parquet with columns `image` and `caption`.

A CSV is decoded as every text is. Its separator is the one of comma, semicolon, tab and `|` under which the first line has both
columns, or the one that Excel's line `sep=;` states. Line numbers in messages are those of an editor: the breaks inside
quoted values count.
"""

import csv
import io
import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from fineclip.errors import DataError
from fineclip.readers.text import decode_text, lines_of, read_bytes

log = logging.getLogger(__name__)

IMAGE, CAPTION = COLUMNS = ("image", "caption")
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "|"}
EXAMPLE = 'image.jpg,"a dog, running"'


class Line(NamedTuple):
    """Values of one row of a CSV, and the line on which it begins, from 1."""

    number: int
    values: list[str]


def captions_by_image(table: Path) -> dict[str, list[str]]:
    """Return the captions of each image of a table with columns `image` and `caption`; several rows per image are allowed.

    Rows without a name are left out and counted in the log.

    Args:
        table: .csv, .tsv or .parquet. Paths in column `image` are relative to `source.root`; numbers are written without
            a fraction (`1.0` of a numeric column is `1`).

    Returns:
        Captions by the name of the image as written, in the order of the table.

    Raises:
        DataError: The table cannot be read, lacks one of the columns, or a row has another number of values than there are
            columns.
    """
    captions: dict[str, list[str]] = defaultdict(list)
    n_unnamed = 0
    for image, texts in _parquet_rows(table) if table.suffix.lower() == ".parquet" else _csv_rows(table):
        if not image.strip():
            n_unnamed += 1
            continue
        captions[image] += texts
    if n_unnamed:
        log.warning("%s: %d rows name no image and are left out", table, n_unnamed)
    return dict(captions)


def _csv_rows(table: Path) -> Iterator[tuple[str, list[str]]]:
    text = decode_text(read_bytes(table))
    separator, is_stated = _separator(text)
    lines = _csv_lines(table, text, separator)
    if is_stated:
        next(lines)
    header = next(lines, Line(1, []))
    _require_columns(table, header.values)
    image, caption = (header.values.index(name) for name in COLUMNS)
    for number, values in lines:
        if len(values) != len(header.values):
            raise DataError(
                f"{table}: line {number} has {len(values)} values, and the first line {len(header.values)}:"
                f" {separator.join(values)!r:.80}. Quote each value that contains {SEPARATORS.get(separator, separator)} or a line"
                f" break, such as {EXAMPLE.replace(',', separator)}"
            )
        yield values[image], [values[caption]]


def _csv_lines(table: Path, text: str, separator: str) -> Iterator[Line]:
    """Yield the rows of a CSV that are not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    number = 1
    try:
        for values in reader:
            if any(map(str.strip, values)):
                yield Line(number, values)
            number = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{table}: line {number} cannot be read as CSV: {error}. Quote values that contain"
            f" {SEPARATORS.get(separator, separator)} or quotation marks, and write a quotation mark inside as two."
        ) from None


def _separator(text: str) -> tuple[str, bool]:
    """Return the separator of a CSV, and whether its first line is Excel's statement of it."""
    first = next((line for line in lines_of(text[:100_000]) if line.strip()), "")
    if first.strip().strip('"').lower().startswith("sep=") and len(first.strip().strip('"')) <= len("sep=") + 1:
        return (first.strip('"\r\n ')[len("sep=") :] or "\t"), True
    for separator in SEPARATORS:
        names = [_plain(name) for name in first.split(separator)]
        if set(names) >= set(COLUMNS):
            return separator, False
    return ",", False


def _plain(name: str) -> str:
    return name.strip(' \t"').casefold()


def _parquet_rows(table: Path) -> Iterator[tuple[str, list[str]]]:
    try:
        schema = pq.read_schema(table)
        _require_columns(table, schema.names)
        _require_types(table, schema)
        for batch in pq.ParquetFile(table).iter_batches(columns=list(COLUMNS)):
            images, captions = (batch.column(name).to_pylist() for name in COLUMNS)
            for image, found in zip(images, captions, strict=True):
                texts = found if isinstance(found, list) else [found]
                yield _written(image), [_written(text) for text in texts if text is not None]
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{table}: cannot be read as parquet: {error}") from None
    except OSError as error:
        raise DataError(f"{table}: cannot be read: {error}. Make it readable, or write it again.") from None


def _written(value: Any) -> str:
    """Return a value of a parquet as text: null is empty, and 1.0 is 1, as in a column of numbers with a gap."""
    if isinstance(value, bytes):
        return decode_text(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def _require_columns(table: Path, found: Sequence[str]) -> None:
    missing = [name for name in COLUMNS if name not in found]
    if missing:
        similar = [(name, plain) for name in found if (plain := _plain(name)) in missing]
        advice = " ".join(f"Rename {name!r} to {plain!r}." for name, plain in similar) or "Name them so: image,caption"
        raise DataError(
            f"{table}: has no column {' and no column '.join(missing)}; it has {', '.join(found) or 'none'}. {advice}"
        )
    twice = [name for name in COLUMNS if list(found).count(name) > 1]
    if twice:
        raise DataError(f"{table}: has {list(found).count(twice[0])} columns {twice[0]}. Keep one of them.")


def _require_types(table: Path, schema: pa.Schema) -> None:
    for name in COLUMNS:
        kind = schema.field(name).type
        inner = kind.value_type if name == CAPTION and _is_list(kind) else kind
        if not _is_text_or_number(inner.value_type if types.is_dictionary(inner) else inner):
            several = ", or lists of texts" if name == CAPTION else ", relative to source.root"
            raise DataError(f"{table}: column {name} is of type {kind}, expected texts{several}. Convert the column.")


def _is_list(kind: pa.DataType) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_text_or_number(kind: pa.DataType) -> bool:
    tests = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary, types.is_fixed_size_binary)
    return any(test(kind) for test in (*tests, types.is_integer, types.is_floating, types.is_null))

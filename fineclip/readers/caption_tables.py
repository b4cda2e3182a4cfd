"""Tables of captions that users bring: CSV or parquet with columns `image` and `caption`."""

import logging
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from fineclip.errors import DataError
from fineclip.readers.csv_rows import csv_rows, require_columns
from fineclip.readers.text import decode_text

log = logging.getLogger(__name__)

IMAGE, CAPTION = COLUMNS = ("image", "caption")


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
    lines = csv_rows(table, [COLUMNS])
    header = next(lines).values
    require_columns(table, header, COLUMNS)
    image, caption = map(header.index, COLUMNS)
    for _, values in lines:
        yield values[image], [values[caption]]


def _parquet_rows(table: Path) -> Iterator[tuple[str, list[str]]]:
    try:
        schema = pq.read_schema(table)
        require_columns(table, schema.names, COLUMNS)
        _require_types(table, schema)
        for batch in pq.ParquetFile(table).iter_batches(columns=list(COLUMNS)):
            images, captions = (batch.column(name).to_pylist() for name in COLUMNS)
            for image, found in zip(images, captions, strict=True):
                texts = found if isinstance(found, list) else [found]
                yield written(image), [written(text) for text in texts if text is not None]
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{table}: cannot be read as parquet: {error}") from None
    except OSError as error:
        raise DataError(f"{table}: cannot be read: {error}. Make it readable, or write it again.") from None


def written(value: Any) -> str:
    """Return a value of a parquet as text: null is empty, and 1.0 is 1, as in a column of numbers with a gap."""
    if isinstance(value, bytes):
        return decode_text(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


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

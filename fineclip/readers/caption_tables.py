"""Tables of captions that users bring: CSV or parquet with columns `image` and `caption`."""

import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fineclip.errors import DataError

COLUMNS = ("image", "caption")


def captions_by_image(table: Path) -> dict[str, list[str]]:
    """Return the captions of each image of a .csv or .parquet with columns `image` and `caption`; several rows per image are allowed.

    Args:
        table: Paths in column `image` are relative to `source.root`.

    Returns:
        Captions by normalized path, in the order of the table.

    Raises:
        DataError: The table cannot be read, or lacks one of the columns.
    """
    captions: dict[str, list[str]] = defaultdict(list)
    for row in _csv_rows(table) if table.suffix.lower() == ".csv" else _parquet_rows(table):
        texts = row["caption"] if isinstance(row["caption"], list) else [row["caption"]]
        image = PurePosixPath(str(row["image"] or "")).as_posix()
        captions[image] += [str(text) for text in texts if text is not None]
    return dict(captions)


def _csv_rows(table: Path) -> Iterator[dict[str, Any]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            _require_columns(table, reader.fieldnames or ())
            yield from reader
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(
            f"{table}: cannot be read as CSV: {error}. Save it as UTF-8 with commas, and quote values that contain commas."
        ) from None


def _parquet_rows(table: Path) -> Iterator[dict[str, Any]]:
    try:
        _require_columns(table, pq.read_schema(table).names)
        yield from pq.ParquetFile(table).read(columns=list(COLUMNS)).to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"{table}: cannot be read as parquet: {error}") from None


def _require_columns(table: Path, found: Sequence[str]) -> None:
    missing = [name for name in COLUMNS if name not in found]
    if missing:
        raise DataError(
            f"{table}: has no column {' and no column '.join(missing)}; it has {', '.join(found) or 'none'}."
            " Name them so: image,caption"
        )

"""Source kind folder: images with captions in NAME.txt beside NAME.jpg, one per line, or in one table.

There is a row for every image, and for every image that the table names and that does not exist. A blank text counts as a
caption; the filter decides about it.
"""

import csv
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fineclip.config import FolderSource
from fineclip.errors import DataError
from fineclip.shards import sha256_of
from fineclip.stages.source.files import files_below, is_image
from fineclip.stages.source.samples import Samples, fingerprint, sample_row
from fineclip.stages.source.shard_plan import captions_table
from fineclip.stages.source.text_encoding import captions_of, decoded

log = logging.getLogger(__name__)

COLUMNS = ("image", "caption")


def folder_samples(config: FolderSource) -> Samples:
    """Return every sample of a folder.

    Args:
        config: Folder, and the table of captions if there is one.

    Returns:
        Hashes of the folder and of the table, and lazily made rows.

    Raises:
        ConfigError: The table of captions does not exist.
        DataError: The table cannot be read, lacks a column, or names no image under root.
    """
    root = Path(config.root)
    files = dict(sorted((name, entry.stat().st_size) for name, entry in files_below(root)))
    images = {name: size for name, size in files.items() if is_image(name)}
    table = captions_table(config)
    if table is None:
        beside = [name for name in files if name.lower().endswith(".txt")]
        found = {name: decoded((root / name).read_bytes()).splitlines() or [""] for name in beside}
        texts = {name: found[text] for name, text in texts_beside(images, found).items()}
        inputs = {config.root: fingerprint(images, found)}
    else:
        texts = captions_by_image(table)
        inputs = {config.root: fingerprint(images, {}), table.as_posix(): sha256_of(table)}
        if texts and not texts.keys() & images.keys():
            raise DataError(
                f"{table}: none of its {len(texts)} images is under {root}; the first is {next(iter(texts))!r}. The column"
                " `image` must hold paths relative to source.root."
            )
    names = chain(images, (name for name in texts if name not in images))
    return Samples(inputs, (sample_row(root, name, images, captions_of(texts.get(name, ()))) for name in names))


def texts_beside(images: Mapping[str, int], texts: Mapping[str, list[str]]) -> dict[str, str]:
    """Return the text file of each image that has one: in the same folder, with the same name up to the last dot."""
    by_stem = {_stem(name): name for name in texts}
    beside = {name: by_stem[_stem(name)] for name in images if _stem(name) in by_stem}
    alone = len(set(texts) - set(beside.values()))
    if alone:
        log.info("%d .txt files have no image beside them and are skipped", alone)
    return beside


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


def _stem(name: str) -> str:
    return name[: name.rindex(".")]

"""The way up from a manifest to the tables that it was made from, stage by stage."""

from pathlib import Path
from typing import TypeVar

from fineclip.errors import ShardError
from fineclip.shards import PieceReader, Row, SourceRow, input_manifest, kept_rows, read_manifest

ORDER = ("source", "filter", "detect", "caption", "pack")

R = TypeVar("R", bound=Row)


def chain(manifest: Path) -> dict[str, Path]:
    """The manifest of every stage from `source` to the one given, in that order.

    Raises:
        ShardError: one is absent, or the one given is of no stage that a shard passes through.
    """
    stage = read_manifest(manifest).stage
    if stage not in ORDER:
        raise ShardError(f"{manifest}: is a manifest of {stage}; expected one of {', '.join(ORDER)}")
    found = {stage: manifest}
    for name in reversed(ORDER[: ORDER.index(stage)]):
        manifest = input_manifest(manifest, name)
        found[name] = manifest
    return dict(reversed(found.items()))


def kept_by_key(manifest: Path, row_type: type[R]) -> dict[str, R]:
    """The kept rows of a table by key, in order."""
    return {row.key: row for row in kept_rows(manifest, row_type)}


def row_of(key: str, rows: dict[str, R], manifest: Path) -> R:
    """The row of a sample in a table further up.

    Raises:
        ShardError: there is none: the tables do not belong together.
    """
    if key not in rows:
        raise ShardError(
            f"{manifest.with_suffix('.parquet')}: keeps no sample {key}, though a table made from it has one."
            f" Delete {manifest} and run again."
        )
    return rows[key]


def content_of(row: SourceRow, reader: PieceReader) -> bytes:
    """The encoded image of a sample.

    Raises:
        ShardError: its file is gone or cut.
    """
    return reader.read(row.file or "", row.offset, row.size)

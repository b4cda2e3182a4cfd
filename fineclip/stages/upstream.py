"""The way up from a manifest to the tables that it was made from, stage by stage; from a selection to its shards."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from fineclip.errors import ShardError
from fineclip.shards import ByteRangeReader, Row, SelectRow, SourceRow, input_manifest, kept_rows, read_manifest

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


def keys_by_shard(select: Path) -> dict[str, list[str]]:
    """Selected keys of each shard, shards and keys in the order of the selection."""
    keys: dict[str, list[str]] = {}
    for row in kept_rows(select, SelectRow):
        keys.setdefault(row.shard, []).append(row.key)
    return keys


def manifests_of(shards: Iterable[str], given: Sequence[Path], *, stage: str, select: Path) -> dict[str, Path]:
    """The manifest of `stage` of each shard that a selection uses, in their order; others are not looked at.

    Raises:
        ShardError: one is not among those given.
    """
    by_name, wanted = {path.stem: path for path in given}, list(shards)
    absent = [name for name in wanted if name not in by_name]
    if absent:
        raise ShardError(
            f"{select}: selects samples of {len(absent)} shards without a manifest of {stage}, {absent[0]} the first of them."
            " Make theirs too, or hand over their manifests."
        )
    return {name: by_name[name] for name in wanted}


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


def content_of(row: SourceRow, reader: ByteRangeReader) -> bytes:
    """The encoded image of a sample.

    Raises:
        ShardError: its file is gone or cut.
    """
    return reader.read(row.file or "", row.offset, row.size)

"""Lookup of the tables that a manifest was made from, stage by stage, and of the shards of a selection."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from fineclip.errors import ShardError
from fineclip.shards import (
    ByteRangeReader,
    Manifest,
    Row,
    SelectRow,
    SourceRow,
    input_manifest,
    kept_rows,
    read_manifest,
)
from fineclip.stages.declaration import lineage

R = TypeVar("R", bound=Row)


def manifest_of(path: Path, *stages: str) -> Manifest:
    """Return the manifest in a file, which must be of one of these stages.

    Args:
        path: JSON file of a manifest.
        *stages: Names of the stages.

    Returns:
        The manifest.

    Raises:
        ShardError: The file is absent, not a manifest, or a manifest of another stage.
    """
    manifest = read_manifest(path)
    if manifest.stage not in stages:
        raise ShardError(f"{path}: is a manifest of {manifest.stage}; expected {' or '.join(stages)}")
    return manifest


def lineage_of(manifest: Path) -> dict[str, Path]:
    """Return the manifest of every stage of a shard from `source` to the stage of `manifest`, in order.

    Args:
        manifest: Manifest of any stage from `source` to `pack`.

    Returns:
        Paths by stage.

    Raises:
        ShardError: A manifest is absent, or `manifest` is not of a stage that makes shards.
    """
    stage = manifest_of(manifest, *lineage("pack")).stage
    found = {stage: manifest}
    for name in reversed(lineage(stage)[:-1]):
        manifest = input_manifest(manifest, name)
        found[name] = manifest
    return dict(reversed(found.items()))


def keys_by_shard(select: Path) -> dict[str, list[str]]:
    """Return the selected keys of each shard; shards and keys are in the order of the selection."""
    keys: dict[str, list[str]] = {}
    for row in kept_rows(select, SelectRow):
        keys.setdefault(row.shard, []).append(row.key)
    return keys


def manifests_of(shards: Iterable[str], given: Sequence[Path], *, stage: str, select: Path) -> dict[str, Path]:
    """Return the manifest of `stage` for each shard of a selection, in order.

    Args:
        shards: Names of the shards.
        given: Manifests to choose from; their file names are names of shards.
        stage: Name of the stage, for messages.
        select: Manifest of the selection, for messages.

    Returns:
        Manifest by name of the shard.

    Raises:
        ShardError: `given` contains no manifest of a shard.
    """
    by_name, wanted = {path.stem: path for path in given}, list(shards)
    absent = [name for name in wanted if name not in by_name]
    if absent:
        raise ShardError(
            f"{select}: selects samples of {len(absent)} shards without a manifest of {stage}; the first is {absent[0]}."
            " Make them, or pass their manifests."
        )
    return {name: by_name[name] for name in wanted}


class KeptRows(dict[str, R]):
    """Kept rows of a table by key, in order. The look-up of another key raises a `ShardError`.

    Args:
        manifest: Manifest of the table.
        row_type: Type of its rows.
    """

    def __init__(self, manifest: Path, row_type: type[R]) -> None:
        super().__init__((row.key, row) for row in kept_rows(manifest, row_type))
        self._manifest = manifest

    def __missing__(self, key: str) -> R:
        raise ShardError(
            f"{self._manifest.with_suffix('.parquet')}: keeps no sample {key}, but a table made from it has one."
            f" Delete {self._manifest} and run again."
        )


def content_of(row: SourceRow, reader: ByteRangeReader) -> bytes:
    """Return the encoded image of a sample.

    Args:
        row: Source row, which names file and byte range.
        reader: Keeps files open between calls.

    Returns:
        Bytes as stored; not decoded.

    Raises:
        ShardError: Its file is absent or truncated.
    """
    return reader.read(row.file or "", row.offset, row.size)

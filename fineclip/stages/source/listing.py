"""Index of the source kinds folder and coco: one job reads names, sizes and texts, and each shard takes a slice of the table.

The rows are ordered by SHA-256 of seed and source key, so the order is independent of the file system and a new image moves no
other one. No pixels are read: an image that is replaced by another of equal name and size is not noticed without `--force`.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from fineclip.config import CocoSource, FolderSource, SourceConfig
from fineclip.errors import ConfigError
from fineclip.identity import identity
from fineclip.shards import SourceRow, decode_rows, read_manifest, table_of
from fineclip.stages.declaration import stage
from fineclip.stages.source import INDEX_SOURCE, SOURCE
from fineclip.stages.source.coco import coco_samples
from fineclip.stages.source.folder import folder_samples
from fineclip.stages.source.shard_plan import PlannedShard


@stage(INDEX_SOURCE)
def index_source(manifest: Path, config: SourceConfig) -> None:
    """Write the table of all samples of a source, and then its manifest.

    Args:
        manifest: Path of the manifest to write; the table is written beside it.
        config: Section `source`, of kind folder or coco.

    Raises:
        ConfigError: The kind of source has no index, or an input does not exist.
        DataError: An input cannot be used.
    """
    match config:
        case FolderSource():
            inputs, samples = folder_samples(config)
        case CocoSource():
            inputs, samples = coco_samples(config)
        case _:
            raise ConfigError(
                f"source.kind: {config.kind} has no listing; folder and coco have. Run `fineclip source` directly."
            )

    def rows() -> Iterator[SourceRow]:
        for index, row in enumerate(shuffled(samples, config.seed)):
            yield replace(row, key=f"list-{index:07d}")

    recorded = {key: value for key, value in identity(config).items() if key != "images_per_shard"}
    INDEX_SOURCE.write_table(manifest, recorded, inputs, rows)


def shuffled(samples: Iterable[SourceRow], seed: int) -> list[SourceRow]:
    """Return the rows ordered by SHA-256 of seed and source key; rows of equal source key keep their order."""
    return sorted(samples, key=lambda row: hashlib.sha256(f"{seed}/{row.source_key}".encode()).digest())


class Slice(NamedTuple):
    """Rows `start` to `stop` of the table, `stop` excluded."""

    start: int
    stop: int


def slice_of(shard: PlannedShard, *, listed: int, images_per_shard: int) -> Slice:
    """Return the slice of a shard: `images_per_shard` of `listed` rows; the last shard takes all that remain.

    The number of shards follows from the number of image files. The table may be longer, by images that are named but missing, or
    shorter, by images that the table of captions or the JSON omits.
    """
    start = min(shard.position * images_per_shard, listed)
    is_last = shard.position == shard.of - 1
    return Slice(start, listed if is_last else min(start + images_per_shard, listed))


def listed_shard(shard: PlannedShard, manifest: Path, config: FolderSource | CocoSource, *, listing: Path) -> None:
    """Write the source table of one shard, a slice of the index, and then its manifest.

    Args:
        shard: Its position determines the slice.
        manifest: Path of the manifest to write.
        config: Kind of source and `images_per_shard`.
        listing: Manifest of `index-source`.

    Raises:
        ShardError: The index is absent or changed.
    """
    start, stop = slice_of(shard, listed=read_manifest(listing).read, images_per_shard=config.images_per_shard)

    def rows() -> Iterator[SourceRow]:
        part = pq.read_table(table_of(listing)).slice(start, stop - start)
        for index, row in enumerate(decode_rows(part, SourceRow)):
            yield replace(row, key=f"{shard.name}-{index:06d}")

    SOURCE.write_table(manifest, {"kind": config.kind, "rows": [start, stop]}, [listing], rows)

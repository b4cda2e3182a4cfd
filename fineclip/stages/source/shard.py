"""Stages `index-source` and `source`: a row for each sample with the byte range of its image, its texts, or the reason to drop it.

Images stay in the files of the user. Only the miniature source writes its own tar.

The kinds folder and coco have an index: one job reads names, sizes and texts, and each shard takes a slice of the table. The rows
are ordered by SHA-256 of seed and source key, so the order is independent of the file system and a new image moves no other one.
No pixels are read: an image that is replaced by another of equal name and size is not noticed without `--force`.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from fineclip.config import CocoSource, FolderSource, MiniatureSource, SourceConfig, WebDatasetSource
from fineclip.errors import ConfigError
from fineclip.identity import identity
from fineclip.shards import SourceRow, decode_rows, hashes_of, read_manifest, table_of
from fineclip.stages.declaration import stage
from fineclip.stages.source import INDEX_SOURCE, SOURCE
from fineclip.stages.source.coco import coco_samples
from fineclip.stages.source.folder import folder_samples
from fineclip.stages.source.miniature import miniature_shard
from fineclip.stages.source.shard_plan import PlannedShard
from fineclip.stages.source.webdataset import tar_samples


@stage(INDEX_SOURCE)
def index_source(manifest: Path, config: SourceConfig) -> None:
    """Write the table of all samples of a source, and then its manifest.

    Args:
        manifest: Path of the manifest to write; the table is written beside it.
        config: Section `source`, of kind folder or coco.

    Raises:
        ConfigError: The kind of source has no index, or an input does not exist.
        DataError: An input cannot be used, or there is no image.
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
    recorded = {key: value for key, value in identity(config).items() if key != "images_per_shard"}
    INDEX_SOURCE.write_table(
        manifest, recorded, inputs, lambda: numbered(shuffled(samples, config.seed), "list-{:07d}")
    )


def numbered(rows: Iterable[SourceRow], key: str) -> Iterator[SourceRow]:
    """Yield the rows with keys; `key` is the format of the key for the index of a row."""
    for index, row in enumerate(rows):
        yield replace(row, key=key.format(index))


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


@stage(SOURCE)
def source_shard_by_name(
    manifest: Path,
    config: SourceConfig,
    *,
    shard: str,
    shard_index: str,
    tars: Sequence[str],
    listing: Path | None,
) -> None:
    """Write the table of one shard that the command line names; see `source_shard`.

    Args:
        manifest: Path of the manifest to write; the table is written beside it.
        config: Section `source`.
        shard: Name of the shard.
        shard_index: I/N for shard I of N, counted from 0.
        tars: Paths of its tar files, for kind webdataset.
        listing: Manifest of `index-source`, for kinds folder and coco.

    Raises:
        ConfigError: `shard_index` is not I/N with 0 <= I < N.
    """
    position, _, of = shard_index.partition("/")
    if not (position.isdigit() and of.isdigit() and int(position) < int(of)):
        raise ConfigError(f"--shard-index {shard_index}: expected I/N with 0 <= I < N, such as 0/4")
    planned = PlannedShard(name=shard, position=int(position), of=int(of), tars=tuple(tars))
    source_shard(planned, manifest, config, listing=listing)


def source_shard(shard: PlannedShard, manifest: Path, config: SourceConfig, *, listing: Path | None = None) -> None:
    """Write the table of one shard, and then its manifest.

    Args:
        shard: The shard.
        manifest: Path of the manifest to write; the table is written beside it.
        config: Section `source`.
        listing: Manifest of `index-source`, for kinds folder and coco.

    Raises:
        ConfigError: The kind needs an index or tars, and there is none.
        DataError: An input does not exist or cannot be used.
        ShardError: A tar or table is absent, truncated or changed.
    """
    match config:
        case MiniatureSource():
            miniature_shard(shard, manifest, config)
            return
        case WebDatasetSource():
            if not shard.tars:
                raise ConfigError(f"shard {shard.name}: its tars are required: --tars a.tar b.tar")
            inputs, samples = tar_samples(shard.tars)
            recorded: dict[str, Any] = {"kind": config.kind}
        case FolderSource() | CocoSource():
            if listing is None:
                raise ConfigError(
                    f"shard {shard.name}: kind {config.kind} needs the listing of its source. Make it with `fineclip index-source`"
                    " and pass it: --listing FILE"
                )
            rows = slice_of(shard, listed=read_manifest(listing).read, images_per_shard=config.images_per_shard)
            inputs, samples = hashes_of([listing]), listed_rows(listing, rows)
            recorded = {"kind": config.kind, "rows": list(rows)}
    SOURCE.write_table(manifest, recorded, inputs, lambda: numbered(samples, shard.name + "-{:06d}"))


def listed_rows(listing: Path, rows: Slice) -> Iterator[SourceRow]:
    """Yield a slice of the index of a source; it is read when the first row is needed."""
    yield from decode_rows(
        pq.ParquetFile(table_of(listing)).read().slice(rows.start, rows.stop - rows.start), SourceRow
    )

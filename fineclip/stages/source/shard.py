"""Stage `source`: write one row per sample of a shard with the byte range of its image, its texts, or the reason to drop it.

Images stay in the files of the user. Only the miniature source writes its own tar.
"""

from collections.abc import Sequence
from pathlib import Path

from fineclip.config import MiniatureSource, SourceConfig, WebDatasetSource
from fineclip.errors import ConfigError
from fineclip.stages.declaration import stage
from fineclip.stages.source import SOURCE
from fineclip.stages.source.shard_plan import PlannedShard


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
            from fineclip.stages.source.miniature import miniature_shard

            miniature_shard(shard, manifest, config)
        case WebDatasetSource():
            from fineclip.stages.source.webdataset import webdataset_shard

            if not shard.tars:
                raise ConfigError(f"shard {shard.name}: its tars are required: --tars a.tar b.tar")
            webdataset_shard(shard, manifest)
        case _:
            from fineclip.stages.source.listing import listed_shard

            if listing is None:
                raise ConfigError(
                    f"shard {shard.name}: kind {config.kind} needs the listing of its source. Make it with `fineclip index-source`"
                    " and pass it: --listing FILE"
                )
            listed_shard(shard, manifest, config, listing=listing)

"""The source stage: a row for each sample of a shard, where its bytes lie, its texts, and why it cannot be used.

Bytes are read where they lie; only the miniature world, which lies nowhere, writes its own. Each kind's module lists
the reasons for which it drops a sample.
"""

from collections.abc import Sequence
from pathlib import Path

from fineclip.config import MiniatureSource, SourceConfig, WebDatasetSource
from fineclip.errors import ConfigError
from fineclip.stages.declaration import stage
from fineclip.stages.source import SOURCE
from fineclip.stages.source.plan import PlannedShard


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
        manifest: Written last; the table lies beside it.
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
    """Write the table of one shard, then its manifest.

    Args:
        shard: which one.
        manifest: what is written last; its data lies beside it.
        config: of the source.
        listing: manifest of the listing, for the kinds folder and coco.

    Raises:
        ConfigError: the kind needs a listing or tars, and there is none.
        DataError, ShardError: an input is not there, cut short, or cannot be used as it is.
    """
    match config:
        case MiniatureSource():
            from fineclip.stages.source.miniature import miniature_shard

            miniature_shard(shard, manifest, config)
        case WebDatasetSource():
            from fineclip.stages.source.webdataset import webdataset_shard

            if not shard.tars:
                raise ConfigError(
                    f"shard {shard.name}: no tar is named that it is made of. Name them: --tars a.tar b.tar"
                )
            webdataset_shard(shard, manifest)
        case _:
            from fineclip.stages.source.listing import listed_shard

            if listing is None:
                raise ConfigError(
                    f"shard {shard.name}: kind {config.kind} needs the listing of its source. Make it with `fineclip index-source`"
                    " and name it: --listing FILE"
                )
            listed_shard(shard, manifest, config, listing=listing)

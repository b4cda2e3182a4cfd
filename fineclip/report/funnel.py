"""Funnel: how many samples reached each stage, how many were kept, and why the others were dropped.

The counts are those of the manifests of the planned shards. A shard without a manifest is not counted, and is named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fineclip.config import Config, MiniatureSource
from fineclip.errors import ConfigError
from fineclip.report.result_files import ResultFiles, read_valid_manifest
from fineclip.shards import Manifest
from fineclip.stages.declaration import lineage
from fineclip.stages.funnel import StageCounts, stage_counts
from fineclip.stages.source.shard_plan import longest_prefix
from fineclip.stages.source.shard_plan import planned_shards as list_shards

MOST_NAMED = 4


@dataclass(frozen=True, kw_only=True)
class Stage(StageCounts):
    """Counts of one stage, summed over its shards.

    Attributes:
        found: Shards that have a manifest.
        folder: Folder of its manifests.
    """

    found: int
    folder: Path


class Scale(NamedTuple):
    """Selection of one scale.

    Attributes:
        name: Name of the scale.
        wanted: Configured number of images; None for all.
        kept: Number of images that were selected; None if its manifest is absent.
        dropped: Number of samples by drop reason.
    """

    name: str
    wanted: int | None
    kept: int | None
    dropped: Mapping[str, int]

    @property
    def images(self) -> int | None:
        """Number of training images at this scale: selected, or configured if the selection is absent."""
        return self.wanted if self.kept is None else self.kept


class Funnel(NamedTuple):
    """Counts from the first stage to the last, the selections, and the names of the planned shards."""

    stages: Mapping[str, Stage]
    scales: tuple[Scale, ...]
    shards: tuple[str, ...]


def collect_funnel(config: Config, files: ResultFiles) -> Funnel:
    """Read the counts of every stage and scale, and note what is absent."""
    scales = []
    for name in config.plan.scales:
        read = _manifests([files.path("data", "select", f"{name}.json")], files)
        kept, dropped = (read[0].kept, read[0].dropped) if read else (None, {})
        scales.append(Scale(name, config.scales[name].images, kept, dropped))
    shards = planned_shards(config, files.root, otherwise=files.path("data", "source"))
    pair = f"{config.regions}.{config.captions}"
    inside = {"detect": [config.regions], "caption": [pair], "pack": [pair]}
    stages = {}
    for name in lineage("pack"):
        folder = files.path("data", name, *inside.get(name, []))
        found = _manifests([folder / f"{shard}.json" for shard in shards], files)
        stages[name] = Stage(**vars(stage_counts(name, found)), found=len(found), folder=folder)
    return Funnel(stages, tuple(scales), shards)


def planned_shards(config: Config, root: Path, *, otherwise: Path) -> tuple[str, ...]:
    """Return the names of the shards that the plan needs.

    Args:
        config: Validated configuration.
        root: Folder that the jobs ran in.
        otherwise: Folder of the source manifests; they name the shards if the source itself can no longer be listed.

    Returns:
        Names in the order of the source.
    """
    source = config.source
    try:
        if not isinstance(source, MiniatureSource):
            source = source.model_copy(update={"root": str(root / source.root)})
        return tuple(shard.name for shard in longest_prefix(config, list_shards(source)))
    except ConfigError:
        return tuple(sorted(path.stem for path in otherwise.glob("[!.]*.json")))


def _manifests(paths: Sequence[Path], files: ResultFiles) -> list[Manifest]:
    """Return the manifests that exist and are valid."""
    absent = [path for path in paths if not path.is_file()]
    if absent:
        note_absent(absent, of=len(paths), files=files)
    return [manifest for path in paths if (manifest := files.read(path, read_valid_manifest))]


def note_absent(paths: Sequence[Path], *, of: int, files: ResultFiles) -> None:
    """Note one problem for all absent manifests of a kind, with the end of the first log that exists.

    It names the path, or the folder and the first absent shards if the kind has several.

    Args:
        paths: Absent manifests.
        of: Number of manifests of the kind.
        files: Files of the data set.
    """
    logs = (files.path("logs", *path.relative_to(files.path("data")).with_suffix(".log").parts) for path in paths)
    log = next(filter(Path.is_file, logs), None)
    if of == 1:
        files.note(files.shown(paths[0]), "is missing: its job has not run, or has failed", log)
        return
    names = ", ".join(path.stem for path in paths[:MOST_NAMED])
    more = f" and {len(paths) - MOST_NAMED:,} more" if len(paths) > MOST_NAMED else ""
    why = f"{len(paths):,} of {of:,} shards are missing, their jobs have not run or have failed: {names}{more}"
    files.note(files.shown(paths[0].parent), why, log)

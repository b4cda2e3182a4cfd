"""Funnel: how many samples reached each stage, how many were kept, and why the others were dropped.

The counts are those of the manifests of the planned shards. A shard without a manifest is not counted, and is named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fineclip.config import Config, MiniatureSource
from fineclip.errors import ConfigError
from fineclip.report.result_files import Problem, ProblemLog, ResultPaths, last_lines, read_valid_manifest
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
        planned: Shards that the plan needs.
    """

    found: int
    planned: int


@dataclass(frozen=True)
class Scale:
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


@dataclass(frozen=True)
class Funnel:
    """Counts from the first stage to the last, the selections, and the names of the planned shards."""

    stages: tuple[Stage, ...]
    scales: tuple[Scale, ...]
    shards: tuple[str, ...]

    def stage(self, name: str) -> Stage:
        """Return the stage of that name."""
        return next(stage for stage in self.stages if stage.stage == name)


def stage_folders(config: Config, place: ResultPaths) -> dict[str, Path]:
    """Return the folder of each stage's manifests, in the order that samples pass through them."""
    pair = f"{config.regions}.{config.captions}"
    inside = {"detect": [config.regions], "caption": [pair], "pack": [pair]}
    return {name: place.data(name, *inside.get(name, [])) for name in lineage("pack")}


def collect_funnel(config: Config, place: ResultPaths, problems_log: ProblemLog) -> Funnel:
    """Read the counts of every stage and scale. A file that cannot be read is added to `problems_log`."""
    folders = stage_folders(config, place)
    selected = {name: _select_manifest(name, place, problems_log) for name in config.plan.scales}
    shards = planned_shards(config, place.root, otherwise=folders["source"])
    stages = [_count(name, folder, shards, place=place, problems_log=problems_log) for name, folder in folders.items()]
    scales = [
        Scale(
            name=name,
            wanted=config.scales[name].images,
            kept=manifest.kept if manifest else None,
            dropped=manifest.dropped if manifest else {},
        )
        for name, manifest in selected.items()
    ]
    return Funnel(tuple(stages), tuple(scales), shards)


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
        return tuple(path.stem for path in manifests_in(otherwise))


def manifests_in(folder: Path) -> list[Path]:
    """Return the manifests in a folder, without their hidden copies."""
    return sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))


def _select_manifest(scale: str, place: ResultPaths, problems_log: ProblemLog) -> Manifest | None:
    path = place.data("select", f"{scale}.json")
    if not path.is_file():
        problems_log.note(absence([path], of=1, place=place))
        return None
    return problems_log.attempt(place.shown(path), read_valid_manifest, path)


def _count(name: str, folder: Path, shards: Sequence[str], *, place: ResultPaths, problems_log: ProblemLog) -> Stage:
    paths = [folder / f"{shard}.json" for shard in shards]
    there = [path for path in paths if path.is_file()]
    if len(there) < len(paths):
        problems_log.note(absence([path for path in paths if path not in there], of=len(paths), place=place))
    read = [problems_log.attempt(place.shown(path), read_valid_manifest, path) for path in there]
    found = [manifest for manifest in read if manifest]
    return Stage(**vars(stage_counts(name, found)), found=len(found), planned=len(shards))


def absence(paths: Sequence[Path], *, of: int, place: ResultPaths) -> Problem:
    """Return one problem for all absent manifests of a kind, with the end of the first log that exists.

    Args:
        paths: Absent manifests.
        of: Number of manifests of the kind.
        place: Folders of the data set.

    Returns:
        Problem that names the path, or the folder and the first absent shards if the kind has several.
    """
    names = ", ".join(path.stem for path in paths[:MOST_NAMED])
    more = f" and {len(paths) - MOST_NAMED:,} more" if len(paths) > MOST_NAMED else ""
    logs = (place.logs(*path.relative_to(place.data()).with_suffix(".log").parts) for path in paths)
    log = next((log for log in logs if log.is_file()), None)
    return Problem(
        what=place.shown(paths[0] if of == 1 else paths[0].parent),
        why="is missing: its job has not run, or has failed"
        if of == 1
        else f"{len(paths):,} of {of:,} shards are missing, their jobs have not run or have failed: {names}{more}",
        log_path=place.shown(log) if log else "",
        log_tail=last_lines(log) if log else "",
    )

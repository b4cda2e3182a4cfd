"""How many samples came to each stage, how many went on, and why the others did not.

Counted from the manifests of the planned shards; one that is not there is left out of the counts and named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fineclip.config import Config, MiniatureSource
from fineclip.errors import ConfigError
from fineclip.report.reading import Ledger, Place, Problem, last_lines, sound_manifest
from fineclip.shards import Manifest
from fineclip.stages.funnel import stage_counts
from fineclip.stages.source.shard_plan import images_per_shard, shards_needed
from fineclip.stages.source.shard_plan import planned_shards as list_shards

MOST_NAMED = 4


@dataclass(frozen=True)
class Stage:
    """The sum over the shards of one stage. `planned` counts shards, `found` those that have a manifest.

    `uncaptioned` counts the regions among `regions` that the stage left without a caption.
    """

    name: str
    read: int
    kept: int
    dropped: Mapping[str, int]
    regions: int
    found: int
    planned: int
    uncaptioned: int = 0


@dataclass(frozen=True)
class Scale:
    """What one scale was drawn from: `kept` images are in it; None where its manifest is not there."""

    name: str
    wanted: int | None
    kept: int | None
    dropped: Mapping[str, int]

    @property
    def images(self) -> int | None:
        """How many images a training at this scale sees, as far as is known."""
        return self.wanted if self.kept is None else self.kept


@dataclass(frozen=True)
class Funnel:
    """From the first sample to the last."""

    stages: tuple[Stage, ...]
    scales: tuple[Scale, ...]
    shards: tuple[str, ...]

    def stage(self, name: str) -> Stage:
        """The stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)


def stage_folders(config: Config, place: Place) -> dict[str, Path]:
    """The folder of each stage's manifests, in the order that samples pass through them."""
    pair = f"{config.regions}.{config.captions}"
    return {
        "source": place.data("source"),
        "filter": place.data("filter"),
        "detect": place.data("detect", config.regions),
        "caption": place.data("caption", pair),
        "pack": place.data("pack", pair),
    }


def collect_funnel(config: Config, place: Place, ledger: Ledger) -> Funnel:
    """The counts of every stage and scale that can be read."""
    folders = stage_folders(config, place)
    selected = {name: _select_manifest(name, place, ledger) for name in config.plan.scales}
    shards = planned_shards(config, place.root, otherwise=folders["source"])
    stages = [_count(name, folder, shards, place=place, ledger=ledger) for name, folder in folders.items()]
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
    """Names of the shards that the plan needs; where the input is gone and cannot be counted, those with a source.

    Args:
        config: the plan and the source.
        root: the folder that the jobs ran in.
        otherwise: folder of the source manifests.
    """
    plan, source = config.plan, config.source
    try:
        if not isinstance(source, MiniatureSource):
            source = source.model_copy(update={"root": str(root / source.root)})
        available = list_shards(source)
        needed = [
            shards_needed(
                scale,
                share_kept=plan.share_kept if scale.share_kept is None else scale.share_kept,
                margin=plan.margin if scale.margin is None else scale.margin,
                images_per_shard=images_per_shard(source),
                available=len(available),
            )
            for scale in (config.scales[name] for name in plan.scales)
        ]
        return tuple(shard.name for shard in available[: max(needed, default=0)])
    except ConfigError:
        return tuple(path.stem for path in manifests_in(otherwise))


def manifests_in(folder: Path) -> list[Path]:
    """The manifests that lie in a folder, without their hidden copies."""
    return sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))


def _select_manifest(scale: str, place: Place, ledger: Ledger) -> Manifest | None:
    path = place.data("select", f"{scale}.json")
    if not path.is_file():
        ledger.note(absence([path], of=1, place=place))
        return None
    return ledger.attempt(place.shown(path), sound_manifest, path)


def _count(name: str, folder: Path, shards: Sequence[str], *, place: Place, ledger: Ledger) -> Stage:
    paths = [folder / f"{shard}.json" for shard in shards]
    there = [path for path in paths if path.is_file()]
    if len(there) < len(paths):
        ledger.note(absence([path for path in paths if path not in there], of=len(paths), place=place))
    read = [ledger.attempt(place.shown(path), sound_manifest, path) for path in there]
    found = [manifest for manifest in read if manifest]
    counts = stage_counts(name, found)
    return Stage(
        name=name,
        read=counts.read,
        kept=counts.kept,
        dropped=counts.dropped,
        regions=counts.regions,
        uncaptioned=sum(counts.uncaptioned.values()),
        found=len(found),
        planned=len(shards),
    )


def absence(paths: Sequence[Path], *, of: int, place: Place) -> Problem:
    """One entry for all that is not there of one kind, with the end of the first log there is."""
    names = ", ".join(path.stem for path in paths[:MOST_NAMED])
    more = f" and {len(paths) - MOST_NAMED:,} more" if len(paths) > MOST_NAMED else ""
    logs = (place.logs(*path.relative_to(place.data()).with_suffix(".log").parts) for path in paths)
    log = next((log for log in logs if log.is_file()), None)
    return Problem(
        what=place.shown(paths[0] if of == 1 else paths[0].parent),
        why="is not there: its job has not run, or has failed"
        if of == 1
        else f"{len(paths):,} of {of:,} shards are not there, their jobs have not run or have failed: {names}{more}",
        log_path=place.shown(log) if log else "",
        log_tail=last_lines(log) if log else "",
    )

"""How many samples came to each stage, how many went on, and why the others did not.

Counted from the manifests of the shards that the planned scales were drawn from; a shard that is not there is left out
of the counts and named.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fineclip.config import Config
from fineclip.report.reading import Ledger, Place, Problem, last_lines, sound_manifest
from fineclip.shards import Manifest

FIRST_WITH_REGIONS = "detect"


@dataclass(frozen=True)
class Stage:
    """The sum over the shards of one stage. `planned` counts shards, `found` those that have a manifest."""

    name: str
    read: int
    kept: int
    dropped: Mapping[str, int]
    regions: int
    found: int
    planned: int


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
    shards = planned_shards(list(selected.values()), folders["source"])
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


def planned_shards(selected: Sequence[Manifest | None], source: Path) -> tuple[str, ...]:
    """The shards that the scales were drawn from; where a scale is not drawn yet, also every one that has a source."""
    names = {
        Path(path).stem
        for manifest in selected
        if manifest
        for path in manifest.inputs
        if Path(path).parent.name == "filter"
    }
    if None in selected or not names:
        names |= {path.stem for path in manifests_in(source)}
    return tuple(sorted(names))


def manifests_in(folder: Path) -> list[Path]:
    """The manifests that lie in a folder, without their hidden copies."""
    return sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))


def _select_manifest(scale: str, place: Place, ledger: Ledger) -> Manifest | None:
    path = place.data("select", f"{scale}.json")
    if not path.is_file():
        ledger.note(_absent(path, place.logs("select", f"{scale}.log"), place))
        return None
    return ledger.attempt(place.shown(path), lambda: sound_manifest(path))


def _count(name: str, folder: Path, shards: Sequence[str], *, place: Place, ledger: Ledger) -> Stage:
    found: list[Manifest] = []
    for shard in shards:
        path = folder / f"{shard}.json"
        if path.is_file():
            manifest = ledger.attempt(place.shown(path), lambda path=path: sound_manifest(path))  # type: ignore[misc]
            found.extend([manifest] if manifest else [])
        else:
            ledger.note(_absent(path, place.logs(*path.relative_to(place.data()).with_suffix(".log").parts), place))
    dropped: Counter[str] = Counter()
    for manifest in found:
        dropped.update(manifest.dropped)
    return Stage(
        name=name,
        read=sum(manifest.read for manifest in found),
        kept=sum(manifest.kept for manifest in found),
        dropped=dict(dropped.most_common()),
        regions=sum(manifest.regions for manifest in found),
        found=len(found),
        planned=len(shards),
    )


def _absent(path: Path, log: Path, place: Place) -> Problem:
    return Problem(
        what=place.shown(path),
        why="is not there: the job that makes it has not run, or has failed",
        log_path=place.shown(log) if log.is_file() else "",
        log_tail=last_lines(log),
    )

"""Time and memory of each stage, from the tables that Snakemake writes beside the logs.

A table holds what a job took when it last ran. Its columns: `s` wall seconds, `cpu_time` CPU seconds, `max_rss` MB.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fineclip.config import Config
from fineclip.report.result_files import Ledger, Place
from fineclip.report.stage_order import JOBS


@dataclass(frozen=True)
class Job:
    """One job: `wall_s` and `cpu_s` seconds, `peak_mb` of resident memory; None where it was too short to measure."""

    wall_s: float
    cpu_s: float | None
    peak_mb: float | None


@dataclass(frozen=True)
class StageCost:
    """All jobs of one stage."""

    stage: str
    jobs: int
    wall_s: float
    longest_s: float
    cpu_s: float
    peak_mb: float


def collect_costs(config: Config, place: Place, ledger: Ledger) -> tuple[StageCost, ...]:
    """A row for each stage of which a job was timed, in the order of the work."""
    jobs: dict[str, list[Job]] = {}
    for path in sorted(place.logs().rglob("*.tsv")):
        parts = path.relative_to(place.logs()).with_suffix("").parts
        if not _is_planned(parts, config):
            continue
        job = ledger.attempt(place.shown(path), read_job, path)
        if job:
            jobs.setdefault(parts[0], []).append(job)
    known = [stage for stage in JOBS if stage in jobs]
    others = sorted(set(jobs) - set(JOBS))
    return tuple(summed(stage, jobs[stage]) for stage in [*known, *others])


def read_job(path: Path) -> Job:
    """The last line of a benchmark table.

    Raises:
        ValueError: it has no line, or no column `s` that is a number.
    """
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    wall_s = _number(lines[-1].get("s")) if lines else None
    if wall_s is None:
        raise ValueError(f"{path}: is no benchmark table of Snakemake's: it has no seconds in a column s")
    return Job(wall_s, _number(lines[-1].get("cpu_time")), _number(lines[-1].get("max_rss")))


def summed(stage: str, jobs: Sequence[Job]) -> StageCost:
    """Seconds are added up; of memory the most that one job held."""
    return StageCost(
        stage=stage,
        jobs=len(jobs),
        wall_s=sum(job.wall_s for job in jobs),
        longest_s=max(job.wall_s for job in jobs),
        cpu_s=sum(job.cpu_s or 0 for job in jobs),
        peak_mb=max(job.peak_mb or 0 for job in jobs),
    )


def _number(text: str | None) -> float | None:
    """A number that is there; Snakemake writes `-` or `NA` for a job too short to look at."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _is_planned(parts: tuple[str, ...], config: Config) -> bool:
    """Whether a job belongs to this plan: other regions, captions or runs may lie beside it."""
    match parts:
        case ("detect", regions, _):
            return regions == config.regions
        case ("caption" | "pack", pair, _):
            return pair == f"{config.regions}.{config.captions}"
        case ("texts", encoder, pair, _):
            return encoder in config.planned_encoders and pair == f"{config.regions}.{config.captions}"
        case ("train" | "evaluate", *run):
            return "/".join(run) in config.runs()
    return True

"""Time and memory of each stage, from the benchmark tables that Snakemake writes beside the logs.

A table holds the cost of the latest run of a job. Columns: `s` wall seconds, `cpu_time` CPU seconds, `max_rss` MB.
"""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fineclip.config import Config
from fineclip.report.result_files import ResultFiles
from fineclip.stages.declaration import stages

LOG_FOLDERS = {"list": "listing"}  # of stages whose logs have another name


class Job(NamedTuple):
    """Cost of one job; a field is None if the job was too short to measure it.

    Attributes:
        wall_s: Wall-clock seconds.
        cpu_s: CPU seconds.
        peak_mb: Peak resident memory in MB.
    """

    wall_s: float
    cpu_s: float | None
    peak_mb: float | None


class StageCost(NamedTuple):
    """Cost of all jobs of one stage.

    Attributes:
        stage: Name of the stage.
        jobs: Number of jobs.
        wall_s: Sum of the wall-clock seconds.
        longest_s: Wall-clock seconds of the longest job.
        cpu_s: Sum of the CPU seconds.
        peak_mb: Largest peak memory of one job, in MB.
    """

    stage: str
    jobs: int
    wall_s: float
    longest_s: float
    cpu_s: float
    peak_mb: float


def collect_costs(config: Config, files: ResultFiles) -> tuple[StageCost, ...]:
    """Return the cost of each stage that has a benchmark table, in the order of the workflow."""
    order = [LOG_FOLDERS.get(name, name) for name in stages()] + ["index", "train", "evaluate"]
    jobs: dict[str, list[Job]] = {stage: [] for stage in order}
    for path in sorted(files.path("logs").rglob("*.tsv")):
        parts = path.relative_to(files.path("logs")).with_suffix("").parts
        job = files.read(path, read_job) if _is_planned(parts, config) else None
        if job:
            jobs.setdefault(parts[0], []).append(job)
    return tuple(stage_cost(stage, measured) for stage, measured in jobs.items() if measured)


def read_job(path: Path) -> Job:
    """Read the last line of a benchmark table.

    Args:
        path: Tab-separated table of Snakemake.

    Returns:
        Wall time, CPU time and peak memory.

    Raises:
        ValueError: The table has no line, or no number in its column `s`.
    """
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    last = lines[-1] if lines else {}
    wall_s, cpu_s, peak_mb = (_number(last.get(column)) for column in ("s", "cpu_time", "max_rss"))
    if wall_s is None:
        raise ValueError(f"{path}: is not a benchmark table of Snakemake: column s has no number of seconds")
    return Job(wall_s, cpu_s, peak_mb)


def stage_cost(stage: str, jobs: Sequence[Job]) -> StageCost:
    """Return the cost of a stage: sums of seconds, and the maximum of memory."""
    return StageCost(
        stage=stage,
        jobs=len(jobs),
        wall_s=sum(job.wall_s for job in jobs),
        longest_s=max(job.wall_s for job in jobs),
        cpu_s=sum(job.cpu_s or 0 for job in jobs),
        peak_mb=max(job.peak_mb or 0 for job in jobs),
    )


def _number(text: str | None) -> float | None:
    """Return a finite number, or None; Snakemake writes `-` or `NA` if a job was too short to measure."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _is_planned(parts: tuple[str, ...], config: Config) -> bool:
    """Return whether a job belongs to this plan; logs of other regions, captions or runs may be in the same folder."""
    pair = f"{config.regions}.{config.captions}"
    match parts:
        case ("detect", regions, _):
            return regions == config.regions
        case ("caption" | "pack", captions, _):
            return captions == pair
        case ("texts", encoder, captions, _):
            return encoder in config.planned_encoders and captions == pair
        case ("train" | "evaluate", *run):
            return "/".join(run) in config.runs()
    return True

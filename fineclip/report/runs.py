"""Results of each planned run: manifest, scores, losses; and its absent files, with the logs of their jobs."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fineclip.config import Config, Run
from fineclip.report.result_files import Result, ResultFiles, read_result, read_valid_manifest
from fineclip.shards import Manifest, sha256_of

MANIFEST = "train.json"

Step = Mapping[str, float]


@dataclass(frozen=True)
class RunRecord:
    """Result of one planned run.

    Attributes:
        run: The run.
        manifest: Its `train.json`; None if it has not finished.
        manifest_sha256: Hash of that file.
        results: Scores by benchmark.
        steps: Lines of `metrics.jsonl`.
        images_per_second: Median over training; None if not recorded.
        has_failed: Whether its marker of failure exists, so that a rerun fails at once.
    """

    run: Run
    manifest: Manifest | None
    manifest_sha256: str
    results: Mapping[str, Result]
    steps: tuple[Step, ...]
    images_per_second: float | None = None
    has_failed: bool = False

    @property
    def state(self) -> str:
        """`done`, `failed`, `unfinished` if only its metrics exist, or `missing`."""
        if self.manifest or self.has_failed:
            return "done" if self.manifest else "failed"
        return "unfinished" if self.steps else "missing"


def collect_runs(config: Config, files: ResultFiles) -> tuple[RunRecord, ...]:
    """Return a record of every planned run, in the order of the plan, and note what is absent."""
    records = tuple(_record(run, config.plan.benchmarks, files) for run in config.runs().values())
    for benchmark in config.plan.benchmarks:
        _note_missing_scores(benchmark, config, records, files)
    return records


def read_steps(path: Path) -> tuple[Step, ...]:
    """Read the numbers of a log file of training.

    The last line of a step counts, because a resumed run repeats steps. An incomplete last line is ignored.

    Args:
        path: `metrics.jsonl` or `speed.jsonl`.

    Returns:
        Numbers by name, ascending by step.

    Raises:
        ValueError: Another line is not a map of numbers with a step.
    """
    by_step: dict[float, Step] = {}
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
            by_step[numbers["step"]] = numbers
        except (ValueError, KeyError, AttributeError):
            if number < len(lines):
                raise ValueError(f"{path}: line {number} is not a map of numbers with a step: {line[:60]!r}") from None
    return tuple(by_step[step] for step in sorted(by_step))


def _record(run: Run, benchmarks: Sequence[str], files: ResultFiles) -> RunRecord:
    path, marker = files.path("results", run.id, MANIFEST), files.path("results", run.id, "state", "failed.json")
    if not path.is_file():
        message, verb = files.read(marker, _message), "train" if run.method else "publish"
        why = f"could not {verb}: {message}" if message else "has no result: its job has not run, or has failed"
        files.note(run.id, why, files.path("logs", "train", f"{run.id}.log"))
    manifest, digest = files.read(path, read_valid_manifest), sha256_of(path) if path.is_file() else ""
    logs = (files.path("results", run.id, name) for name in ("metrics.jsonl", "speed.jsonl"))
    steps, speeds = (files.read(log, read_steps) or () for log in logs)
    rates = [line["images_per_second"] for line in speeds if "images_per_second" in line]
    results = {name: _result(run, name, digest, files) for name in benchmarks if digest}
    return RunRecord(
        run=run,
        manifest=manifest,
        manifest_sha256=digest,
        results={name: result for name, result in results.items() if result},
        steps=steps,
        images_per_second=statistics.median(rates) if rates else None,
        has_failed=marker.is_file(),
    )


def _message(marker: Path) -> str:
    """Return the message in a marker of failure."""
    return str(json.loads(marker.read_text(encoding="utf-8"))["message"])


def _result(run: Run, benchmark: str, digest: str, files: ResultFiles) -> Result | None:
    """Return the scores of a run on a benchmark; None if they belong to another training of the run."""
    path = files.path("results", run.id, "evals", f"{benchmark}.json")
    result = files.read(path, read_result)
    evaluated = [sha for name, sha in result.inputs.items() if name.endswith(f"{run.id}/{MANIFEST}")] if result else []
    if evaluated and digest not in evaluated:
        files.note(files.shown(path), "are scores of an earlier training of this run and are left out; evaluate again")
        return None
    return result


def _note_missing_scores(benchmark: str, config: Config, records: Sequence[RunRecord], files: ResultFiles) -> None:
    """Note the absent scores of a benchmark: one problem for each run, or one if no job evaluated the benchmark.

    If a run has a log of its evaluation but no `evals.json`, its evaluation failed.
    """
    ended = [record.run.id for record in records if record.manifest]
    without = [run for run in ended if not files.path("results", run, "evals", f"{benchmark}.json").is_file()]
    logs = {run: files.path("logs", "evaluate", f"{run}.log") for run in without}
    failed = any(log.is_file() and not files.path("results", run, "evals.json").is_file() for run, log in logs.items())
    if without and not failed and not any(benchmark in record.results for record in records):
        skip = f"; it is left out where its data is absent (benchmarks.{benchmark}.if_missing)"
        hint = skip if config.benchmarks[benchmark].if_missing == "skip" else ""
        files.note(f"benchmark {benchmark}", f"no run was evaluated on it{hint}")
        return
    for run, log in logs.items():
        files.note(f"{run} on {benchmark}", "has no scores: its evaluation has not run, or has failed", log)

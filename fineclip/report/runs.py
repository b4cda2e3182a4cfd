"""Results of each planned run: manifest, scores, losses; and its absent files, with the logs of their jobs."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fineclip.config import Config, Run
from fineclip.report.result_files import (
    Problem,
    ProblemLog,
    Result,
    ResultPaths,
    last_lines,
    read_result,
    read_valid_manifest,
)
from fineclip.shards import Manifest, sha256_of

MANIFEST = "train.json"
EVALS = "evals.json"
FAILED = "state/failed.json"

Point = Mapping[str, float]


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
    steps: tuple[Point, ...]
    images_per_second: float | None = None
    has_failed: bool = False

    @property
    def state(self) -> str:
        """`done`, `failed`, `unfinished` if only its metrics exist, or `missing`."""
        if self.manifest or self.has_failed:
            return "done" if self.manifest else "failed"
        return "unfinished" if self.steps else "missing"


def collect_runs(config: Config, place: ResultPaths, problems_log: ProblemLog) -> tuple[RunRecord, ...]:
    """Return a record of every planned run, in the order of the plan."""
    records = tuple(
        _record(run, config.plan.benchmarks, place, problems_log=problems_log) for run in config.runs().values()
    )
    _note_missing_benchmarks(config, records, place, problems_log=problems_log)
    return records


def read_steps(path: Path) -> tuple[Point, ...]:
    """Read the numbers of a log file of training.

    The last line of a step counts, because a resumed run repeats steps. An incomplete last line is ignored.

    Args:
        path: `metrics.jsonl` or `speed.jsonl`.

    Returns:
        Numbers by name, ascending by step.

    Raises:
        ValueError: Another line is not a map of numbers with a step.
    """
    by_step: dict[float, Point] = {}
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


def _record(run: Run, benchmarks: Sequence[str], place: ResultPaths, *, problems_log: ProblemLog) -> RunRecord:
    path = place.results(run.id, MANIFEST)
    manifest = digest = None
    if path.is_file():
        manifest = problems_log.attempt(place.shown(path), read_valid_manifest, path)
        digest = sha256_of(path)
    else:
        problems_log.note(_failure(run, place))
    steps, speeds = (
        _lines(place.results(run.id, name), place, problems_log) for name in ("metrics.jsonl", "speed.jsonl")
    )
    rates = [line["images_per_second"] for line in speeds if "images_per_second" in line]
    results = {
        name: result
        for name in benchmarks
        if digest and (result := _result(run, name, digest, place, problems_log=problems_log))
    }
    return RunRecord(
        run=run,
        manifest=manifest,
        manifest_sha256=digest or "",
        results=results,
        steps=steps,
        images_per_second=statistics.median(rates) if rates else None,
        has_failed=place.results(run.id, FAILED).is_file(),
    )


def _lines(path: Path, place: ResultPaths, problems_log: ProblemLog) -> tuple[Point, ...]:
    lines = problems_log.attempt(place.shown(path), read_steps, path) if path.is_file() else None
    return lines or ()


def _result(run: Run, benchmark: str, digest: str, place: ResultPaths, *, problems_log: ProblemLog) -> Result | None:
    """Return the scores of a run on a benchmark; None if they belong to another training of the run."""
    path = place.results(run.id, "evals", f"{benchmark}.json")
    if not path.is_file():
        return None
    result = problems_log.attempt(place.shown(path), read_result, path)
    if result is None:
        return None
    evaluated = [sha for name, sha in result.inputs.items() if name.endswith(f"{run.id}/{MANIFEST}")]
    if evaluated and digest not in evaluated:
        problems_log.note(
            Problem(place.shown(path), "are scores of an earlier training of this run and are left out; evaluate again")
        )
        return None
    return result


def _failure(run: Run, place: ResultPaths) -> Problem:
    """Return why a run has no manifest: the message of its last attempt, or the end of its log."""
    marker, log = place.results(run.id, FAILED), place.logs("train", f"{run.id}.log")
    message = _message(marker)
    verb = "train" if run.method else "publish"
    why = f"could not {verb}: {message}" if message else "has no result: its job has not run, or has failed"
    return Problem(run.id, why, place.shown(log) if log.is_file() else "", last_lines(log))


def _message(marker: Path) -> str:
    """Return the message in a marker of failure, in JSON or plain text."""
    try:
        text = marker.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    try:
        values = json.loads(text)
    except ValueError:
        return text.strip()
    if isinstance(values, Mapping):
        return str(values.get("message") or values.get("error") or text).strip()
    return str(values).strip()


def _note_missing_benchmarks(
    config: Config, records: Sequence[RunRecord], place: ResultPaths, *, problems_log: ProblemLog
) -> None:
    """Note every planned score that is absent: one problem for each run, or one for a benchmark that no job evaluated.

    If a run has a log of its evaluation but no `evals.json`, its evaluation failed.
    """
    for benchmark in config.plan.benchmarks:
        without = [record.run.id for record in records if record.manifest and not _has(record, benchmark, place)]
        logs = {run: place.logs("evaluate", f"{run}.log") for run in without}
        if not without:
            continue
        failed = any(log.is_file() and not place.results(run, EVALS).is_file() for run, log in logs.items())
        if not failed and not any(benchmark in record.results for record in records):
            skip = f"; it is left out where its data is absent (benchmarks.{benchmark}.if_missing)"
            hint = skip if config.benchmarks[benchmark].if_missing == "skip" else ""
            problems_log.note(Problem(f"benchmark {benchmark}", f"no run was evaluated on it{hint}"))
            continue
        for run, log in logs.items():
            shown = place.shown(log) if log.is_file() else ""
            why = "has no scores: its evaluation has not run, or has failed"
            problems_log.note(Problem(f"{run} on {benchmark}", why, shown, last_lines(log)))


def _has(record: RunRecord, benchmark: str, place: ResultPaths) -> bool:
    """Return whether a score file exists, whether or not it could be read."""
    return benchmark in record.results or place.results(record.run.id, "evals", f"{benchmark}.json").is_file()

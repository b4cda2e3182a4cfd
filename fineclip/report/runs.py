"""What came of each planned run: its manifest, its scores, its losses; and what is missing, named with its log."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fineclip.config import Config, Run
from fineclip.report.result_files import Ledger, Place, Problem, Result, last_lines, read_result, sound_manifest
from fineclip.shards import Manifest, sha256_of

MANIFEST = "train.json"
EVALS = "evals.json"
FAILED = "state/failed.json"

Point = Mapping[str, float]


@dataclass(frozen=True)
class RunRecord:
    """One planned run. `manifest` is None where it has not ended well; `steps` are the lines of its metrics.

    `images_per_second` is the median of its training, None where nothing says; `gave_up` where going on is of no use.
    """

    run: Run
    manifest: Manifest | None
    manifest_sha256: str
    results: Mapping[str, Result]
    steps: tuple[Point, ...]
    images_per_second: float | None = None
    gave_up: bool = False

    @property
    def state(self) -> str:
        """`done`, `failed`, `unfinished` where only its metrics are there, or `missing`."""
        if self.manifest or self.gave_up:
            return "done" if self.manifest else "failed"
        return "unfinished" if self.steps else "missing"


def collect_runs(config: Config, place: Place, ledger: Ledger) -> tuple[RunRecord, ...]:
    """A record for every planned run, in the order of the plan."""
    records = tuple(_record(run, config.plan.benchmarks, place, ledger=ledger) for run in config.runs().values())
    _note_missing_benchmarks(config, records, place, ledger=ledger)
    return records


def read_steps(path: Path) -> tuple[Point, ...]:
    """The lines of a `metrics.jsonl` or `speed.jsonl`, ascending by step; of a step that was done again after a stop, the last.

    A last line that breaks off is a writer that was stopped, and is left out.

    Raises:
        ValueError: another line is no map of numbers with a step.
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
                raise ValueError(f"{path}: line {number} is no map of numbers with a step: {line[:60]!r}") from None
    return tuple(by_step[step] for step in sorted(by_step))


def _record(run: Run, benchmarks: Sequence[str], place: Place, *, ledger: Ledger) -> RunRecord:
    path = place.results(run.id, MANIFEST)
    manifest = digest = None
    if path.is_file():
        manifest = ledger.attempt(place.shown(path), sound_manifest, path)
        digest = sha256_of(path)
    else:
        ledger.note(_failure(run, place))
    steps, speeds = (_lines(place.results(run.id, name), place, ledger) for name in ("metrics.jsonl", "speed.jsonl"))
    rates = [line["images_per_second"] for line in speeds if "images_per_second" in line]
    results = {
        name: result for name in benchmarks if digest and (result := _result(run, name, digest, place, ledger=ledger))
    }
    return RunRecord(
        run=run,
        manifest=manifest,
        manifest_sha256=digest or "",
        results=results,
        steps=steps,
        images_per_second=statistics.median(rates) if rates else None,
        gave_up=place.results(run.id, FAILED).is_file(),
    )


def _lines(path: Path, place: Place, ledger: Ledger) -> tuple[Point, ...]:
    lines = ledger.attempt(place.shown(path), read_steps, path) if path.is_file() else None
    return lines or ()


def _result(run: Run, benchmark: str, digest: str, place: Place, *, ledger: Ledger) -> Result | None:
    """The scores of a run on a benchmark, unless they are of another training than the one that lies there."""
    path = place.results(run.id, "evals", f"{benchmark}.json")
    if not path.is_file():
        return None
    result = ledger.attempt(place.shown(path), read_result, path)
    if result is None:
        return None
    evaluated = [sha for name, sha in result.inputs.items() if name.endswith(f"{run.id}/{MANIFEST}")]
    if evaluated and digest not in evaluated:
        ledger.note(
            Problem(place.shown(path), "are scores of an earlier training of this run and are left out; evaluate again")
        )
        return None
    return result


def _failure(run: Run, place: Place) -> Problem:
    """Why a run has no manifest: the message that its last attempt left, or the end of its log."""
    marker, log = place.results(run.id, FAILED), place.logs("train", f"{run.id}.log")
    message = _message(marker)
    verb = "train" if run.method else "publish"
    why = f"could not {verb}: {message}" if message else "has no result: its job has not run, or has failed"
    return Problem(run.id, why, place.shown(log) if log.is_file() else "", last_lines(log))


def _message(marker: Path) -> str:
    """What a marker of failure says, whatever its form."""
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


def _note_missing_benchmarks(config: Config, records: Sequence[RunRecord], place: Place, *, ledger: Ledger) -> None:
    """Note every planned score that is absent: one problem for each run, or one for a benchmark that no job evaluated.

    A run without `evals.json` whose log is there was evaluated and failed.
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
            ledger.note(Problem(f"benchmark {benchmark}", f"no run was evaluated on it{hint}"))
            continue
        for run, log in logs.items():
            shown = place.shown(log) if log.is_file() else ""
            why = "has no scores: its evaluation has not run, or has failed"
            ledger.note(Problem(f"{run} on {benchmark}", why, shown, last_lines(log)))


def _has(record: RunRecord, benchmark: str, place: Place) -> bool:
    """Whether there is a file of scores, used or already complained of."""
    return benchmark in record.results or place.results(record.run.id, "evals", f"{benchmark}.json").is_file()

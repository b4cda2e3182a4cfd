"""Evaluate one run on all its benchmarks, for `fineclip evaluate --run`.

    results/<dataset>/<run>/evals.json                the manifest: names the score files with their hashes
                            evals/<benchmark>.json    one score file per benchmark

    score file    {"benchmark", "version", "scores": [{"metric", "value", "n"}], "inputs": {manifest: sha256}, "config",
                   "chance": {metric: value}, "protocol", "evaluate_version"}

Values are percentages, rounded to six decimals. A score file does not vary between runs of the same job. Its key is
everything in it except scores, chance and protocol: a score file whose key is that of the job is kept, so adding a
benchmark computes only its scores.

A failing benchmark does not stop the others. The job then fails: there is no `evals.json`, the score file of the failed
benchmark is absent, and the next attempt computes only that one.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fineclip.config import MEMORY_KEYS, BenchmarkConfig
from fineclip.errors import ConfigError, EvaluationError, FineclipError, ShardError
from fineclip.evals.benchmarks import benchmark_of
from fineclip.evals.index import Index, read_index
from fineclip.identity import canonical, identity
from fineclip.shards import Job, hashes_of, invalidate, read_manifest, sha256_of, write_text
from fineclip.shards.atomic import remove_stale_temp_files
from fineclip.shards.manifest import cached_manifest
from fineclip.system_errors import explain

if TYPE_CHECKING:
    from fineclip.evals.embed import Embedder

log = logging.getLogger(__name__)

VERSION = 1
DECIMALS = 6

Key = Mapping[str, Any]


def evaluate_run(
    run: Path,
    indexes: Sequence[Path],
    manifest: Path,
    benchmarks: Mapping[str, BenchmarkConfig],
    *,
    batch_size: int = 64,
    device: str = "auto",
    threads: int = 1,
) -> None:
    """Write the scores of one run on its benchmarks, then the manifest. Return at once if all are up to date.

    Args:
        run: `results/<dataset>/<run>/train.json`; the encoder is in the same folder.
        indexes: Manifests of the stage `index`, one for each benchmark, `<benchmark>.json`.
        manifest: `results/<dataset>/<run>/evals.json`; the score files are in `evals/` beside it.
        benchmarks: Configuration section of each benchmark, by its name.
        batch_size: Images or texts in one forward pass; changes no result.
        device: auto, cpu, cuda or mps.
        threads: CPU threads.

    Raises:
        ConfigError: The indexes are not those of the benchmarks.
        ShardError: The run or an index is absent, or the hash of the encoder differs from the run's manifest.
        EvaluationError: At least one benchmark failed; the others are written.
    """
    index_of = {path.stem: path for path in indexes}
    if sorted(index_of) != sorted(benchmarks) or len(index_of) != len(indexes):
        raise ConfigError(
            f"--index: expected one manifest for each benchmark ({', '.join(benchmarks)}), named <benchmark>.json,"
            f" but got {', '.join(map(str, indexes)) or 'none'}"
        )
    keys = {name: score_key(name, config, hashes_of([run, index_of[name]])) for name, config in benchmarks.items()}
    shared = {name: {"version": key["version"], "config": key["config"]} for name, key in keys.items()}
    job = Job(manifest, "evaluate", VERSION, shared, [run, *indexes])
    if job.is_up_to_date():
        return
    scores = {name: score_file(manifest, name) for name in benchmarks}
    todo = _start(manifest, scores, keys)
    errors: dict[str, Exception] = {}
    if todo:
        from fineclip.evals.embed import published_embedder  # imports torch

        embedder = published_embedder(run, batch_size=batch_size, device=device, threads=threads)
        for name in todo:
            try:
                index = read_index(index_of[name], benchmarks[name])
                record = score_record(embedder, index, benchmarks[name], name=name)
            except FineclipError as error:
                errors[name] = error
            except Exception as error:
                explained = explain(error, memory_keys=MEMORY_KEYS["evaluate"])
                if explained is None:
                    log.exception("%s", name)  # a bug is logged with its traceback, and the other benchmarks continue
                errors[name] = explained or error
            else:
                write_text(scores[name], record_text({**keys[name], **record}))
    if errors:
        reasons = "; ".join(f"{name}: {str(error) or type(error).__name__}" for name, error in errors.items())
        raise EvaluationError(f"{manifest}: {len(errors)} of {len(benchmarks)} benchmarks failed: {reasons}")
    job.finish(list(scores.values()), read=len(scores), kept=len(scores))


def score_file(manifest: Path, benchmark: str) -> Path:
    """Return the path of the scores on one benchmark, beside the manifest `evals.json`."""
    return manifest.with_suffix("") / f"{benchmark}.json"


def score_key(name: str, config: BenchmarkConfig, inputs: Mapping[str, str]) -> Key:
    """Return the key of the scores on one benchmark; they are computed again if it changes.

    Args:
        name: Name of the benchmark.
        config: Its configuration section.
        inputs: Hashes of the encoder and the index by name.

    Returns:
        The fields of a score file except scores, chance and protocol.
    """
    return {
        "benchmark": name,
        "version": benchmark_of(config.kind).version,
        "evaluate_version": VERSION,
        "inputs": dict(inputs),
        "config": identity(config),
    }


def discard_scores(manifest: Path, benchmarks: Sequence[str]) -> None:
    """Delete the scores on these benchmarks, so that the next job computes them again."""
    invalidate(manifest)
    for name in benchmarks:
        score_file(manifest, name).unlink(missing_ok=True)


def score_record(embedder: "Embedder", index: Index, config: BenchmarkConfig, *, name: str) -> dict[str, Any]:
    """Return the scores, chance levels and protocol of an encoder on one benchmark, as a score file states them.

    Args:
        embedder: Embeds images, boxes and texts with the encoder.
        index: Images and classes of the benchmark.
        config: Section of the benchmark.
        name: Name of the benchmark, for the log.

    Returns:
        `scores` and `chance` in percent, rounded to `DECIMALS`, and `protocol`.
    """
    outcome = benchmark_of(config.kind).evaluate(embedder, index, config)
    for score in outcome.scores:
        log.info("%s: %s %.2f %% of %d", name, score.metric, score.value, score.n)
    scores = [score._asdict() | {"value": round(score.value, DECIMALS)} for score in outcome.scores]
    chance = {metric: round(value, DECIMALS) for metric, value in outcome.chance.items()}
    return {"scores": scores, "chance": chance, "protocol": dict(outcome.protocol)}


def record_text(record: Mapping[str, Any]) -> str:
    """Return the record as JSON; equal records give equal text."""
    return json.dumps(record, sort_keys=True, ensure_ascii=False, indent=1) + "\n"


def _start(manifest: Path, scores: Mapping[str, Path], keys: Mapping[str, Key]) -> list[str]:
    """Delete the manifest and all scores that are out of date; return the names of the benchmarks to evaluate."""
    try:
        hashes = read_manifest(cached_manifest(manifest)).outputs
    except ShardError:
        hashes = {}
    names = {name: path.relative_to(manifest.parent).as_posix() for name, path in scores.items()}
    todo = [name for name, path in scores.items() if not _is_up_to_date(path, keys[name], hashes.get(names[name]))]
    invalidate(manifest)
    manifest.unlink(missing_ok=True)
    for name, path in scores.items():
        remove_stale_temp_files(path.parent, path.stem)
        if name in todo:
            path.unlink(missing_ok=True)
        else:
            log.info("%s is up to date", path)
    return todo


def _is_up_to_date(path: Path, key: Key, digest: str | None) -> bool:
    """Return whether a score file has this key, and this hash if one is known."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if digest not in (None, sha256_of(path)) or not isinstance(found, dict):
        return False
    return canonical({name: found.get(name) for name in key}) == canonical(key)

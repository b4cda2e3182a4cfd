"""One run on one benchmark: what the verb `evaluate` does.

    results/<dataset>/<run>/evals/<benchmark>.json

    {"benchmark", "version", "scores": [{"metric", "value", "n"}], "inputs": {manifest: sha256}, "config",
     "chance": {metric: value}, "protocol", "evaluate_version"}

Values are percentages, rounded to six decimals. Nothing in it varies from one making to the next. A copy under a hidden
name lies beside it, as beside a manifest: by it the verb knows that its work is done already.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fineclip.config import BenchmarkConfig, canonical, identity
from fineclip.evals import boxes, retrieval
from fineclip.evals.benchmark import Index, Outcome, read_index
from fineclip.shards import hashes_of, write_text
from fineclip.shards.atomic import remove_stale_temp_files
from fineclip.shards.manifest import hidden_copy

if TYPE_CHECKING:
    from fineclip.evals.embedding import Embedder

log = logging.getLogger(__name__)

VERSION = 1  # of what all benchmarks share here: a change of it evaluates every run again
DECIMALS = 6


@dataclass(frozen=True)
class Benchmark:
    """A kind of benchmark: the version of its scores, and what makes them."""

    version: int
    evaluate: Callable[["Embedder", Index, Any], Outcome]


BENCHMARKS: Mapping[str, Benchmark] = {
    "boxes": Benchmark(boxes.VERSION, boxes.evaluate_boxes),
    "retrieval": Benchmark(retrieval.VERSION, retrieval.evaluate_retrieval),
}


def evaluate_run(
    run: Path,
    index: Path,
    output: Path,
    config: BenchmarkConfig,
    *,
    name: str,
    batch_size: int = 64,
    device: str = "auto",
    threads: int = 1,
) -> None:
    """Write the scores of one run on one benchmark; does nothing where they lie there already.

    Args:
        run: `results/<dataset>/<run>/train.json`; the encoder lies beside it.
        index: manifest of the benchmark's index.
        output: `results/<dataset>/<run>/evals/<benchmark>.json`.
        config: section of the benchmark.
        name: of the benchmark.
        batch_size: images or texts that are encoded at once.
        device: auto, cpu, cuda or mps.
        threads: on the CPU.

    Raises:
        ShardError: the run or the index is gone or changed.
        DataError: an image is gone or changed.
        ConfigError: the benchmark asks for what the encoder cannot do.
    """
    benchmark = BENCHMARKS[config.kind]
    claim = {
        "benchmark": name,
        "version": benchmark.version,
        "evaluate_version": VERSION,
        "inputs": hashes_of([run, index]),
        "config": identity(config),
    }
    remove_stale_temp_files(output.parent, output.stem)
    if _is_done(output, claim):
        return
    images = read_index(index, config)
    from fineclip.evals.embedding import published_embedder  # loads torch: only where there is work

    embedder = published_embedder(run, batch_size=batch_size, device=device, threads=threads)
    text = text_of(claim | evaluated(embedder, images, config, name=name))
    write_text(hidden_copy(output), text)
    write_text(output, text)


def evaluated(embedder: "Embedder", index: Index, config: BenchmarkConfig, *, name: str) -> dict[str, Any]:
    """What is recorded of an encoder on a benchmark beside what it was made of: scores, chance, protocol."""
    outcome = BENCHMARKS[config.kind].evaluate(embedder, index, config)
    for score in outcome.scores:
        log.info("%s: %s %.2f %% of %d", name, score.metric, score.value, score.n)
    scores = [score._asdict() | {"value": round(score.value, DECIMALS)} for score in outcome.scores]
    chance = {metric: round(value, DECIMALS) for metric, value in outcome.chance.items()}
    return {"scores": scores, "chance": chance, "protocol": dict(outcome.protocol)}


def text_of(record: Mapping[str, Any]) -> str:
    """JSON, one spelling for one content."""
    return json.dumps(record, sort_keys=True, ensure_ascii=False, indent=1) + "\n"


def _is_done(output: Path, claim: Mapping[str, Any]) -> bool:
    """Whether the copy of the scores says that they are of the same; they are put back then."""
    try:
        text = hidden_copy(output).read_text(encoding="utf-8")
        found = json.loads(text)
    except (OSError, ValueError):
        return False
    if not isinstance(found, dict) or canonical({key: found.get(key) for key in claim}) != canonical(claim):
        return False
    write_text(output, text)
    log.info("%s is up to date: nothing to do", output)
    return True

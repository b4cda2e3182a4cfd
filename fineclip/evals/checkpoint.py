"""Any encoder on any benchmark, without the workflow: what `fineclip evaluate --checkpoint` does.

What is recorded is what the workflow records (`fineclip/evals/evaluate.py`), with the file of weights among the inputs, in
place of the index what the index was made of, and under `encoder` which model it was taken for.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fineclip.config import BenchmarkConfig, EncoderConfig, identity
from fineclip.errors import ConfigError, DataError
from fineclip.evals.benchmark import read_index
from fineclip.evals.embedding import Embedder
from fineclip.evals.evaluate import BENCHMARKS, VERSION, evaluated
from fineclip.evals.sources import index_benchmark, missing
from fineclip.models.batches import chosen_device
from fineclip.models.checkpoints import EncoderSpec
from fineclip.models.shipped import FOLDER, PREFIX
from fineclip.shards import read_manifest, sha256_of

log = logging.getLogger(__name__)


def chosen_benchmarks(
    catalogue: Mapping[str, BenchmarkConfig], names: Sequence[str] = ()
) -> dict[str, BenchmarkConfig]:
    """The benchmarks of those names, or all whose data is there.

    Raises:
        ConfigError: there is no benchmark of a name.
        DataError: the data is absent, of one that is named or says `if_missing: error`, or of all.
    """
    for name in names:
        if name not in catalogue:
            raise ConfigError(f"benchmark {name!r}: there is none of that name, but {', '.join(catalogue)}")
    chosen: dict[str, BenchmarkConfig] = {}
    for name in names or catalogue:
        absent = missing(catalogue[name])
        if absent and (name in names or catalogue[name].if_missing == "error"):
            raise DataError(f"benchmarks.{name}: {absent} Bring it, or name another in benchmarks.{name}.source.")
        if absent:
            log.warning("benchmark %s is left out: %s", name, absent)
        else:
            chosen[name] = catalogue[name]
    if not chosen:
        raise DataError("the data of no benchmark is there: bring one of " + (", ".join(catalogue) or "nothing"))
    return chosen


def evaluate_checkpoint(
    found: EncoderSpec,
    benchmarks: Mapping[str, BenchmarkConfig],
    indexes: Path,
    *,
    batch_size: int = 64,
    device: str = "auto",
    threads: int = 1,
) -> dict[str, dict[str, Any]]:
    """What is recorded of an encoder on each benchmark, by the benchmark's name.

    Args:
        found: which encoder.
        benchmarks: their sections, by name.
        indexes: folder in which the indexes are made, or are found if they are of the same data and configuration.
        batch_size: images or texts that are encoded at once.
        device: auto, cpu, cuda or mps.
        threads: on the CPU, of torch in this whole process too.

    Raises:
        CheckpointError: the weights cannot be read or are of another model.
        ConfigError: a benchmark asks for what the encoder cannot do.
        DataError: something of the data is absent or broken.
    """
    torch.set_num_threads(threads)
    embedder = Embedder(
        found.load(),
        found.tokenizer(),
        image_size=found.config.image_size,
        batch_size=batch_size,
        device=chosen_device(device).type,
        threads=threads,
    )
    weights = {_written(found.weights): sha256_of(found.weights)}
    records = {}
    for name, config in benchmarks.items():
        manifest = indexes / f"{name}.json"
        index_benchmark(manifest, config)
        records[name] = {
            "benchmark": name,
            "version": BENCHMARKS[config.kind].version,
            "evaluate_version": VERSION,
            "inputs": weights | dict(read_manifest(manifest).inputs),
            "config": identity(config),
            "encoder": _described(found.config),
        } | evaluated(embedder, read_index(manifest, config), config, name=name)
    return records


def _written(weights: Path) -> str:
    """A path as it was given; of what is shipped the name, because where the package lies says nothing."""
    shipped_name = weights.relative_to(FOLDER).as_posix() if weights.is_relative_to(FOLDER) else None
    return weights.as_posix() if shipped_name is None else f"{PREFIX}{shipped_name}"


def _described(config: EncoderConfig) -> dict[str, Any]:
    """What of an encoder's section its scores depend on, beside the weights."""
    return config.model_dump(mode="json", include={"model", "head", "image_size"})

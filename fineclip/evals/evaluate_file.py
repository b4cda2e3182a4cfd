"""Evaluate any encoder without the workflow, for `fineclip evaluate --checkpoint`.

A record has the keys of a score file (`fineclip/evals/evaluate.py`). Its inputs are the file of weights and the data of the
index, and `encoder` states the model.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fineclip.config import BenchmarkConfig
from fineclip.errors import ConfigError, DataError
from fineclip.evals.embed import Embedder
from fineclip.evals.evaluate import score_key, score_record
from fineclip.evals.index import index_benchmark, missing, read_index
from fineclip.models.checkpoints import EncoderSpec
from fineclip.models.features import FeatureEncoder
from fineclip.models.shipped import FOLDER, PREFIX
from fineclip.shards import read_manifest, sha256_of

log = logging.getLogger(__name__)


def chosen_benchmarks(catalog: Mapping[str, BenchmarkConfig], names: Sequence[str] = ()) -> dict[str, BenchmarkConfig]:
    """Return the benchmarks of these names, or all whose data exists.

    Args:
        catalog: Section `benchmarks`.
        names: Names of entries; empty for all.

    Returns:
        Sections by name, in the order of `names` or of the configuration.

    Raises:
        ConfigError: A name is not in the section.
        DataError: The data is absent: of a named benchmark, of one with `if_missing: error`, or of all.
    """
    for name in names:
        if name not in catalog:
            raise ConfigError(f"benchmark {name!r}: unknown name; choose from {', '.join(catalog)}")
    chosen: dict[str, BenchmarkConfig] = {}
    for name in names or catalog:
        absent = missing(catalog[name])
        if absent and (name in names or catalog[name].if_missing == "error"):
            raise DataError(f"benchmarks.{name}: {absent} Provide it, or name another in benchmarks.{name}.source.")
        if absent:
            log.warning("benchmark %s is left out: %s", name, absent)
        else:
            chosen[name] = catalog[name]
    if not chosen:
        raise DataError("no benchmark has its data; provide the data of one of: " + (", ".join(catalog) or "nothing"))
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
    """Return the record of an encoder on each benchmark, by name.

    Args:
        found: The encoder.
        benchmarks: Section of each benchmark.
        indexes: Folder of the indexes; an index of the same data and configuration is reused.
        batch_size: Images or texts in one forward pass.
        device: auto, cpu, cuda or mps.
        threads: CPU threads, of torch in the whole process too.

    Returns:
        Content of a score file and the key `encoder`, by name of the benchmark.

    Raises:
        CheckpointError: The weights cannot be read or are of another model.
        ConfigError: The image size of a benchmark is not a multiple of the patch.
        DataError: Data is absent or damaged.
    """
    torch.set_num_threads(threads)
    encoder = FeatureEncoder(
        found.load(), found.tokenizer(), image_size=found.config.image_size, batch_size=batch_size, device=device
    )
    embedder = Embedder(encoder, threads)
    weights = {_written(path): sha256_of(path) for path in found.files()}
    described = found.config.model_dump(mode="json", include={"model", "head", "image_size"})  # what changes scores
    records = {}
    for name, config in benchmarks.items():
        manifest = indexes / f"{name}.json"
        index_benchmark(manifest, config)
        key = score_key(name, config, weights | dict(read_manifest(manifest).inputs))
        record = score_record(embedder, read_index(manifest, config), config, name=name)
        records[name] = {**key, "encoder": described, **record}
    return records


def _written(weights: Path) -> str:
    """Return the path unchanged; for shipped weights their name, because the location of the package varies."""
    return f"{PREFIX}{weights.relative_to(FOLDER).as_posix()}" if weights.is_relative_to(FOLDER) else weights.as_posix()

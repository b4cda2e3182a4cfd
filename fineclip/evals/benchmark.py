"""What an evaluator gets and gives: the index of a benchmark as it is read back, and what came of a run on it.

Legend: R boxes of all images.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fineclip.config import BenchmarkConfig
from fineclip.errors import ShardError
from fineclip.evals.sources import CLASSES_SUFFIX, BenchmarkClass, index_identity
from fineclip.identity import canonical
from fineclip.shards import BenchmarkRow, kept_rows, read_manifest, sha256_of
from fineclip.types import Score


@dataclass(frozen=True)
class Index:
    """The images of a benchmark that count, in order, and its classes, where it has boxes."""

    images: Sequence[BenchmarkRow]
    classes: Sequence[BenchmarkClass]


@dataclass(frozen=True)
class Outcome:
    """Scores; the percentage that guessing gives, by metric; and how it was done, in words and numbers."""

    scores: Sequence[Score]
    chance: Mapping[str, float]
    protocol: Mapping[str, Any] = field(default_factory=dict)


def read_index(manifest: Path, config: BenchmarkConfig) -> Index:
    """The index behind a manifest.

    Raises:
        ShardError: it is gone, changed, or was made for another configuration than `config`.
    """
    found = read_manifest(manifest)
    wanted = index_identity(config)
    if found.stage != "index" or canonical(found.config) != canonical(wanted):
        raise ShardError(
            f"{manifest}: is the {found.stage} of {canonical(found.config)}, not the index of {canonical(wanted)}."
            " Make it again: fineclip index."
        )
    classes_path = manifest.with_suffix(CLASSES_SUFFIX)
    classes = _read_classes(classes_path, found.outputs) if classes_path.name in found.outputs else []
    return Index(list(kept_rows(manifest, BenchmarkRow)), classes)


def _read_classes(path: Path, outputs: Mapping[str, str]) -> list[BenchmarkClass]:
    if not path.is_file() or sha256_of(path) != outputs[path.name]:
        raise ShardError(f"{path}: is gone or not the one that its manifest names. Make the index again.")
    return [BenchmarkClass(**values) for values in json.loads(path.read_text(encoding="utf-8"))]

"""Overlap: training images that are images of a planned benchmark, by the hash of their bytes."""

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import NamedTuple

from fineclip.config import Config
from fineclip.report.result_files import ResultFiles
from fineclip.shards import BenchmarkRow, FilterRow, kept_rows, read_rows
from fineclip.stages.upstream import keys_by_shard


class Overlap(NamedTuple):
    """Images of a scale that are images of a benchmark.

    Attributes:
        scale: Name of the scale.
        benchmark: Name of the benchmark.
        images: Number of these images, at least 1.
        of: Number of images of the scale.
    """

    scale: str
    benchmark: str
    images: int
    of: int


def collect_overlaps(config: Config, files: ResultFiles) -> tuple[Overlap, ...]:
    """Count the overlap of each planned scale with each planned benchmark, as far as their tables exist.

    Args:
        config: Validated configuration.
        files: Files of the data set. A table that cannot be read is noted there.

    Returns:
        Pairs that share at least one image.
    """
    of_benchmarks: dict[str, set[str]] = {}
    for name in config.plan.benchmarks:
        hashes = files.read(files.path("data", "index", f"{name}.json"), _hashes_of_benchmark)
        of_benchmarks |= {} if hashes is None else {name: hashes}
    overlaps: list[Overlap] = []
    for scale in config.plan.scales if of_benchmarks else ():
        keys = files.read(files.path("data", "select", f"{scale}.json"), keys_by_shard) or {}
        shards = [(files.path("data", "filter", f"{shard}.json"), set(wanted)) for shard, wanted in keys.items()]
        images = [
            digest for path, wanted in shards for digest in files.read(path, partial(_hashes, wanted=wanted)) or ()
        ]
        for name, hashes in of_benchmarks.items():
            if shared := sum(digest in hashes for digest in images):
                overlaps.append(Overlap(scale, name, shared, sum(map(len, keys.values()))))
    return tuple(overlaps)


def _hashes_of_benchmark(index: Path) -> set[str]:
    return {row.sha256 for row in read_rows(index, BenchmarkRow)}


def _hashes(filtered: Path, *, wanted: Collection[str]) -> list[str]:
    """Return the hashes of the selected images of a shard."""
    return [row.sha256 for row in kept_rows(filtered, FilterRow) if row.key in wanted]

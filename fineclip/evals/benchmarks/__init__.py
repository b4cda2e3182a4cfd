"""Benchmarks: one file per protocol. The `kind` of a configuration section is the name of the file."""

import pkgutil
from importlib import import_module

from fineclip.evals.benchmarks.base import Benchmark

KINDS = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base"))


def benchmark_of(kind: str) -> Benchmark:
    """Return the declaration of a kind of benchmark.

    Args:
        kind: One of `KINDS`.

    Returns:
        `BENCHMARK` of the module of that name.

    Examples:
        >>> benchmark_of("boxes").title
        'box classification'
    """
    benchmark: Benchmark = import_module(f"{__name__}.{kind}").BENCHMARK
    return benchmark

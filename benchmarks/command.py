"""What every benchmark does when it is run by itself: read its options, measure on one thread, show, write."""

import argparse
from collections.abc import Callable, Sequence

import torch

from benchmarks.figures import Figure, show, write
from benchmarks.machine import load_average


def parser_of(about: str | None, *, repeats: int | None = None) -> argparse.ArgumentParser:
    """Options of a benchmark; timed ones say how often a variant runs at least."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    if repeats is not None:
        parser.add_argument("--repeats", type=int, default=repeats)
    return parser


def run(
    benchmark: str,
    parser: argparse.ArgumentParser,
    measured: Callable[[argparse.Namespace], list[Figure]],
    arguments: Sequence[str] | None,
) -> None:
    """Measure with these options, show, write."""
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    load = load_average()
    figures = measured(chosen)
    show(figures)
    print(write(benchmark, figures, load=load))

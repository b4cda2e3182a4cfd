"""Command line of a benchmark: parse options, measure on one thread, print, write."""

import argparse
from collections.abc import Callable, Sequence

import torch

from benchmarks.figures import Figure, show, write
from benchmarks.machine import load_average


def build_parser(about: str | None, *, repeats: int | None = None) -> argparse.ArgumentParser:
    """Return a parser; `repeats` adds the option `--repeats` with that default."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    if repeats is not None:
        parser.add_argument("--repeats", type=int, default=repeats)
    return parser


def run(
    benchmark: str,
    parser: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace], list[Figure]],
    arguments: Sequence[str] | None,
) -> None:
    """Parse the options, measure, print and write the figures."""
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    load = load_average()
    figures = measure(chosen)
    show(figures)
    print(write(benchmark, figures, load=load))

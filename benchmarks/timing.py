"""Time variants in alternation, so that other load on the machine affects all of them.

`torch.utils.benchmark.Timer` is not used: its warm-up runs each variant at least twice before every measurement, and a step takes
ten seconds.
"""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

REPEATS = 5


@dataclass(frozen=True)
class Times:
    """Seconds of each run of one variant."""

    all: tuple[float, ...]

    @property
    def least(self) -> float:
        """Least time: other load only adds time."""
        return min(self.all)

    @property
    def spread(self) -> tuple[float, float]:
        """Lowest and highest time."""
        return min(self.all), max(self.all)

    def per(self, count: float) -> "Times":
        """Divide by the number of items of a run."""
        return Times(tuple(value / count for value in self.all))


def time_alternately(
    variants: Mapping[str, Callable[[], object]],
    *,
    repeats: int = REPEATS,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, Times]:
    """Time the variants in the order A B C A B C ..., after one run of each.

    Args:
        variants: Functions by name.
        repeats: Timed runs of each.
        clock: Clock in seconds; the default is the CPU time of this process.

    Returns:
        Seconds of each timed run by variant.
    """
    for run in variants.values():
        run()
    found: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, run in variants.items():
            gc.collect()
            begin = clock()
            run()
            found[name].append(clock() - begin)
    return {name: Times(tuple(values)) for name, values in found.items()}


def spreads(times: Mapping[str, Times]) -> dict[str, tuple[float, float]]:
    """Return lowest and highest time of each variant, rounded to microseconds."""
    return {name: (round(each.spread[0], 6), round(each.spread[1], 6)) for name, each in times.items()}

"""Times of variants that take turns, so that what the machine does beside them meets all alike."""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

REPEATS = 5


@dataclass(frozen=True)
class Times:
    """Seconds of one variant."""

    all: tuple[float, ...]

    @property
    def least(self) -> float:
        """What it takes where nothing disturbs: neighbours only ever add."""
        return min(self.all)

    @property
    def spread(self) -> tuple[float, float]:
        """Lowest and highest."""
        return min(self.all), max(self.all)

    def per(self, count: float) -> "Times":
        """Of one of so many."""
        return Times(tuple(value / count for value in self.all))


def alternated(
    variants: Mapping[str, Callable[[], object]],
    *,
    repeats: int = REPEATS,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, Times]:
    """Seconds of every variant, A B C A B C ..., after each has run once.

    Args:
        variants: what is timed, by name.
        repeats: times each.
        clock: seconds of this process on all its cores, unless told otherwise.
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
    """Lowest and highest of each, rounded to what a clock can tell."""
    return {name: (round(each.spread[0], 6), round(each.spread[1], 6)) for name, each in times.items()}

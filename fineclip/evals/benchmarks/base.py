"""Interface of a benchmark: what it takes, what it returns and what it declares."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fineclip.evals.index import Index
from fineclip.types import Score

if TYPE_CHECKING:
    from fineclip.evals.embed import Embedder


@dataclass(frozen=True)
class Outcome:
    """Result of one encoder on one benchmark.

    Attributes:
        scores: Percentages; `n` counts the cases behind each.
        chance: Percentage that guessing gives, by metric.
        protocol: Image size, resize, prompts, and the numbers of images, texts or classes.
    """

    scores: Sequence[Score]
    chance: Mapping[str, float]
    protocol: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """Declaration of one kind of benchmark, `BENCHMARK` of `benchmarks/<kind>.py`.

    Attributes:
        version: VERSION of the module: a new one evaluates every run again.
        title: Name of the protocol in the report.
        evaluate: Maps an encoder, the index and the configuration section to the outcome.
        sentences: What a score means, by metric: a verb and its object, with `{value}` for the percentage. The report puts the
            name of a model before it.
    """

    version: int
    title: str
    evaluate: Callable[["Embedder", Index, Any], Outcome]
    sentences: Mapping[str, str] = field(default_factory=dict)

"""Interface of a benchmark: inputs, outputs and declaration."""

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
        chance: Percentage that random guesses reach, by metric.
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
        sentences: Phrase for a score, by metric: a verb and its object, with `{value}` for the percentage. In the report it
            follows the name of a model.
    """

    version: int
    title: str
    evaluate: Callable[["Embedder", Index, Any], Outcome]
    sentences: Mapping[str, str] = field(default_factory=dict)

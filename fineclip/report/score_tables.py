"""Scores as tables: one row for chance, each pretrained encoder, and each method at each scale over its seeds.

A table is one protocol: results that differ in version, configuration or image size never share one.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from fineclip.config import Config
from fineclip.identity import canonical
from fineclip.report.formatting import CHANCE, UNTRAINED, method_css, method_name
from fineclip.report.result_files import Result
from fineclip.report.runs import RunRecord


class Protocol(NamedTuple):
    """Properties that comparable scores share; `image_size` is the side of the square in pixels."""

    benchmark: str
    version: int
    config: str
    image_size: int


class Cell(NamedTuple):
    """One metric of one row in percent, over its seeds.

    Attributes:
        mean: Mean over seeds.
        low: Lowest seed.
        high: Highest seed.
        spread: Sample standard deviation; None for a single seed.
    """

    mean: float
    low: float
    high: float
    spread: float | None = None


@dataclass(frozen=True)
class Line:
    """Row of a table.

    Attributes:
        kind: Chance, untrained or trained.
        name: Name of the method, with its encoder if the table has several.
        cells: Cell of each metric.
        encoder: Encoder; None for chance.
        method: Method, followed by the name of a variant; None if not trained.
        scale: Scale; None if not trained.
        images: Number of images of the scale; None if not trained or unknown.
        seeds: Number of runs.
    """

    kind: Literal["chance", "untrained", "trained"]
    name: str
    cells: Mapping[str, Cell]
    encoder: str | None = None
    method: str | None = None
    scale: str | None = None
    images: int | None = None
    seeds: int = 0

    @property
    def css(self) -> str:
        """CSS class of the color of the row."""
        return "chance" if self.kind == "chance" else method_css(self.method)


@dataclass(frozen=True)
class Table:
    """Scores of one protocol.

    Attributes:
        protocol: Properties that all scores share.
        config: Section of the benchmark.
        cases: By metric, in the order of the columns: lowest and highest number of images, boxes or texts behind it.
        lines: Rows in order.
    """

    protocol: Protocol
    config: Mapping[str, Any]
    cases: Mapping[str, tuple[int, int]]
    lines: tuple[Line, ...]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Columns in order."""
        return tuple(self.cases)

    def is_best(self, line: Line, metric: str) -> bool:
        """Return whether a cell is the highest of its column as printed; chance never is."""
        competing = [one.cells[metric].mean for one in self.lines if one.kind != "chance" and metric in one.cells]
        return line.kind != "chance" and round(line.cells[metric].mean, 1) == round(max(competing), 1)


Scored = tuple[RunRecord, Result]


def score_tables(config: Config, records: Sequence[RunRecord], images: Mapping[str, int | None]) -> tuple[Table, ...]:
    """Return all tables, in the order of the planned benchmarks.

    Args:
        config: Validated configuration; an encoder gives the image size if the benchmark names none.
        records: Planned runs with their results.
        images: Number of images of each scale.

    Returns:
        One table per protocol.
    """
    by_protocol: dict[Protocol, list[Scored]] = {}
    for benchmark in config.plan.benchmarks:
        for record in records:
            result = record.results.get(benchmark)
            if result is not None:
                size = result.config.get("image_size") or config.encoders[record.run.encoder].image_size
                protocol = Protocol(benchmark, result.version, canonical(result.config), size)
                by_protocol.setdefault(protocol, []).append((record, result))
    return tuple(_table(protocol, scored, images) for protocol, scored in by_protocol.items())


def aggregate(values: Sequence[float]) -> Cell:
    """Return mean, range and standard deviation over seeds.

    Args:
        values: Percentage of each seed; at least one.

    Returns:
        Cell; `spread` is None for a single seed.

    Examples:
        >>> aggregate([10.0, 14.0])
        Cell(mean=12.0, low=10.0, high=14.0, spread=2.8284271247461903)
    """
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Cell(statistics.fmean(values), min(values), max(values), spread)


def _table(protocol: Protocol, scored: Sequence[Scored], images: Mapping[str, int | None]) -> Table:
    counts: dict[str, list[int]] = {}
    chance: dict[str, float] = {}
    for _, result in scored:
        chance = {**result.chance, **chance}
        for score in result.scores:
            counts.setdefault(score.metric, []).append(score.n)
    lines = _lines(scored, images)
    if chance:
        cells = {metric: Cell(value, value, value) for metric, value in chance.items()}
        lines.insert(0, Line("chance", CHANCE, cells))
    cases = {metric: (min(cases), max(cases)) for metric, cases in counts.items()}
    return Table(protocol, scored[0][1].config, cases, tuple(lines))


def _lines(scored: Sequence[Scored], images: Mapping[str, int | None]) -> list[Line]:
    """Return one row for each encoder, method and scale: untrained first, then method by method, small scales first."""
    groups: dict[tuple[str | None, str, str | None], list[Result]] = {}
    for record, result in scored:
        groups.setdefault((record.run.recipe, record.run.encoder, record.run.scale), []).append(result)
    has_several_encoders = len({encoder for _, encoder, _ in groups}) > 1
    lines = []
    for (method, encoder, scale), results in groups.items():
        name = method_name(method) if method else UNTRAINED
        values: dict[str, list[float]] = {}
        for result in results:
            for score in result.scores:
                values.setdefault(score.metric, []).append(score.value)
        lines.append(
            Line(
                kind="trained" if method else "untrained",
                name=f"{name} ({encoder})" if has_several_encoders else name,
                cells={metric: aggregate(over_seeds) for metric, over_seeds in values.items()},
                encoder=encoder,
                method=method,
                scale=scale,
                images=images.get(scale) if scale else None,
                seeds=len(results),
            )
        )
    order = list(dict.fromkeys((line.method, line.encoder) for line in lines))
    return sorted(lines, key=lambda line: (order.index((line.method, line.encoder)), line.images or 0))

"""Scores as tables: one row for chance, each pretrained encoder, and each method at each scale over its seeds.

A table is one protocol: results that differ in version, configuration or image size never share one.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from fineclip.config import Config
from fineclip.identity import canonical
from fineclip.report.result_files import Result
from fineclip.report.runs import RunRecord


class Protocol(NamedTuple):
    """Properties that comparable scores share; `image_size` is the side of the square in pixels."""

    benchmark: str
    version: int
    config: str
    image_size: int


@dataclass(frozen=True)
class Cell:
    """One metric of one row in percent, over its seeds.

    Attributes:
        mean: Mean over seeds.
        low: Lowest seed.
        high: Highest seed.
        spread: Sample standard deviation; None for a single seed.
        is_best: Whether it is the highest of its column as printed.
    """

    mean: float
    low: float
    high: float
    spread: float | None = None
    is_best: bool = False


@dataclass(frozen=True)
class Line:
    """Row of a table.

    Attributes:
        kind: Chance, untrained or trained.
        cells: Cell of each metric.
        encoder: Encoder; None for chance.
        method: Method, followed by the name of a variant; None if not trained.
        scale: Scale; None if not trained.
        images: Number of images of the scale; None if not trained or unknown.
        seeds: Number of runs.
    """

    kind: Literal["chance", "untrained", "trained"]
    cells: Mapping[str, Cell]
    encoder: str | None = None
    method: str | None = None
    scale: str | None = None
    images: int | None = None
    seeds: int = 0


@dataclass(frozen=True)
class Table:
    """Scores of one protocol.

    Attributes:
        protocol: Properties that all scores share.
        config: Section of the benchmark.
        metrics: Columns in order.
        cases: Lowest and highest number of images, boxes or texts behind each metric.
        lines: Rows in order.
    """

    protocol: Protocol
    config: Mapping[str, Any]
    metrics: tuple[str, ...]
    cases: Mapping[str, tuple[int, int]]
    lines: tuple[Line, ...]

    def cell(self, line: Line, metric: str) -> Cell | None:
        """Return one metric of a row; None if it was not measured."""
        return line.cells.get(metric)


Scored = tuple[RunRecord, Result]


def score_tables(config: Config, records: Sequence[RunRecord], images: Mapping[str, int | None]) -> tuple[Table, ...]:
    """Return all tables, in the order of the planned benchmarks.

    Args:
        config: Validated configuration.
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
                by_protocol.setdefault(protocol_of(result, benchmark, record, config), []).append((record, result))
    return tuple(_table(protocol, scored, images) for protocol, scored in by_protocol.items())


def protocol_of(result: Result, benchmark: str, record: RunRecord, config: Config) -> Protocol:
    """Return the protocol of a result.

    Args:
        result: Content of a score file.
        benchmark: Name of the benchmark.
        record: Run of the result.
        config: Configuration; its encoder gives the image size if the benchmark names none.

    Returns:
        Two results are comparable if their protocols are equal.
    """
    own_size = result.config.get("image_size")
    size = own_size if isinstance(own_size, int) else config.encoders[record.run.encoder].image_size
    return Protocol(benchmark, result.version, canonical(result.config), size)


def aggregate(values: Sequence[float]) -> Cell:
    """Return mean, range and standard deviation over seeds.

    Args:
        values: Percentage of each seed; at least one.

    Returns:
        Cell that is not marked as best; `spread` is None for a single seed.

    Examples:
        >>> aggregate([10.0, 14.0])
        Cell(mean=12.0, low=10.0, high=14.0, spread=2.8284271247461903, is_best=False)
    """
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Cell(statistics.fmean(values), min(values), max(values), spread)


def _table(protocol: Protocol, scored: Sequence[Scored], images: Mapping[str, int | None]) -> Table:
    metrics = tuple(dict.fromkeys(score.metric for _, result in scored for score in result.scores))
    cases: dict[str, tuple[int, int]] = {}
    for metric in metrics:
        counts = [score.n for _, result in scored for score in result.scores if score.metric == metric]
        cases[metric] = (min(counts), max(counts))
    lines = [*_chance(scored), *_lines(scored, images)]
    return Table(protocol, scored[0][1].config, metrics, cases, tuple(_with_best(lines, metrics)))


def _chance(scored: Iterable[Scored]) -> list[Line]:
    known: dict[str, float] = {}
    for _, result in scored:
        known = {**result.chance, **known}
    return [Line("chance", {metric: Cell(value, value, value) for metric, value in known.items()})] if known else []


def _lines(scored: Sequence[Scored], images: Mapping[str, int | None]) -> list[Line]:
    """Return one row for each encoder, method and scale: untrained first, then method by method, small scales first."""
    groups: dict[tuple[str | None, str, str | None], list[Scored]] = {}
    for record, result in scored:
        groups.setdefault((record.run.recipe, record.run.encoder, record.run.scale), []).append((record, result))
    lines = []
    for (method, encoder, scale), members in groups.items():
        values: dict[str, list[float]] = {}
        for _, result in members:
            for score in result.scores:
                values.setdefault(score.metric, []).append(score.value)
        lines.append(
            Line(
                kind="trained" if method else "untrained",
                cells={metric: aggregate(list_) for metric, list_ in values.items()},
                encoder=encoder,
                method=method,
                scale=scale,
                images=images.get(scale) if scale else None,
                seeds=len(members),
            )
        )
    order = list(dict.fromkeys((line.method, line.encoder) for line in lines))
    return sorted(lines, key=lambda line: (order.index((line.method, line.encoder)), line.images or 0))


def _with_best(lines: Sequence[Line], metrics: Sequence[str]) -> list[Line]:
    """Return the rows with the highest cell of each metric marked; cells that print the same number are all marked."""
    highest = {
        metric: max((round(line.cells[metric].mean, 1) for line in lines if _competes(line, metric)), default=None)
        for metric in metrics
    }
    marked = []
    for line in lines:
        best = {m for m, cell in line.cells.items() if _competes(line, m) and round(cell.mean, 1) == highest[m]}
        cells = {metric: replace(cell, is_best=metric in best) for metric, cell in line.cells.items()}
        marked.append(replace(line, cells=cells))
    return marked


def _competes(line: Line, metric: str) -> bool:
    return line.kind != "chance" and metric in line.cells

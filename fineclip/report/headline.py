"""First sentences of the page: the main result in words."""

from collections.abc import Sequence
from typing import NamedTuple

from fineclip.report.formatting import percent, phrase
from fineclip.report.score_tables import Line, Table

RETRIEVAL_METRIC = "image_to_text/R@1"
MAIN_METRICS = ("things/top1", "all/top1", RETRIEVAL_METRIC)  # the first that was measured is the main result


class Finding(NamedTuple):
    """Main result.

    Attributes:
        sentence: The rows compared in words.
        more: Further sentences.
        metric: Metric that is compared.
        bars: Rows that are compared, with their scores.
        images: Number of images of their scale; 0 if none was trained.
    """

    sentence: str
    more: tuple[str, ...] = ()
    metric: str = ""
    bars: tuple[tuple[Line, float], ...] = ()
    images: int = 0


def main_finding(tables: Sequence[Table]) -> Finding:
    """Return the main result at the largest scale, or a finding that states that there are no scores."""
    table, metric = _main_table(tables)
    if table is None:
        return Finding("There are no scores yet.")
    lines = comparable(table, metric)
    largest = max(line.images or 0 for line in lines)
    sentence = _compared(metric, lines)
    more = (_growth(table, metric, lines[0]), _retrieval(tables, metric, largest))
    return Finding(
        sentence=sentence[0].upper() + sentence[1:],
        more=tuple(filter(None, more)),
        metric=metric,
        bars=tuple((line, line.cells[metric].mean) for line in lines),
        images=largest,
    )


def comparable(table: Table, metric: str) -> list[Line]:
    """Return the rows that are compared: every method at one scale, best first, then pretrained encoders and chance.

    The scale is the one at which most methods have this score, and the largest of those.
    """
    measured = [line for line in table.lines if metric in line.cells]
    trained = [line for line in measured if line.kind == "trained"]
    at_scale: dict[str | None, list[Line]] = {}
    for line in trained:
        at_scale.setdefault(line.scale, []).append(line)
    chosen = max(at_scale.values(), key=lambda lines: (len(lines), lines[0].images or 0), default=[])
    best_first = sorted(chosen, key=lambda line: line.cells[metric].mean, reverse=True)
    return [*best_first, *(line for kind in ("untrained", "chance") for line in measured if line.kind == kind)]


def _main_table(tables: Sequence[Table]) -> tuple[Table | None, str]:
    """Return the table and the metric of the main result; None without scores."""
    metrics = [*MAIN_METRICS, *(metric for table in tables[:1] for metric in table.metrics)]
    found = ((table, metric) for metric in metrics for table in tables if metric in table.metrics)
    return next(found, (None, ""))


def _compared(metric: str, lines: Sequence[Line]) -> str:
    first, *rest = (f"the {line.name}" if line.kind == "untrained" else line.name for line in lines)
    first_score, *scores = (line.cells[metric].mean for line in lines)
    others = [f"{name} {percent(score)}" for name, score in zip(rest, scores, strict=True)]
    return ", ".join([f"{first} {phrase(metric, first_score)}", *others]) + "."


def _growth(table: Table, metric: str, best: Line) -> str:
    """Return a sentence about the best method from its smallest to its largest scale; empty if it has one scale."""
    ladder = [line for line in table.lines if line.name == best.name and metric in line.cells and line.images]
    if not ladder or ladder[0].images == ladder[-1].images:
        return ""
    low, high = (line.cells[metric].mean for line in (ladder[0], ladder[-1]))
    return (
        f"From {ladder[0].images:,} to {ladder[-1].images:,} images {best.name} {'rises' if high > low else 'falls'}"
        f" from {percent(low)} to {percent(high)}."
    )


def _retrieval(tables: Sequence[Table], main: str, images: int) -> str:
    """Return a sentence about retrieval; it names the scale if that is not the scale of the main result."""
    table = next((table for table in tables if RETRIEVAL_METRIC in table.metrics), None)
    lines = comparable(table, RETRIEVAL_METRIC) if table and main != RETRIEVAL_METRIC else []
    if not lines or lines[0].kind == "chance":
        return ""
    size = lines[0].images
    where = "On whole images" + (f", trained on {size:,}," if size and size != images else "")
    return f"{where} {_compared(RETRIEVAL_METRIC, lines)}"

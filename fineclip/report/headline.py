"""First sentences of the page: the plan, and the main result in words."""

from collections.abc import Sequence
from dataclasses import dataclass

from fineclip.config import Config
from fineclip.report.formatting import CHANCE, UNTRAINED, listed, method_name, metric_name, percent, phrase, plural
from fineclip.report.score_tables import Line, Table

MAIN_METRICS = ("things/top1", "all/top1", "image_to_text/R@1")  # the first that was measured is the main result
RETRIEVAL_METRIC = "image_to_text/R@1"


@dataclass(frozen=True)
class Bar:
    """One score of the main result; `kind` is that of its table row."""

    name: str
    kind: str
    method: str | None
    value: float


@dataclass(frozen=True)
class Finding:
    """Main result: a sentence, more sentences, and the scores of the first sentence as bars."""

    sentence: str
    more: tuple[str, ...] = ()
    bars: tuple[Bar, ...] = ()
    metric: str = ""
    scale: str = ""


def main_finding(tables: Sequence[Table]) -> Finding:
    """Return the main result at the largest scale, or a finding that states that there are no scores."""
    chosen = _main_table(tables)
    if chosen is None:
        return Finding("There are no scores yet.")
    table, metric = chosen
    lines = comparable(table, metric)
    bars = tuple(Bar(row_name(line, table), line.kind, line.method, line.cells[metric].mean) for line in lines)
    largest = max((line.images or 0 for line in lines), default=0)
    return Finding(
        sentence=capitalized(_compared(metric, bars)),
        more=tuple(
            sentence for sentence in (_growth(table, metric, lines), _retrieval(tables, metric, largest)) if sentence
        ),
        bars=bars,
        metric=metric_name(metric),
        scale=f"trained on {plural(largest, 'image')}" if largest else "",
    )


def comparable(table: Table, metric: str) -> list[Line]:
    """Return the rows that are compared: every method at one scale, best first, then pretrained encoders and chance.

    The scale is the one at which most methods have this score, and the largest of those.
    """
    trained = [line for line in table.lines if line.kind == "trained" and metric in line.cells]
    scales = {line.scale: line.images or 0 for line in trained}
    population = {scale: sum(line.scale == scale for line in trained) for scale in scales}
    chosen = max(scales, key=lambda scale: (population[scale], scales[scale]), default=None)
    best_first = sorted(
        (line for line in trained if line.scale == chosen), key=lambda line: line.cells[metric].mean, reverse=True
    )
    others = [line for kind in ("untrained", "chance") for line in table.lines if line.kind == kind]
    return [*best_first, *(line for line in others if metric in line.cells)]


def row_name(line: Line, table: Table) -> str:
    """Return the name of a row: its method, and its encoder if the table has several."""
    several = len({other.encoder for other in table.lines if other.encoder}) > 1
    name = {"chance": CHANCE, "untrained": UNTRAINED}.get(line.kind) or method_name(line.method or "")
    return f"{name} ({line.encoder})" if several and line.encoder else name


def what_was_run(config: Config) -> str:
    """Return the plan as one sentence."""
    plan = config.plan
    images = [config.scales[name].images for name in plan.scales]
    sizes = listed([f"{number:,}" if number else "all" for number in images])
    recipes = list(dict.fromkeys(method_name(run.recipe) for run in config.runs().values() if run.recipe))
    seeds = "one seed" if len(plan.seeds) == 1 else f"{len(plan.seeds)} seeds"
    return (
        f"{listed(recipes)}, trained from {listed(list(config.planned_encoders))}"
        f" on {sizes} images of {config.dataset.folder} with {seeds};"
        f" boxes by {config.regions}, their captions by {config.captions}."
    )


def _main_table(tables: Sequence[Table]) -> tuple[Table, str] | None:
    for metric in MAIN_METRICS:
        for table in tables:
            if metric in table.metrics:
                return table, metric
    return (tables[0], tables[0].metrics[0]) if tables and tables[0].metrics else None


def _compared(metric: str, bars: Sequence[Bar]) -> str:
    if not bars:
        return "There are no scores yet."
    subject = _as_subject(bars[0])
    rest = [f"{'the ' if bar.kind == 'untrained' else ''}{bar.name} {percent(bar.value)}" for bar in bars[1:]]
    return ", ".join([f"{subject} {phrase(metric, bars[0].value)}", *rest]) + "."


def capitalized(sentence: str) -> str:
    """Return the sentence with its first letter in upper case."""
    return sentence[:1].upper() + sentence[1:]


def _as_subject(bar: Bar) -> str:
    return f"the {bar.name}" if bar.kind == "untrained" else bar.name


def _growth(table: Table, metric: str, lines: Sequence[Line]) -> str:
    """Return a sentence about the best method from its smallest to its largest scale; empty if it has one scale."""
    first = lines[0] if lines else None
    if first is None or first.kind != "trained":
        return ""
    ladder = [
        line
        for line in table.lines
        if (line.method, line.encoder) == (first.method, first.encoder) and metric in line.cells and line.images
    ]
    low, high = (ladder[0], ladder[-1]) if ladder else (first, first)
    if (low.images or 0) == (high.images or 0):
        return ""
    verb = "rises" if high.cells[metric].mean > low.cells[metric].mean else "falls"
    return (
        f"From {low.images:,} to {high.images:,} images {row_name(first, table)} {verb}"
        f" from {percent(low.cells[metric].mean)} to {percent(high.cells[metric].mean)}."
    )


def _retrieval(tables: Sequence[Table], main: str, images: int) -> str:
    """Return a sentence about retrieval; it names the scale if that is not the scale of the main result."""
    table = next((table for table in tables if RETRIEVAL_METRIC in table.metrics), None)
    if table is None or main == RETRIEVAL_METRIC:
        return ""
    lines = comparable(table, RETRIEVAL_METRIC)
    if not lines or lines[0].kind == "chance":
        return ""
    bars = [Bar(row_name(line, table), line.kind, line.method, line.cells[RETRIEVAL_METRIC].mean) for line in lines]
    size = lines[0].images
    where = "On whole images" + (f", trained on {size:,}," if size and size != images else "")
    return f"{where} {_compared(RETRIEVAL_METRIC, bars)}"

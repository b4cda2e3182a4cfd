"""Content of the charts: scores against scale, losses against steps."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from fineclip.report.formatting import UNTRAINED, count, listed, method_name, metric_name, percent, plural
from fineclip.report.line_chart import Chart, Point, Series, thinned
from fineclip.report.runs import RunRecord, Step
from fineclip.report.score_tables import Line, Table

NOT_LOSSES = {"step", "epoch", "learning_rate", "logit_scale", "images", "regions"}
TOTAL = "total"
TERM_COLORS = 8  # in style.css


def scale_charts(table: Table) -> tuple[Chart, ...]:
    """Return one chart of score against scale for the first metric of each group, such as top 1 of things.

    Args:
        table: Scores of one protocol.

    Returns:
        Charts in the order of the metrics; none if no row was trained on a known number of images.
    """
    has_scale = any(line.images for line in table.lines)
    return tuple(_scale_chart(table, metric) for metric in leading(table.metrics)) if has_scale else ()


def leading(metrics: Iterable[str]) -> list[str]:
    """Return the first metric of each group."""
    first: dict[str, str] = {}
    for metric in metrics:
        first.setdefault(metric.rpartition("/")[0] or metric, metric)
    return list(first.values())


def loss_charts(records: Sequence[RunRecord], images: Mapping[str, int | None]) -> tuple[Chart, ...]:
    """Return one chart for each method, encoder and scale: every loss term against the step, all seeds in one chart.

    Args:
        records: Planned runs.
        images: Number of images of each scale; None if unknown.

    Returns:
        Charts grouped by method and encoder, each group in the order of the scales.
    """
    groups: dict[tuple[str, str], dict[str, list[Sequence[Step]]]] = {}
    for record in records:
        run = record.run
        if run.recipe and run.scale and record.steps:
            groups.setdefault((run.recipe, run.encoder), {}).setdefault(run.scale, []).append(record.steps)
    has_several_encoders = len({encoder for _, encoder in groups}) > 1
    colors = term_css(terms_of([record.steps for record in records]))
    charts = []
    for (recipe, encoder), scales in groups.items():
        for scale, runs in scales.items():
            size = images.get(scale)
            parts = [method_name(recipe), plural(size, "image") if size else scale]
            title = " \N{MIDDLE DOT} ".join([*parts, encoder] if has_several_encoders else parts)
            charts.append(_loss_chart(title, runs, colors))
    return tuple(charts)


def cases(lowest: int, highest: int) -> str:
    """Return the number of cases behind a score as text; a range if runs differ."""
    return count(lowest) if lowest == highest else f"{lowest:,} to {highest:,}"


def _scale_chart(table: Table, metric: str) -> Chart:
    lines = [line for line in table.lines if metric in line.cells]
    ladders: dict[str, list[Line]] = {}
    for line in lines:
        if line.images:
            ladders.setdefault(line.name, []).append(line)
    series = [_ladder(ladder, metric) for ladder in ladders.values()]
    references = []
    for line in lines:
        if line.kind != "trained":
            mean = line.cells[metric].mean
            references.append(Series(line.css, f"{line.name.replace(UNTRAINED, 'untrained')} {mean:.1f}", mean))
    labels = "; ".join(one.label for one in series)
    return Chart(
        title=metric_name(metric),
        note=f"n = {cases(*table.cases[metric])}",
        summary=f"{metric_name(metric)} in percent against images: {labels or 'no scores'}",
        x_label="images trained on",
        y_label="%",
        series=(*references, *series),
        log_ticks=tuple(sorted({line.images for line in lines if line.images})),
    )


def _ladder(ladder: Sequence[Line], metric: str) -> Series:
    points = []
    for line in ladder:
        cell = line.cells[metric]
        spread = f" with a spread of {cell.spread:.1f}" if cell.spread is not None else ""
        note = f"{line.name}, {plural(line.images or 0, 'image')}: {percent(cell.mean)}{spread}"
        points.append(Point(line.images or 0, cell.mean, cell.low, cell.high, note))
    end = points[-1].y
    return Series(ladder[0].css, f"{ladder[0].name} {end:.1f}", end, (tuple(points),), has_marks=True)


def _loss_chart(title: str, runs: Sequence[Sequence[Step]], colors: Mapping[str, str]) -> Chart:
    series = []
    for name in terms_of(runs):
        strands = tuple(filter(None, (_strand(name, run) for run in runs)))
        if strands:
            end = statistics.fmean(strand[-1].y for strand in strands)
            series.append(Series(colors[name], f"{name} {end:.2f}", end, strands))
    steps = max(step["step"] for run in runs for step in run)
    labels = listed([one.label for one in series])
    return Chart(
        title=title,
        note=plural(int(steps), "step") + (f", {plural(len(runs), 'seed')}" if len(runs) > 1 else ""),
        summary=f"loss against steps, {title}: at the end {labels or 'nothing'}",
        x_label="step",
        y_label="loss",
        series=tuple(series),
    )


def _strand(name: str, run: Sequence[Step]) -> tuple[Point, ...]:
    losses = [(step["step"], step[name]) for step in run if math.isfinite(step.get(name, math.nan))]
    return tuple(Point(step, loss, low=loss, high=loss) for step, loss in thinned(losses))


def terms_of(runs: Sequence[Sequence[Step]]) -> list[str]:
    """Return the names of the loss terms, the total first. The total is left out if there is only one term."""
    names = dict.fromkeys(name for run in runs for step in run for name in step if name not in NOT_LOSSES)
    parts = [name for name in names if name != TOTAL]
    return parts if len(parts) == 1 or TOTAL not in names else [TOTAL, *parts]


def term_css(terms: Sequence[str]) -> dict[str, str]:
    """Return the CSS class of each term's color, the same in every chart of the page."""
    parts = [name for name in terms if name != TOTAL]
    return {TOTAL: "total"} | {name: f"t{index % TERM_COLORS + 1}" for index, name in enumerate(parts)}

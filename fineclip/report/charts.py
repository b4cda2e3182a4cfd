"""Content of the charts: scores against scale, losses against steps."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fineclip.config import MethodsConfig
from fineclip.report.formatting import (
    CHANCE,
    UNTRAINED,
    count,
    listed,
    method_name,
    metric_name,
    percent,
    plural,
)
from fineclip.report.headline import row_name
from fineclip.report.line_chart import Axis, Chart, Point, Reference, Series, line_chart, thinned
from fineclip.report.runs import Point as Step
from fineclip.report.runs import RunRecord
from fineclip.report.score_tables import Cell, Line, Table

NOT_LOSSES = {"step", "epoch", "learning_rate", "logit_scale", "images", "regions"}
TOTAL = "total"
PALETTE = 8  # colors in style.css for methods, and for loss terms


@dataclass(frozen=True)
class Figure:
    """Chart with its title and an optional line of text below the title."""

    title: str
    picture: Markup
    note: str = ""


def method_css(recipe: str | None) -> str:
    """Return the CSS class of a method's color, the same in every report.

    Args:
        recipe: Method, followed by the name of a variant; None is not a method.

    Returns:
        `m1` to `m8`.
    """
    names, method = list(MethodsConfig.model_fields), (recipe or "").partition(" ")[0]
    return f"m{(names.index(method) if method in names else len(names)) % PALETTE + 1}"


def scale_figures(table: Table) -> tuple[Figure, ...]:
    """Return one chart of score against scale for the first metric of each group, such as top 1 of things."""
    return tuple(_scale_figure(table, metric) for metric in leading(table.metrics))


def leading(metrics: Iterable[str]) -> list[str]:
    """Return the first metric of each group."""
    first: dict[str, str] = {}
    for metric in metrics:
        group, slash, _ = metric.rpartition("/")
        first.setdefault(group if slash else metric, metric)
    return list(first.values())


def loss_figures(records: Sequence[RunRecord], images: Mapping[str, int | None]) -> tuple[Figure, ...]:
    """Return one chart for each method, encoder and scale: every loss term against the step, all seeds in one chart.

    Args:
        records: Planned runs.
        images: Number of images of each scale; None if unknown.

    Returns:
        Figures by scale, and in one scale in the order of the runs.
    """
    groups: dict[tuple[str, str, str], list[RunRecord]] = {}
    for record in records:
        run = record.run
        if run.method and run.scale and record.steps:
            groups.setdefault((str(run.recipe), run.encoder, run.scale), []).append(record)
    encoders = {encoder for _, encoder, _ in groups}
    order = [(method, encoder) for method, encoder, _ in groups]
    terms = list(dict.fromkeys(n for members in groups.values() for n in terms_of([m.steps for m in members])))
    colors = term_css(terms)
    figures = []
    for (method, encoder, scale), members in sorted(groups.items(), key=lambda group: order.index(group[0][:2])):
        size = images.get(scale)
        parts = [method_name(method), plural(size, "image") if size else scale]
        title = " \N{MIDDLE DOT} ".join([*parts, encoder] if len(encoders) > 1 else parts)
        figures.append(_loss_figure(title, [member.steps for member in members], colors))
    return tuple(figures)


def _scale_figure(table: Table, metric: str) -> Figure:
    lines = [line for line in table.lines if metric in line.cells]
    ladders: dict[tuple[str | None, str | None], list[Line]] = {}
    for line in lines:
        if line.kind == "trained" and line.images:
            ladders.setdefault((line.method, line.encoder), []).append(line)
    series = [_ladder(ladder, table, metric) for ladder in ladders.values()]
    sizes = sorted({line.images for line in lines if line.images})
    references = [
        Reference(line.kind, line.cells[metric].mean, f"{_short(row_name(line, table))} {line.cells[metric].mean:.1f}")
        for line in lines
        if line.kind != "trained"
    ]
    chart = Chart(
        title=metric_name(metric),
        summary=f"{metric_name(metric)} in percent against images: {'; '.join(s.label for s in series) or 'no scores'}",
        x=Axis("images trained on", tuple((float(size), count(size)) for size in sizes), is_log=True),
        y=Axis("%"),
        series=tuple(series),
        references=tuple(references),
    )
    lowest, highest = table.cases[metric]
    return Figure(metric_name(metric), line_chart(chart), f"n = {cases(lowest, highest)}")


def cases(lowest: int, highest: int) -> str:
    """Return the number of cases behind a score as text; a range if runs differ."""
    return count(lowest) if lowest == highest else f"{lowest:,} to {highest:,}"


def _ladder(ladder: Sequence[Line], table: Table, metric: str) -> Series:
    name = row_name(ladder[0], table)
    points = tuple(
        Point(
            x=float(line.images or 0),
            y=line.cells[metric].mean,
            low=line.cells[metric].low,
            high=line.cells[metric].high,
            note=f"{name}, {plural(line.images or 0, 'image')}: {cell_text(line.cells[metric])}",
        )
        for line in ladder
    )
    return Series(name, method_css(ladder[0].method), (points,), f"{name} {points[-1].y:.1f}")


def cell_text(cell: Cell) -> str:
    """Return a score as text: 26.6 %, or with several seeds 26.6 % with a spread of 0.3."""
    return percent(cell.mean) + (f" with a spread of {cell.spread:.1f}" if cell.spread is not None else "")


def _short(name: str) -> str:
    return name.replace(UNTRAINED, "untrained").replace(CHANCE, "chance")


def _loss_figure(title: str, runs: Sequence[Sequence[Step]], colors: Mapping[str, str]) -> Figure:
    series = tuple(_term(name, colors[name], runs) for name in terms_of(runs))
    series = tuple(term for term in series if any(term.strands))
    chart = Chart(
        title=title,
        summary=f"loss against steps, {title}: at the end {listed([term.label for term in series]) or 'nothing'}",
        x=Axis("step"),
        y=Axis("loss"),
        series=series,
    )
    steps = max((step["step"] for run in runs for step in run), default=0)
    seeds = f", {plural(len(runs), 'seed')}" if len(runs) > 1 else ""
    return Figure(title, line_chart(chart), f"{plural(int(steps), 'step')}{seeds}")


def terms_of(runs: Sequence[Sequence[Step]]) -> list[str]:
    """Return the names of the loss terms, the total first. The total is left out if there is only one term."""
    names = dict.fromkeys(name for run in runs for step in run for name in step if name not in NOT_LOSSES)
    parts = [name for name in names if name != TOTAL]
    return parts if len(parts) == 1 or TOTAL not in names else [TOTAL, *parts]


def term_css(terms: Sequence[str]) -> dict[str, str]:
    """Return the CSS class of each term's color, the same in every chart of the page."""
    parts = [name for name in terms if name != TOTAL]
    return {TOTAL: "total"} | {name: f"t{place % PALETTE + 1}" for place, name in enumerate(parts)}


def _term(name: str, css: str, runs: Sequence[Sequence[Step]]) -> Series:
    strands = []
    for run in runs:
        points = [
            Point(step["step"], step[name], step[name], step[name], f"step {step['step']:.0f}: {step[name]:.3f}")
            for step in run
            if name in step and math.isfinite(step[name])
        ]
        strands.append(thinned(points))
    drawn = tuple(strand for strand in strands if strand)
    last = sum(strand[-1].y for strand in drawn) / len(drawn) if drawn else 0.0
    return Series(name, css, drawn, f"{name} {last:.2f}", marks=False)

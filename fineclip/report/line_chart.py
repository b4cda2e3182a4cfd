"""Line charts as SVG, colored by the CSS of the page.

Every text goes through `escape`. Coordinates are user units of the viewBox, about one pixel each on the page.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from markupsafe import Markup, escape

WIDTH, HEIGHT = 380, 250
LEFT, TOP, BOTTOM = 38, 24, 40
LABEL_GAP = 14.0  # between two labels at the right edge
CHARACTER = 6.1  # width of one of their characters


class Point(NamedTuple):
    """Value with the range over seeds; `note` is the tooltip."""

    x: float
    y: float
    low: float
    high: float
    note: str


@dataclass(frozen=True)
class Series:
    """Lines of one name and color (a CSS class); the label at the right edge states the last value."""

    name: str
    css: str
    strands: tuple[tuple[Point, ...], ...]
    label: str
    marks: bool = True

    @property
    def last(self) -> float:
        """Height of the label: the mean of the last values."""
        ends = [strand[-1].y for strand in self.strands if strand]
        return sum(ends) / len(ends)


@dataclass(frozen=True)
class Reference:
    """Dashed horizontal line over the whole width."""

    css: str
    y: float
    label: str


@dataclass(frozen=True)
class Axis:
    """Label and ticks of an axis.

    Attributes:
        label: Text of the axis.
        ticks: Pairs of value and text.
        is_log: Whether the scale is logarithmic.
    """

    label: str
    ticks: tuple[tuple[float, str], ...] = ()
    is_log: bool = False


@dataclass(frozen=True)
class Chart:
    """Content of one chart.

    Attributes:
        title: Heading.
        summary: Text for screen readers.
        x: Horizontal axis.
        y: Vertical axis.
        series: Lines.
        references: Dashed lines.
    """

    title: str
    summary: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    references: tuple[Reference, ...] = field(default=())


class Scale(NamedTuple):
    """Map from values to user units, linear in the value or its logarithm."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of a value."""
        low, high, value = (math.log(v) for v in (self.low, self.high, value)) if self.is_log else (*self[:2], value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def line_chart(chart: Chart) -> Markup:
    """Return the chart as an SVG element."""
    points = [point for series in chart.series for strand in series.strands for point in strand]
    y_ticks = nice_ticks(0.0, max([p.high for p in points] + [r.y for r in chart.references], default=1.0))
    labels = [*(series.label for series in chart.series), *(reference.label for reference in chart.references)]
    longest = max(map(len, labels), default=0)
    right = WIDTH - max(24.0, 12 + longest * CHARACTER)
    x = _x_scale(chart.x, points, end=right - 6)
    y = Scale(0.0, y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [_grid(y, y_ticks, right), _x_axis(chart.x, x, points, right)]
    parts += [_reference(reference, y, right) for reference in chart.references]
    parts += [_lines(series, x, y) for series in chart.series]
    parts.append(_labels(chart, y, right))
    unit = Markup('<text class="axis" x="0" y="9">{}</text>').format(chart.y.label)
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}</svg>').format(
        WIDTH, HEIGHT, chart.summary, unit, Markup("").join(parts)
    )


def nice_ticks(low: float, high: float, *, most: int = 5) -> list[float]:
    """Return tick values in steps of 1, 2 or 5 times a power of ten.

    Args:
        low: First tick.
        high: Value that the last tick reaches.
        most: Upper limit of the number of steps, about.

    Returns:
        Ascending values; `low` and `low + 1` if the range is empty or not finite.

    Examples:
        >>> nice_ticks(0, 26.6)
        [0, 10, 20, 30]
    """
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low, low + 1]
    rough = span / most
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    count = math.ceil(round((high - low) / step, 9))
    return [round(low + step * index, 10) for index in range(count + 1)]


def spread_apart(wanted: Sequence[float], gap: float, *, low: float, high: float) -> list[float]:
    """Move positions apart, so that labels do not overlap.

    Args:
        wanted: Positions, in any order.
        gap: Minimum distance between two positions.
        low: Lower limit.
        high: Upper limit; it takes precedence over `low` if the positions do not fit.

    Returns:
        New positions in the order of `wanted`; their ranking is unchanged.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = [0.0] * len(wanted)
    above = -math.inf
    for index in order:
        above = placed[index] = max(wanted[index], above + gap, low)
    below = math.inf
    for index in reversed(order):
        below = placed[index] = min(placed[index], below - gap, high)
    return placed


def thinned(points: Sequence[Point], most: int = 160) -> tuple[Point, ...]:
    """Return at most `most` points: means of equal runs of neighbors; the last point is kept."""
    if len(points) <= most:
        return tuple(points)
    *head, last = points
    size = math.ceil(len(head) / (most - 1))
    means = []
    for start in range(0, len(head), size):
        block = head[start : start + size]
        y = sum(point.y for point in block) / len(block)
        means.append(Point(block[-1].x, y, min(p.low for p in block), max(p.high for p in block), block[-1].note))
    return (*means, last)


def tick_text(value: float) -> str:
    """Return the shortest exact text of a tick: 0, 0.5, 20, 1,000."""
    return f"{value:,.10g}"


def _x_scale(axis: Axis, points: Sequence[Point], *, end: float) -> Scale:
    values = [point.x for point in points] + [value for value, _ in axis.ticks]
    low, high = (min(values), max(values)) if values else (1.0, 1.0)
    if not axis.is_log:
        return Scale(0.0, high, LEFT, end)
    low, high = (low / 1.25, high * 1.05) if low < high else (low / 2, high * 2)
    return Scale(low, high, LEFT, end, is_log=True)


def _grid(y: Scale, ticks: Sequence[float], right: float) -> Markup:
    line = Markup('<line class="{}" x1="{}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>')
    text = Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>')
    return Markup("").join(
        line.format("base" if tick == 0 else "grid", LEFT, right, y(tick), y(tick))
        + text.format(LEFT - 7, y(tick) + 3.8, tick_text(tick))
        for tick in ticks
    )


def _x_axis(axis: Axis, x: Scale, points: Sequence[Point], right: float) -> Markup:
    ticks = axis.ticks
    if not ticks:
        highest = max((point.x for point in points), default=1.0)
        ticks = tuple((value, tick_text(value)) for value in nice_ticks(0.0, highest, most=4) if value <= highest)
    mark = Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>')
    shown = [mark.format(x(value), HEIGHT - BOTTOM + 16, text) for value, text in ticks if x.low <= value <= x.high]
    title = Markup('<text class="axis" x="{:.1f}" y="{}" text-anchor="middle">{}</text>')
    return Markup("").join([*shown, title.format((LEFT + right) / 2, HEIGHT - 5, axis.label)])


def _reference(reference: Reference, y: Scale, right: float) -> Markup:
    return Markup('<line class="reference {}" x1="{}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(
        reference.css, LEFT, right, y(reference.y), y(reference.y)
    )


def _lines(series: Series, x: Scale, y: Scale) -> Markup:
    parts = []
    for strand in series.strands:
        path = " ".join(f"{x(point.x):.1f},{y(point.y):.1f}" for point in strand)
        parts.append(Markup('<polyline class="line {}" points="{}"/>').format(series.css, path))
        if not series.marks:
            continue
        for point in strand:
            if point.high > point.low:
                parts.append(
                    Markup('<line class="whisker {}" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(
                        series.css, x(point.x), x(point.x), y(point.low), y(point.high)
                    )
                )
            parts.append(
                Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="4"><title>{}</title></circle>').format(
                    series.css, x(point.x), y(point.y), point.note
                )
            )
    return Markup("").join(parts)


def _labels(chart: Chart, y: Scale, right: float) -> Markup:
    """Return the names at the right edge beside the ends of their lines, shifted where they would overlap."""
    items = [(y(s.last), s.css, s.label) for s in chart.series if any(s.strands)]
    items += [(y(r.y), f"quiet {r.css}", r.label) for r in chart.references]
    heights = spread_apart([item[0] for item in items], LABEL_GAP, low=TOP, high=HEIGHT - BOTTOM + 2)
    text = Markup('<text class="label {}" x="{:.1f}" y="{:.1f}">{}</text>')
    return Markup("").join(
        text.format(css, right + 6, height + 4, escape(label))
        for (_, css, label), height in zip(items, heights, strict=True)
    )

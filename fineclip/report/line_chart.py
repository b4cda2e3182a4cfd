"""Line charts as SVG, colored by the CSS of the page and laid out here; `line_chart.html` is their markup.

Coordinates are user units of the viewBox, about one pixel each on the page.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fineclip.report.formatting import environment

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
    note: str = ""


class Series(NamedTuple):
    """Lines of one color, with a label at the right edge.

    Attributes:
        css: CSS class of the color.
        label: Name and last value.
        end: Height of the label: the mean of the last values.
        strands: Lines; a series without any is a dashed line at `end` over the whole width.
        has_marks: Whether every point is marked, with its range and tooltip.
    """

    css: str
    label: str
    end: float
    strands: tuple[tuple[Point, ...], ...] = ()
    has_marks: bool = False


class Chart(NamedTuple):
    """Content of one chart.

    Attributes:
        title: Heading.
        note: Text beside the heading.
        summary: Text for screen readers.
        x_label: Text of the horizontal axis.
        y_label: Text of the vertical axis.
        series: Lines, the topmost last.
        log_ticks: Ticks of a logarithmic horizontal axis, ascending; the axis is linear from 0 if there are none.
    """

    title: str
    note: str
    summary: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    log_ticks: tuple[int, ...] = ()


def line_chart(chart: Chart) -> str:
    """Return the chart as an SVG element."""
    points = [point for series in chart.series for strand in series.strands for point in strand]
    y_ticks = nice_ticks(max([series.end for series in chart.series] + [point.high for point in points], default=1.0))
    right = WIDTH - max(24.0, 12 + CHARACTER * max((len(series.label) for series in chart.series), default=0))
    if chart.log_ticks:
        x_ticks: Sequence[float] = chart.log_ticks
        low, high = x_ticks[0] / 1.25, x_ticks[-1] * (1.05 if len(x_ticks) > 1 else 1.25)
    else:
        low, high = 0.0, max((point.x for point in points), default=1.0)
        x_ticks = [tick for tick in nice_ticks(high, most=4) if tick <= high]
    warp = np.log if chart.log_ticks else float

    def x(value: float) -> float:
        return round(float(np.interp(warp(value), (warp(low), warp(high)), (LEFT, right - 6))), 1)

    def y(value: float) -> float:
        return round(float(np.interp(value, (0, y_ticks[-1]), (HEIGHT - BOTTOM, TOP))), 1)

    heights = spread_apart([y(series.end) for series in chart.series], LABEL_GAP, low=TOP, high=HEIGHT - BOTTOM + 2)
    template = environment().get_template("line_chart.html")
    return template.render(
        chart=chart,
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=round(right, 1),
        x=x,
        y=y,
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        labels=zip(chart.series, heights, strict=True),
    )


def nice_ticks(high: float, *, most: int = 5) -> list[float]:
    """Return tick values from 0 in steps of 1, 2 or 5 times a power of ten.

    Args:
        high: Value that the last tick reaches.
        most: Upper limit of the number of steps, about.

    Returns:
        Ascending values; 0 and 1 if `high` is not positive.

    Examples:
        >>> nice_ticks(26.6)
        [0, 10, 20, 30]
    """
    if high <= 0:
        return [0, 1]
    power = 10 ** math.floor(math.log10(high / most))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power * most >= high * (1 - 1e-9))
    return [round(step * index, 10) for index in range(math.ceil(round(high / step, 9)) + 1)]


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
    order = np.argsort(wanted, kind="stable")
    offsets = gap * np.arange(len(wanted))  # of positions that are exactly `gap` apart
    placed = np.empty(len(wanted))
    placed[order] = np.maximum.accumulate(np.maximum(np.array(wanted)[order], low) - offsets) + offsets
    placed[order] = np.minimum(placed[order], high - offsets[::-1])
    return placed.tolist()


def thinned(values: Sequence[tuple[float, float]], most: int = 160) -> Sequence[tuple[float, float]]:
    """Return at most `most` pairs of x and y: means of equal runs of neighbors; the last pair is kept."""
    if len(values) <= most:
        return values
    blocks = np.array_split(np.array(values[:-1]), most - 1)
    return [*(tuple(block.mean(axis=0).tolist()) for block in blocks), values[-1]]

"""Numbers and names as text, and the Jinja environment in which they are filters.

A number and its unit are joined by a no-break space.
"""

import itertools
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import jinja2

from fineclip.config import MethodsConfig
from fineclip.evals.benchmarks import KINDS, benchmark_of

NBSP = "\u00a0"  # a space at which no line breaks

METHOD_NAMES = {name: type(section).__name__.removesuffix("Config") for name, section in MethodsConfig()}
UNTRAINED, CHANCE = "pretrained encoder", "chance"
METHOD_COLORS = 8  # in style.css

LEAF_NAMES = {"top1": "top 1", "top5": "top 5"}


@cache
def environment() -> jinja2.Environment:
    """Return an environment for the templates of this folder; every text is escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        one.__name__: one
        for one in (count, duration, listed, memory, method_css, method_name, metric_name, percent, plural)
    }
    return made


def method_name(recipe: str) -> str:
    """Return the name of a method as its authors write it, and of a variant: FineCLIP, FineCLIP distill."""
    method, *variant = recipe.split(" ", maxsplit=1)
    return " ".join([METHOD_NAMES[method], *variant])


def method_css(recipe: str | None) -> str:
    """Return the CSS class of a method's color, the same in every report.

    Args:
        recipe: Method, followed by the name of a variant; None if not trained.

    Returns:
        `m1` to `m8`, or `untrained`.
    """
    if recipe is None:
        return "untrained"
    return f"m{list(METHOD_NAMES).index(recipe.partition(' ')[0]) % METHOD_COLORS + 1}"


def percent(value: float) -> str:
    """Return 26.63 as 26.6 %."""
    return f"{value:.1f}{NBSP}%"


def count(number: int) -> str:
    """Return 12345 as 12,345."""
    return f"{number:,}"


def plural(number: int, word: str) -> str:
    """Return the number with its noun: 1 image, 2,000 images."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def duration(seconds: float) -> str:
    """Return seconds as 0.4 s, 12 s, 3 min 20 s or 5 h 12 min."""
    if seconds < 9.95:
        return f"{seconds:.1f}{NBSP}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{NBSP}s"
    if whole < 3600:
        return f"{whole // 60}{NBSP}min {whole % 60:02d}{NBSP}s"
    return f"{whole // 3600}{NBSP}h {whole % 3600 // 60:02d}{NBSP}min"


def memory(megabytes: float) -> str:
    """Return megabytes as 640 MB or 1.7 GB; a GB is 1,000 MB."""
    return f"{megabytes:.0f}{NBSP}MB" if megabytes < 1000 else f"{megabytes / 1000:.1f}{NBSP}GB"


def listed(words: Sequence[str]) -> str:
    """Return the words as A, B and C."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def metric_parts(metric: str) -> tuple[str, str]:
    """Return group and leaf of a metric as words: image_to_text/R@1 gives (image to text, R@1)."""
    group, slash, leaf = metric.rpartition("/")
    return (group.replace("_", " ") if slash else "", LEAF_NAMES.get(leaf, leaf.replace("_", " ")))


def metric_name(metric: str) -> str:
    """Return group and leaf of a metric, joined."""
    return ", ".join(part for part in metric_parts(metric) if part)


def metric_groups(metrics: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return the groups of metrics, as words, with their metrics in order."""
    groups = itertools.groupby(metrics, key=lambda metric: metric_parts(metric)[0])
    return [(group, list(members)) for group, members in groups]


def phrase(metric: str, value: float) -> str:
    """Return the phrase for a score that follows a name, as its benchmark declares it."""
    declared = (benchmark_of(kind).sentences.get(metric) for kind in KINDS)
    sentence = next(filter(None, declared), f"reaches {{value}} in {metric_name(metric)}")
    return sentence.format(value=percent(value))

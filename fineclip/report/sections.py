"""The plan in one sentence, and sections of the configuration as text."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from fineclip.config import Config, WeightsConfig
from fineclip.identity import identity
from fineclip.report.formatting import listed, method_name, plural

STATED_ELSEWHERE = {"weights", "tokenizer", "kind", "engine", "layout", "source"}  # stated in words
LONGEST_VALUE = 60  # characters; longer ones are in the configuration at the end of the page


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


def changed(section: BaseModel, *stated: str) -> list[tuple[str, str]]:
    """Return the keys of a section that differ from their defaults, except those that the page states in words."""
    hidden = {*STATED_ELSEWHERE, *stated}
    shown = {name: value for name, value in identity(section).items() if name not in hidden}
    return [(name, value) for name, value in flat(shown) if len(value) <= LONGEST_VALUE]


def flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Flatten nested maps.

    Args:
        values: Maps, lists and plain values.
        above: Prefix of the names, with its dot.

    Yields:
        Dotted name and text of each leaf.

    Examples:
        >>> list(flat({"a": {"b": 1}, "c": 0.5}))
        [('a.b', '1'), ('c', '0.5')]
    """
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{name}.")
        elif isinstance(value, list | tuple):
            yield f"{above}{name}", ", ".join(map(str, value))
        else:
            yield f"{above}{name}", f"{value:g}" if isinstance(value, float) else str(value)


def origin(weights: WeightsConfig) -> str:
    """Return the source of weights."""
    if weights.shipped:
        return "shipped with the package"
    if weights.hub:
        return f"{weights.hub} at {(weights.revision or '')[:8]}"
    return weights.url or weights.path or ""


def scale_sizes(config: Config) -> str:
    """Return the wanted numbers of images of the planned scales."""
    sizes = []
    for scale in (config.scales[name] for name in config.plan.scales):
        at_most = "at most " if scale.allow_fewer else ""
        sizes.append(f"{at_most}{plural(scale.images, 'image')}" if scale.images else "all images")
    return listed(sizes)

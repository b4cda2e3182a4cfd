"""The plan as a list of facts, each with the keys that differ from their defaults."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from fineclip.config import Config, ScaleConfig, WeightsConfig
from fineclip.evals.benchmarks import benchmark_of
from fineclip.identity import identity
from fineclip.report.formatting import listed, method_name, plural

STATED_ELSEWHERE = {"weights", "tokenizer", "kind", "engine", "layout", "source"}  # stated in words
LONGEST_VALUE = 60  # characters; longer ones are in the configuration at the end of the page


@dataclass(frozen=True)
class Fact:
    """Name, chosen value, and the keys that differ from their defaults."""

    name: str
    value: str
    details: tuple[tuple[str, str], ...] = ()


def facts(config: Config) -> tuple[Fact, ...]:
    """Return the plan from the data to the benchmarks."""
    return (*_data(config), *_training(config), *_benchmarks(config))


def _data(config: Config) -> Iterator[Fact]:
    yield Fact("Data", f"{config.dataset.folder}, from {config.source.kind}", _changed(config.source))
    side = f"shorter side at least {config.filter.min_side_px} px"
    yield Fact("Filter", side, _changed(config.filter, stated={"min_side_px"}))
    detector, captioner = config.detect[config.regions], config.caption[config.captions]
    for title, name, section in (("Regions", config.regions, detector), ("Captions", config.captions, captioner)):
        yield Fact(title, name if name == section.engine else f"{name}, by {section.engine}", _changed(section))


def _training(config: Config) -> Iterator[Fact]:
    plan, train = config.plan, config.train
    for name in config.planned_encoders:
        encoder = config.encoders[name]
        yield Fact("Encoder", f"{name}, {origin(encoder.weights)}", _changed(encoder))
    for method in plan.methods:
        yield Fact("Method", method_name(method), _changed(getattr(config.methods, method)))
    for name in plan.variants:
        variant = config.variants[name]
        changes = flat({**variant.options, **variant.train})
        yield Fact("Variant", method_name(f"{variant.method} {name}"), tuple(changes))
    length = plural(train.max_steps, "step") if train.max_steps else plural(train.epochs, "epoch")
    text = f"{length} in steps of {plural(train.batch_size, 'image')}, learning rate {train.learning_rate:g}"
    named = {"batch_size", "epochs", "max_steps", "learning_rate", "seed"}
    yield Fact("Training", text, _changed(train, stated=named))
    yield Fact("Scales", listed([_size(config.scales[name]) for name in plan.scales]))
    yield Fact("Seeds", listed([str(seed) for seed in plan.seeds]))


def _benchmarks(config: Config) -> Iterator[Fact]:
    for name in config.plan.benchmarks:
        benchmark = config.benchmarks[name]
        text = f"{name}: {benchmark_of(benchmark.kind).title} on {benchmark.source.layout}"
        yield Fact("Benchmark", text, _changed(benchmark))


def origin(weights: WeightsConfig) -> str:
    """Return the source of weights in a few words."""
    if weights.shipped:
        return "shipped with the package"
    if weights.hub:
        return f"{weights.hub} at {(weights.revision or '')[:8]}"
    return weights.url or weights.path or ""


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


def _changed(section: BaseModel, *, stated: Collection[str] = ()) -> tuple[tuple[str, str], ...]:
    """Return the keys that differ from their defaults, except those that the fact already states."""
    hidden = {*STATED_ELSEWHERE, *stated}
    shown = {name: value for name, value in identity(section).items() if name not in hidden}
    return tuple((name, value) for name, value in flat(shown) if len(value) <= LONGEST_VALUE)


def _size(scale: ScaleConfig) -> str:
    if scale.images is None:
        return "all images"
    return f"{'at most ' if scale.allow_fewer else ''}{plural(scale.images, 'image')}"

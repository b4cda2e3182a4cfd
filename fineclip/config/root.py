"""The configuration as a whole: cross-checks between sections, stand-ins, and the runs that follow from the plan."""

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import yaml
from pydantic import model_validator

from fineclip.config.base import OURS, Section, Slug, key, parse
from fineclip.config.data import (
    Blip2Caption,
    CaptionConfig,
    ConceptsConfig,
    DetectConfig,
    FilterConfig,
    SelectConfig,
    SourceConfig,
    YoloDetect,
)
from fineclip.config.evaluation import BenchmarkConfig
from fineclip.config.methods import MethodConfig, MethodsConfig, RegionClipConfig
from fineclip.config.plan import DatasetConfig, PlanConfig, RuntimeConfig, ScaleConfig, StandIns, VariantConfig
from fineclip.config.training import EncoderConfig, LoaderConfig, TrainConfig
from fineclip.errors import ConfigError


class Run(NamedTuple):
    """One training, or an untrained encoder (`method` and `scale` are None then)."""

    id: str
    encoder: str
    method: str | None = None
    scale: str | None = None
    seed: int = 0
    variant: str | None = None

    @property
    def recipe(self) -> str | None:
        """What was trained, whatever the encoder, scale and seed: `fineclip`, or `fineclip distill` for a variant."""
        return f"{self.method} {self.variant}" if self.variant else self.method


class Config(Section):
    """Everything. Catalogues are maps of named entries; the plan chooses by name."""

    dataset: DatasetConfig = key(origin=OURS, about="what the results are called")
    source: SourceConfig = key(origin=OURS, about="where images and texts come from")
    filter: FilterConfig = key(FilterConfig(), origin=OURS, about="what is kept")
    select: SelectConfig = key(SelectConfig(), origin=OURS, about="what a scale leaves out")
    detect: dict[Slug, DetectConfig] = key(origin=OURS, about="catalogue of region finders")
    caption: dict[Slug, CaptionConfig] = key(origin=OURS, about="catalogue of region captioners")
    scales: dict[Slug, ScaleConfig] = key(origin=OURS, about="catalogue of scales")
    encoders: dict[Slug, EncoderConfig] = key(origin=OURS, about="catalogue of encoders")
    concepts: ConceptsConfig = key(ConceptsConfig(), origin=OURS, about="names of what regions show, for regionclip")
    methods: MethodsConfig = key(MethodsConfig(), origin=OURS, about="a section per method")
    loader: LoaderConfig = key(LoaderConfig(), origin=OURS, about="from packed shards to what the encoder takes")
    train: TrainConfig = key(TrainConfig(), origin=OURS, about="the training loop")
    variants: dict[Slug, VariantConfig] = key({}, origin=OURS, about="catalogue of methods with other settings")
    benchmarks: dict[Slug, BenchmarkConfig] = key(origin=OURS, about="catalogue of benchmarks")
    plan: PlanConfig = key(origin=OURS, about="which runs there are")
    stand_ins: StandIns = key(StandIns(), origin=OURS, about="models that take the place of others, for a trial")
    runtime: RuntimeConfig = key(RuntimeConfig(), origin=OURS, about="means, not results")

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        methods = set(MethodsConfig.model_fields)
        places: list[tuple[str, Sequence[str | None], Collection[str]]] = [
            ("plan.scales", self.plan.scales, self.scales),
            ("plan.regions", [self.plan.regions], self.detect),
            ("plan.captions", [self.plan.captions], self.caption),
            ("plan.encoders", self.plan.encoders, self.encoders),
            ("plan.methods", self.plan.methods, methods),
            ("plan.variants", self.plan.variants, self.variants),
            *((f"variants.{name}.method", [each.method], methods) for name, each in self.variants.items()),
            ("plan.benchmarks", self.plan.benchmarks, self.benchmarks),
            ("select.leave_out", self.select.leave_out, self.benchmarks),
            ("stand_ins.detect", [self.stand_ins.detect], self.detect),
            ("stand_ins.caption", [self.stand_ins.caption], self.caption),
            ("stand_ins.encoder", [self.stand_ins.encoder], self.encoders),
        ]
        for place, names, known in places:
            for name in names:
                if name is not None and name not in known:
                    raise ValueError(
                        f"{place} names {name!r}, which is not among {', '.join(sorted(known)) or 'nothing'}"
                    )
        return self

    @model_validator(mode="after")
    def _variants_fit(self) -> Self:
        for name in self.variants:
            self._laid_over(name, "options", getattr(self.methods, self.variants[name].method))
            self._laid_over(name, "train", self.train)
        return self

    @model_validator(mode="after")
    def _steps_are_large_enough(self) -> Self:
        for run in self.runs().values():
            least = self.options(run).least_images if run.method else 1
            if run.method and self.training(run).batch_size < least:
                raise ValueError(
                    f"train.batch_size: {self.training(run).batch_size}, but run {run.id} needs at least {least} images a step,"
                    " those of a set of its mosaics. Raise it, or name fewer or smaller ones in methods.clim.mosaics"
                )
        return self

    @model_validator(mode="after")
    def _labels_are_concepts(self) -> Self:
        for run in self.runs().values() if self.concepts.from_ == "captions" else ():
            options = self.options(run) if run.method else None
            if isinstance(options, RegionClipConfig) and options.targets == "labels":
                raise ValueError(
                    f"concepts.from: captions, but run {run.id} takes the labels of regions for their concepts (targets: labels)."
                    " Set concepts.from: labels, or targets: pseudo."
                )
        return self

    def _laid_over(self, variant: str, part: str, below: Section) -> Any:
        above: Mapping[str, Any] = getattr(self.variants[variant], part)
        values = merge(below.model_dump(mode="json", by_alias=True), above)
        try:
            return parse(type(below), values, where=f"variants.{variant}.{part}")
        except ConfigError as error:
            raise ValueError(str(error)) from None

    def options(self, run: Run) -> MethodConfig:
        """The section of a run's method, with what its variant changes."""
        section: MethodConfig = getattr(self.methods, str(run.method))
        return section if run.variant is None else self._laid_over(run.variant, "options", section)

    def training(self, run: Run) -> TrainConfig:
        """The section of the loop, with what a run's variant changes, and its seed."""
        train = self.train if run.variant is None else self._laid_over(run.variant, "train", self.train)
        return train.model_copy(update={"seed": run.seed})

    @property
    def regions(self) -> str:
        """The planned entry of `detect`, after stand-ins."""
        chosen = self.detect[self.plan.regions]
        return self.stand_ins.detect if self.stand_ins.detect and isinstance(chosen, YoloDetect) else self.plan.regions

    @property
    def captions(self) -> str:
        """The planned entry of `caption`, after stand-ins."""
        chosen = self.caption[self.plan.captions]
        return (
            self.stand_ins.caption
            if self.stand_ins.caption and isinstance(chosen, Blip2Caption)
            else self.plan.captions
        )

    @property
    def planned_encoders(self) -> tuple[str, ...]:
        """The planned entries of `encoders`, after stand-ins."""
        return (self.stand_ins.encoder,) if self.stand_ins.encoder else self.plan.encoders

    def benchmark(self, name: str) -> BenchmarkConfig:
        """An entry of `benchmarks`; a stand-in sees its images at its own size, not at that of the encoder in whose place it is."""
        chosen = self.benchmarks[name]
        return chosen.model_copy(update={"image_size": None}) if self.stand_ins.encoder else chosen

    def runs(self) -> dict[str, Run]:
        """Every planned run by its id, untrained encoders first."""
        return {run.id: run for run in self._runs()}

    def _runs(self) -> Iterator[Run]:
        for encoder in self.planned_encoders:
            yield Run(f"pretrained-{encoder}", encoder)
        plan = self.plan
        recipes = [(method, None) for method in plan.methods] + [
            (self.variants[name].method, name) for name in plan.variants
        ]
        for scale, (method, variant), encoder, seed in itertools.product(
            plan.scales, recipes, self.planned_encoders, plan.seeds
        ):
            name = f"{method}-{encoder}-{scale}" + (f"-{variant}" if variant else "")
            yield Run(f"{name}-s{seed}", encoder, method, scale, seed, variant)


def load(values: Mapping[str, Any], *, where: str = "config.yaml") -> Config:
    """The validated configuration.

    Raises:
        ConfigError: a key is unknown, missing or wrong; each with its place and a hint.
    """
    config: Config = parse(Config, _with_text_keys(values), where=where)
    return config


def read_files(paths: Sequence[Path]) -> dict[str, Any]:
    """Configuration files laid over one another, in order: maps merge, lists and values are replaced.

    Raises:
        ConfigError: a file is absent or no YAML map.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: is no YAML: {error}") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: must hold a map of sections")
        merged = merge(merged, values)
    return merged


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, as Snakemake does it."""
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        merged[name] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _with_text_keys(values: Any) -> Any:
    """YAML reads the scale `500:` as a number; names are text."""
    if isinstance(values, Mapping):
        return {str(name): _with_text_keys(value) for name, value in values.items()}
    return values

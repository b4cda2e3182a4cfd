"""The whole configuration: checks between sections, substitutes, and the runs of the plan."""

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import yaml
from pydantic import model_validator

from fineclip.config.base import Section, Slug, key, parse
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
from fineclip.config.methods import MethodConfig, MethodsConfig, RegionCLIPConfig
from fineclip.config.plan import (
    CheckConfig,
    DatasetConfig,
    PlanConfig,
    RuntimeConfig,
    ScaleConfig,
    Substitutes,
    VariantConfig,
)
from fineclip.config.training import EncoderConfig, LoaderConfig, TrainConfig
from fineclip.errors import ConfigError


class Run(NamedTuple):
    """One training, or a pretrained encoder without training (`method` and `scale` are None)."""

    id: str
    encoder: str
    method: str | None = None
    scale: str | None = None
    seed: int = 0
    variant: str | None = None

    @property
    def recipe(self) -> str | None:
        """Return method and variant, without encoder, scale and seed: `fineclip` or `fineclip distill`."""
        return f"{self.method} {self.variant}" if self.variant else self.method


class Config(Section):
    """The whole configuration. Maps hold named entries; `plan` selects entries by name.

    Attributes:
        dataset: Name of the outputs.
        source: Source of images and captions. One of these kinds:
        check: Audit before the first expensive stage.
        filter: Rules that drop samples.
        select: Images that no scale contains.
        detect: Detectors and other sources of regions.
        caption: Captioners of regions.
        scales: Subsets of the training images.
        encoders: Pretrained encoders.
        concepts: Concept names, for RegionCLIP.
        methods: One section per method.
        loader: Decoding and preprocessing.
        train: The training loop.
        variants: Methods with changed settings.
        benchmarks: Benchmarks.
        plan: The runs.
        substitutes: Small models that replace others, to test a configuration.
        runtime: Resources of the jobs; they do not change a result.
    """

    dataset: DatasetConfig
    source: SourceConfig
    check: CheckConfig = CheckConfig()
    filter: FilterConfig = FilterConfig()
    select: SelectConfig = SelectConfig()
    detect: dict[Slug, DetectConfig]
    caption: dict[Slug, CaptionConfig]
    scales: dict[Slug, ScaleConfig]
    encoders: dict[Slug, EncoderConfig]
    concepts: ConceptsConfig = ConceptsConfig()
    methods: MethodsConfig = MethodsConfig()
    loader: LoaderConfig = LoaderConfig()
    train: TrainConfig = TrainConfig()
    variants: dict[Slug, VariantConfig] = key({})
    benchmarks: dict[Slug, BenchmarkConfig]
    plan: PlanConfig
    substitutes: Substitutes = Substitutes()
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _check_names(self) -> Self:
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
            ("select.exclude", self.select.exclude, self.benchmarks),
            ("substitutes.detect", [self.substitutes.detect], self.detect),
            ("substitutes.caption", [self.substitutes.caption], self.caption),
            ("substitutes.encoder", [self.substitutes.encoder], self.encoders),
        ]
        for place, names, known in places:
            for name in names:
                if name is not None and name not in known:
                    raise ValueError(f"{place} names {name!r}, expected one of: {', '.join(sorted(known)) or '(none)'}")
        return self

    @model_validator(mode="after")
    def _check_variants(self) -> Self:
        for name in self.variants:
            self._with_overrides(name, "options", getattr(self.methods, self.variants[name].method))
            self._with_overrides(name, "train", self.train)
        return self

    @model_validator(mode="after")
    def _check_runs(self) -> Self:
        for run in self.runs().values():
            if run.method is None:
                continue
            options, least = self.options(run), self.options(run).min_batch_size
            images = self.scales[str(run.scale)].images
            for place, given in (
                ("train.batch_size", self.training(run).batch_size),
                (f"scales.{run.scale}.images", images),
            ):
                if given is not None and given < least:
                    raise ValueError(
                        f"{place}: {given}, but run {run.id} needs at least {least} images per step:"
                        f" {options.min_batch_reason}. Raise it"
                    )
            uses_labels = isinstance(options, RegionCLIPConfig) and options.targets == "labels"
            if uses_labels and self.concepts.from_ == "captions":
                raise ValueError(
                    f"concepts.from: captions, but the concepts of run {run.id} are region labels (targets: labels)."
                    " Set concepts.from: labels, or targets: pseudo."
                )
        return self

    def _with_overrides(self, variant: str, part: str, below: Section) -> Any:
        above: Mapping[str, Any] = getattr(self.variants[variant], part)
        values = merge(below.model_dump(mode="json", by_alias=True), above)
        try:
            return parse(type(below), values, where=f"variants.{variant}.{part}")
        except ConfigError as error:
            raise ValueError(str(error)) from None

    def options(self, run: Run) -> MethodConfig:
        """Return the section of the run's method, with the options of its variant."""
        section: MethodConfig = getattr(self.methods, str(run.method))
        return section if run.variant is None else self._with_overrides(run.variant, "options", section)

    def training(self, run: Run) -> TrainConfig:
        """Return the section `train`, with the train options of the run's variant and the seed of the run."""
        train = self.train if run.variant is None else self._with_overrides(run.variant, "train", self.train)
        return train.model_copy(update={"seed": run.seed})

    @property
    def regions(self) -> str:
        """Return the name of the planned entry of `detect`, after substitution."""
        substitute = self.substitutes.detect if isinstance(self.detect[self.plan.regions], YoloDetect) else None
        return substitute or self.plan.regions

    @property
    def captions(self) -> str:
        """Return the name of the planned entry of `caption`, after substitution."""
        substitute = self.substitutes.caption if isinstance(self.caption[self.plan.captions], Blip2Caption) else None
        return substitute or self.plan.captions

    @property
    def planned_encoders(self) -> tuple[str, ...]:
        """Return the names of the planned entries of `encoders`, after substitution."""
        return (self.substitutes.encoder,) if self.substitutes.encoder else self.plan.encoders

    def benchmark(self, name: str) -> BenchmarkConfig:
        """Return an entry of `benchmarks`. A substitute encoder gets images of its own size."""
        chosen = self.benchmarks[name]
        return chosen.model_copy(update={"image_size": None}) if self.substitutes.encoder else chosen

    def runs(self) -> dict[str, Run]:
        """Return all planned runs by id, pretrained encoders first."""
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
    """Validate merged configuration values.

    Args:
        values: Content of the files after `read_files`, not validated.
        where: Name of the files, for messages.

    Returns:
        The configuration.

    Raises:
        ConfigError: A key is unknown, missing or invalid; one line for each.
    """
    config: Config = parse(Config, _with_string_keys(values), where=where)
    return config


def read_files(paths: Sequence[Path]) -> dict[str, Any]:
    """Read YAML files and merge them from left to right: maps are merged, lists and values are replaced.

    Args:
        paths: YAML files; later ones override earlier ones.

    Returns:
        The merged values, not validated.

    Raises:
        ConfigError: A file is missing or is not a YAML map.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        try:
            values = yaml.safe_load(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: is not valid YAML: {error}") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: must contain a map of sections")
        merged = merge(merged, values)
    return merged


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` updated with `above`, as Snakemake merges configuration files."""
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        merged[name] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _with_string_keys(values: Any) -> Any:
    """Return the values with all keys as text: YAML reads the scale `500:` as a number."""
    if isinstance(values, Mapping):
        return {str(name): _with_string_keys(value) for name, value in values.items()}
    return values

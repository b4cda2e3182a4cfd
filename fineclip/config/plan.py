"""Sections that say what is wanted (`plan`, `scales`, `stand_ins`) and with what means (`runtime`).

`plan` and `runtime` are never part of an identity: no result changes when they do.
"""

from typing import Any, Literal, Self

from pydantic import model_validator

from fineclip.config.base import (
    OURS,
    DatasetName,
    NotNegativeFloat,
    NotNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    Share,
    Slug,
    key,
)


class DatasetConfig(Section):
    """The name that results go by. It is not that of a folder that holds inputs."""

    name: DatasetName = key(origin=OURS, about="folder under data/ and results/")
    suffix: Slug | None = key(
        None, origin=OURS, about="added as NAME-SUFFIX by overlays that must not touch what lies under NAME"
    )

    @property
    def folder(self) -> str:
        """The name with its suffix."""
        return f"{self.name}-{self.suffix}" if self.suffix else self.name


class ScaleConfig(Section):
    """How many images a training sees. Smaller scales are prefixes of larger ones."""

    images: PositiveInt | None = key(
        None, unit="images", origin=OURS, about="so many kept samples; null takes all there are"
    )
    at_most: bool = key(False, origin=OURS, about="take fewer where there are not so many, rather than stop")
    share_kept: Share | None = key(
        None, origin=OURS, about="expected share that survives filter and select; null takes plan.share_kept"
    )
    margin: NotNegativeFloat | None = key(None, origin=OURS, about="spare shards, as a share; null takes plan.margin")


class VariantConfig(Section):
    """A method with other settings than its section's, as a run of its own beside it."""

    method: Slug = key(origin=OURS, about="name of a section of `methods`")
    options: dict[str, Any] = key({}, origin=OURS, about="keys of that section, laid over it")
    train: dict[str, Any] = key({}, origin=OURS, about="keys of `train`, laid over it")


class PlanConfig(Section):
    """Which runs there are: every method and variant with every encoder, scale and seed, and every encoder untrained."""

    scales: tuple[Slug, ...] = key(origin=OURS, about="names of the catalogue `scales`")
    regions: Slug = key(origin=OURS, about="name of the catalogue `detect`")
    captions: Slug = key(origin=OURS, about="name of the catalogue `caption`")
    encoders: tuple[Slug, ...] = key(origin=OURS, about="names of the catalogue `encoders`")
    methods: tuple[Slug, ...] = key(("clip", "fineclip"), origin=OURS, about="names of sections of `methods`")
    variants: tuple[Slug, ...] = key((), origin=OURS, about="names of the catalogue `variants`")
    seeds: tuple[NotNegativeInt, ...] = key((0,), origin=OURS, about="a run each")
    benchmarks: tuple[Slug, ...] = key(origin=OURS, about="names of the catalogue `benchmarks`")
    share_kept: float = key(
        0.8,
        origin="cc3m-wds: 86 % make 2.5M",
        about="expected share of samples that survives filter and select",
        gt=0,
        le=1,
    )
    margin: NotNegativeFloat = key(
        0.05, origin=OURS, about="spare shards, as a share, so that a scale is reached all the same"
    )

    @model_validator(mode="after")
    def _something_once(self) -> Self:
        for name in ("scales", "encoders", "methods", "variants", "seeds", "benchmarks"):
            chosen = getattr(self, name)
            if len(set(chosen)) < len(chosen):
                raise ValueError(f"{name} names something twice: {', '.join(map(str, chosen))}")
        return self


class StandIns(Section):
    """Entries that take the place of every model that needs weights from elsewhere, for a trial on a laptop."""

    detect: Slug | None = key(None, origin=OURS, about="entry of `detect` in place of every engine yolo")
    caption: Slug | None = key(None, origin=OURS, about="entry of `caption` in place of every engine blip2")
    encoder: Slug | None = key(None, origin=OURS, about="entry of `encoders` in place of every encoder")


class RuntimeConfig(Section):
    """Means, not results: change them at any time, nothing runs again."""

    device: Literal["auto", "cpu", "cuda", "mps"] = key(
        "auto", origin=OURS, about="auto takes a GPU where there is one"
    )
    detect_batch: PositiveInt = key(16, unit="images", origin=OURS, about="images the detector sees at once")
    caption_batch: PositiveInt = key(128, unit="crops", origin=OURS, about="crops the captioner sees at once")
    evaluate_batch: PositiveInt = key(
        64, unit="images", origin=OURS, about="images or texts the encoder sees at once in evaluation"
    )
    loader_workers: NotNegativeInt = key(
        0,
        unit="processes",
        origin=OURS,
        about="processes that read and decode for a training; 0 does it in the training's own",
    )
    devices: tuple[NotNegativeInt, ...] | Literal["auto"] = key(
        "auto",
        origin=OURS,
        about="GPUs of a workstation that jobs take and give back, none shared; auto: all there are. A scheduler that hands them out itself goes before",
    )
    memory_gb: PositiveFloat | Literal["auto"] | None = key(
        "auto",
        unit="10^9 bytes",
        origin=OURS,
        about="of each process of a training: chooses crop_chunk and image_chunk. auto: nine tenths of the GPU's, no limit on a CPU; null: no limit",
    )
    crop_chunk: PositiveInt | None = key(
        None, unit="crops", origin=OURS, about="crops encoded at a time, at the same loss; null leaves it to memory_gb"
    )
    image_chunk: PositiveInt | None = key(
        None,
        unit="images",
        origin=OURS,
        about="images encoded at a time, at the same loss; null leaves it to memory_gb",
    )
    checkpointing: bool = key(
        False,
        origin=OURS,
        about="keep a block's input alone and compute the rest again: less memory, a third more time",
    )
    compile: bool = key(
        False, origin=OURS, about="torch.compile of the encoder's blocks; crops come in chunks of one size"
    )
    stop_after_min: PositiveFloat | None = key(
        None,
        unit="minutes",
        origin=OURS,
        about="a training that runs so long saves and ends, for the next attempt to go on; null leaves it to the scheduler's SIGTERM",
    )
    keep_checkpoints: PositiveInt = key(2, origin=OURS, about="last checkpoints that a training keeps while it runs")
    tensorboard: bool = key(True, origin=OURS, about="write what metrics.jsonl and speed.jsonl say for TensorBoard too")

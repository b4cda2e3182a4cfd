"""Sections of the experiment (`plan`, `scales`, `variants`, `substitutes`) and of its resources (`runtime`).

`plan` and `runtime` are never part of a cache key: they do not change a result.
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
    """Name of the outputs. It must not be the folder of the inputs."""

    name: DatasetName = key(origin=OURS, about="Name of the output folders, data/NAME and results/NAME.")
    suffix: Slug | None = key(
        None,
        origin=OURS,
        about="Suffix of the output folders, NAME-SUFFIX, for overlays that must not change the outputs of NAME.",
    )

    @property
    def folder(self) -> str:
        """Return the name of the output folder: name and suffix."""
        return f"{self.name}-{self.suffix}" if self.suffix else self.name


class ScaleConfig(Section):
    """A subset of the training images. Smaller scales are prefixes of larger ones."""

    images: PositiveInt | None = key(
        None, unit="images", origin=OURS, about="Number of samples that pass the filter; null: all."
    )
    allow_fewer: bool = key(
        False, origin=OURS, about="Take fewer samples if the source has not enough; false: stop with an error."
    )
    expected_keep_rate: Share | None = key(
        None,
        origin=OURS,
        about="Expected fraction of samples that pass filter and select; null: `plan.expected_keep_rate`.",
    )
    shard_margin: NotNegativeFloat | None = key(
        None, origin=OURS, about="Fraction of additional shards; null: `plan.shard_margin`."
    )


class VariantConfig(Section):
    """A method with changed settings, trained as a separate run."""

    method: Slug = key(origin=OURS, about="Name of a section of `methods`.")
    options: dict[str, Any] = key({}, origin=OURS, about="Keys of that section that replace its values.")
    train: dict[str, Any] = key({}, origin=OURS, about="Keys of `train` that replace its values.")


class PlanConfig(Section):
    """The runs: each method and variant with each encoder, scale and seed, and each pretrained encoder without training."""

    scales: tuple[Slug, ...] = key(origin=OURS, about="Names of entries of `scales`.")
    regions: Slug = key(origin=OURS, about="Name of an entry of `detect`.")
    captions: Slug = key(origin=OURS, about="Name of an entry of `caption`.")
    encoders: tuple[Slug, ...] = key(origin=OURS, about="Names of entries of `encoders`.")
    methods: tuple[Slug, ...] = key(("clip", "fineclip"), origin=OURS, about="Names of sections of `methods`.")
    variants: tuple[Slug, ...] = key((), origin=OURS, about="Names of entries of `variants`.")
    seeds: tuple[NotNegativeInt, ...] = key((0,), origin=OURS, about="Seeds; one run for each.")
    benchmarks: tuple[Slug, ...] = key(origin=OURS, about="Names of entries of `benchmarks`.")
    expected_keep_rate: float = key(
        0.8,
        origin=OURS,
        about="Expected fraction of samples that pass filter and select; decides how many shards are planned.",
        gt=0,
        le=1,
    )
    shard_margin: NotNegativeFloat = key(
        0.05, origin=OURS, about="Fraction of additional shards, in case fewer samples pass than expected."
    )

    @model_validator(mode="after")
    def _check_unique(self) -> Self:
        for name in ("scales", "encoders", "methods", "variants", "seeds", "benchmarks"):
            chosen = getattr(self, name)
            if len(set(chosen)) < len(chosen):
                raise ValueError(f"{name} has duplicates: {', '.join(map(str, chosen))}")
        return self


class Substitutes(Section):
    """Small models that replace all models with downloaded weights, to test a configuration."""

    detect: Slug | None = key(
        None, origin=OURS, about="Entry of `detect` that replaces each entry with `engine: yolo`."
    )
    caption: Slug | None = key(
        None, origin=OURS, about="Entry of `caption` that replaces each entry with `engine: blip2`."
    )
    encoder: Slug | None = key(None, origin=OURS, about="Entry of `encoders` that replaces each encoder.")


class RuntimeConfig(Section):
    """Resources of the jobs. They can be changed at any time: no job runs again."""

    device: Literal["auto", "cpu", "cuda", "mps"] = key(
        "auto", origin=OURS, about="Device; `auto`: a GPU if there is one."
    )
    detect_batch_size: PositiveInt = key(16, unit="images", origin=OURS, about="Batch size of the detector.")
    caption_batch_size: PositiveInt = key(128, unit="crops", origin=OURS, about="Batch size of the captioner.")
    evaluate_batch_size: PositiveInt = key(
        64, unit="images", origin=OURS, about="Batch size of the encoder in evaluation, images or texts."
    )
    num_workers: NotNegativeInt = key(
        0,
        unit="processes",
        origin=OURS,
        about="DataLoader workers of each training process; 0: load in the training process.",
    )
    devices: tuple[NotNegativeInt, ...] | Literal["auto"] = key(
        "auto",
        origin=OURS,
        about="Indices of the GPUs that jobs of this machine may lock, each for one job at a time; `auto`: all. Ignored if a scheduler assigns GPUs.",
    )
    memory_gb: PositiveFloat | Literal["auto"] | None = key(
        "auto",
        unit="GB, 10^9 bytes",
        origin=OURS,
        about="Memory limit of a training process, from which the micro-batch sizes follow. `auto`: 90 % of the GPU memory, no limit on a CPU; null: no limit.",
    )
    crop_micro_batch_size: PositiveInt | None = key(
        None,
        unit="crops",
        origin=OURS,
        about="Micro-batch size of crops; loss and gradients do not depend on it. null: chosen from `memory_gb`.",
    )
    image_micro_batch_size: PositiveInt | None = key(
        None,
        unit="images",
        origin=OURS,
        about="Micro-batch size of images; loss and gradients do not depend on it. null: chosen from `memory_gb`.",
    )
    activation_checkpointing: bool = key(
        False,
        origin=OURS,
        about="Recompute the activations inside a block in the backward pass: less memory, about 1/3 more time.",
    )
    compile: bool = key(
        False, origin=OURS, about="`torch.compile` the blocks of the encoder; crops are padded to one micro-batch size."
    )
    time_limit_min: PositiveFloat | None = key(
        None,
        unit="minutes",
        origin=OURS,
        about="Time after which a training saves a checkpoint and exits, to be resumed by a retry. null: only at SIGTERM.",
    )
    keep_checkpoints: PositiveInt = key(2, origin=OURS, about="Number of latest checkpoints to keep during training.")
    tensorboard: bool = key(True, origin=OURS, about="Also write metrics.jsonl and speed.jsonl as TensorBoard events.")

"""Sections of the experiment (`plan`, `scales`, `variants`, `substitutes`) and of its resources (`runtime`).

`plan` and `runtime` are never part of a cache key: they do not change a result.
"""

from typing import Any, Literal, Self

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator

from fineclip.config.base import DatasetName, PositiveInt, Section, Share, Slug, key


class DatasetConfig(Section):
    """Name of the outputs. It must not be the folder of the inputs.

    Attributes:
        name: Name of the output folders, data/NAME and results/NAME.
        suffix: Suffix of the output folders, NAME-SUFFIX, for overlays that must not change the outputs of NAME.
    """

    name: DatasetName
    suffix: Slug | None = None

    @property
    def folder(self) -> str:
        """Return the name of the output folder: name and suffix."""
        return f"{self.name}-{self.suffix}" if self.suffix else self.name


class ScaleConfig(Section):
    """A subset of the training images. Smaller scales are prefixes of larger ones.

    Attributes:
        images: Number of samples that pass the filter; null: all.
        allow_fewer: Take fewer samples if the source has not enough; false: stop with an error.
        expected_keep_rate: Expected fraction of samples that pass filter and select; null: `plan.expected_keep_rate`.
        shard_margin: Fraction of additional shards; null: `plan.shard_margin`.
    """

    images: PositiveInt | None = key(None, unit="images")
    allow_fewer: bool = False
    expected_keep_rate: Share | None = None
    shard_margin: NonNegativeFloat | None = None


class VariantConfig(Section):
    """A method with changed settings, trained as a separate run.

    Attributes:
        method: Name of a section of `methods`.
        options: Keys of that section that replace its values.
        train: Keys of `train` that replace its values.
    """

    method: Slug
    options: dict[str, Any] = key({})
    train: dict[str, Any] = key({})


class PlanConfig(Section):
    """The runs: each method and variant with each encoder, scale and seed, and each pretrained encoder without training.

    Attributes:
        scales: Names of entries of `scales`.
        regions: Name of an entry of `detect`.
        captions: Name of an entry of `caption`.
        encoders: Names of entries of `encoders`.
        methods: Names of sections of `methods`.
        variants: Names of entries of `variants`.
        seeds: Seeds; one run for each.
        benchmarks: Names of entries of `benchmarks`.
        expected_keep_rate: Expected fraction of samples that pass filter and select; decides how many shards are
            planned.
        shard_margin: Fraction of additional shards, in case fewer samples pass than expected.
    """

    scales: tuple[Slug, ...]
    regions: Slug
    captions: Slug
    encoders: tuple[Slug, ...]
    methods: tuple[Slug, ...] = ("clip", "fineclip")
    variants: tuple[Slug, ...] = ()
    seeds: tuple[NonNegativeInt, ...] = (0,)
    benchmarks: tuple[Slug, ...]
    expected_keep_rate: float = key(0.8, gt=0, le=1)
    shard_margin: NonNegativeFloat = 0.05

    @model_validator(mode="after")
    def _check_unique(self) -> Self:
        for name in ("scales", "encoders", "methods", "variants", "seeds", "benchmarks"):
            chosen = getattr(self, name)
            if len(set(chosen)) < len(chosen):
                raise ValueError(f"{name} has duplicates: {', '.join(map(str, chosen))}")
        return self


class Substitutes(Section):
    """Small models that replace all models with downloaded weights, to test a configuration.

    Attributes:
        detect: Entry of `detect` that replaces each entry with `engine: yolo`.
        caption: Entry of `caption` that replaces each entry with `engine: blip2`.
        encoder: Entry of `encoders` that replaces each encoder.
    """

    detect: Slug | None = None
    caption: Slug | None = None
    encoder: Slug | None = None


class CheckConfig(Section):
    """The audit of images, captions, boxes and benchmarks before the first expensive stage.

    Attributes:
        images: Samples of the source to read, drawn uniformly; null: all.
    """

    images: PositiveInt | None = key(100_000, unit="images")


# Keys of `runtime` that lower the memory of a verb, for the message if it is exhausted.
MEMORY_KEYS: dict[str, tuple[str, ...]] = {
    "train": ("runtime.crop_micro_batch_size", "runtime.image_micro_batch_size"),
    "detect": ("runtime.detect_batch_size", "--batch-size"),
    "caption": ("runtime.caption_batch_size", "--batch-size"),
    "texts": ("runtime.evaluate_batch_size", "--batch-size"),
    "evaluate": ("runtime.evaluate_batch_size", "--batch-size"),
}


class RuntimeConfig(Section):
    """Resources of the jobs. They can be changed at any time: no job runs again.

    Attributes:
        device: Device; `auto`: a GPU if there is one.
        detect_batch_size: Batch size of the detector.
        caption_batch_size: Batch size of the captioner.
        evaluate_batch_size: Batch size of the encoder in evaluation, images or texts.
        num_workers: DataLoader workers of each training process; 0: load in the training process.
        devices: Indices of the GPUs that jobs of this machine may lock, each for one job at a time; `auto`: all.
            Ignored if a scheduler assigns GPUs.
        memory_gb: Memory limit of a training process, from which the micro-batch sizes follow. `auto`: 90 % of the GPU
            memory, no limit on a CPU; null: no limit.
        crop_micro_batch_size: Micro-batch size of crops; loss and gradients do not depend on it. null: chosen from
            `memory_gb`.
        image_micro_batch_size: Micro-batch size of images; loss and gradients do not depend on it. null: chosen from
            `memory_gb`.
        activation_checkpointing: Recompute the activations inside a block in the backward pass: less memory, about 1/3
            more time.
        compile: `torch.compile` the blocks of the encoder; crops are padded to one micro-batch size.
        time_limit_min: Time after which a training saves a checkpoint and exits, to be resumed by a retry. null: only
            at SIGTERM.
        keep_checkpoints: Number of latest checkpoints to keep during training.
        tensorboard: Also write metrics.jsonl and speed.jsonl as TensorBoard events.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    detect_batch_size: PositiveInt = key(16, unit="images")
    caption_batch_size: PositiveInt = key(128, unit="crops")
    evaluate_batch_size: PositiveInt = key(64, unit="images")
    num_workers: NonNegativeInt = key(0, unit="processes")
    devices: tuple[NonNegativeInt, ...] | Literal["auto"] = "auto"
    memory_gb: PositiveFloat | Literal["auto"] | None = key("auto", unit="GB, 10^9 bytes")
    crop_micro_batch_size: PositiveInt | None = key(None, unit="crops")
    image_micro_batch_size: PositiveInt | None = key(None, unit="images")
    activation_checkpointing: bool = False
    compile: bool = False
    time_limit_min: PositiveFloat | None = key(None, unit="minutes")
    keep_checkpoints: PositiveInt = 2
    tensorboard: bool = True

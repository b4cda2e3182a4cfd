"""Sections of encoders, data loader and training loop."""

from typing import Literal, Self

from pydantic import model_validator

from fineclip.config.base import OURS, NotNegativeFloat, NotNegativeInt, PositiveFloat, PositiveInt, Section, Share, key
from fineclip.config.data import WeightsConfig

FINECLIP = "FineCLIP scripts"


class EncoderConfig(Section):
    """A pretrained CLIP model, the start of training."""

    model: str = key(
        origin="open_clip",
        about="Name of an open_clip model, or path of a model config in the JSON format of open_clip.",
    )
    weights: WeightsConfig = key(origin=OURS, about="Pretrained weights.")
    tokenizer: WeightsConfig | None = key(
        None, origin=OURS, about="BPE vocabulary in the format of CLIP; null: the tokenizer of the model."
    )
    head: Literal["cls", "mean"] = key(
        "cls", origin="CLIP", about="Global embedding: `cls` from the class token, `mean` over all patch tokens."
    )
    image_size: PositiveInt = key(224, unit="px", origin=FINECLIP, about="Side of the square input image.")
    crop_size: PositiveInt = key(224, unit="px", origin=FINECLIP, about="Side of the square input crop of a region.")


class LoaderConfig(Section):
    """Decoding and preprocessing options that change pixels or embeddings, if only by rounding."""

    image_backend: Literal["turbojpeg", "pillow"] = key(
        "turbojpeg",
        origin=OURS,
        about="`turbojpeg`: decode with libjpeg-turbo and resize 8-bit pixels, PSNR to Pillow at least 54 dB (bicubic: 50 dB). `pillow`: pixels of the authors' code, bit for bit.",
    )
    crops: Literal["worker", "device"] = key(
        "worker",
        origin=OURS,
        about="Where images and crops are resized: in the loader workers, or on the device in floating point.",
    )
    cached_texts: bool = key(
        False,
        origin=OURS,
        about="Embed all captions once before training, for methods with a frozen text tower. The result is equal up to rounding.",
    )

    @model_validator(mode="after")
    def _check_backend(self) -> Self:
        if self.crops == "device" and self.image_backend == "pillow":
            raise ValueError(
                "crops: device, but image_backend: pillow runs on the CPU only. Set image_backend: turbojpeg"
            )
        return self


class TrainConfig(Section):
    """The training loop, the same for all methods."""

    seed: NotNegativeInt = key(
        0, origin=OURS, about="Seed of sample order and random draws. Each run takes its own from `plan.seeds`."
    )
    batch_size: PositiveInt = key(
        256,
        unit="images",
        origin="FineCLIP scripts: 8 x 32",
        about="Global batch size: images per step over all processes.",
    )
    epochs: PositiveInt = key(10, origin=FINECLIP, about="Passes over the data.")
    max_steps: PositiveInt | None = key(
        None,
        unit="steps",
        origin=OURS,
        about="Total number of steps, if smaller than that of `epochs`; also the end of the learning rate schedule. null: no limit.",
    )
    learning_rate: PositiveFloat = key(1e-5, origin=FINECLIP, about="Peak learning rate of AdamW.")
    warmup_steps: NotNegativeInt = key(
        1000,
        unit="steps",
        origin=FINECLIP,
        about="Steps of the linear warm-up from 0 to the peak; a cosine decay to 0 follows.",
    )
    weight_decay: NotNegativeFloat = key(
        0.1, origin=FINECLIP, about="Weight decay of matrices. Vectors, norms, biases and the logit scale have none."
    )
    betas: tuple[Share, Share] = key((0.9, 0.999), origin="FineCLIP scripts, EVA", about="Betas of AdamW.")
    eps: PositiveFloat = key(1e-8, origin="FineCLIP scripts, EVA", about="Epsilon of AdamW.")
    max_grad_norm: PositiveFloat | None = key(
        None, origin=FINECLIP, about="Maximum norm of all gradients together; null: no clipping."
    )
    precision: Literal["fp32", "bf16", "fp16"] = key(
        "fp32",
        origin=OURS,
        about="Data type of the encoder's computation (autocast). Weights and losses are fp32; fp16 uses loss scaling.",
    )
    divergence_factor: PositiveFloat | None = key(
        2.0,
        origin=OURS,
        about="Stop as diverged if the mean of recent losses exceeds the first loss by this factor; null: never.",
        gt=1,
    )
    max_regions: PositiveInt = key(
        20,
        unit="boxes",
        origin="FineCLIP scripts: 20 (B/16)",
        about="Maximum regions per image, sampled anew in each epoch.",
    )
    require_region: bool = key(
        False, origin=OURS, about="Use only images with at least one region, as in the FineCLIP paper."
    )
    max_missing_fraction: Share = key(
        0.01, origin=OURS, about="Maximum fraction of the selected samples that may be missing in the packed shards."
    )
    shuffle_shards: PositiveInt = key(
        4, unit="shards", origin=OURS, about="Samples are shuffled within windows of this many shards."
    )
    checkpoint_every_steps: PositiveInt = key(500, unit="steps", origin=OURS, about="Interval of checkpoints.")
    log_every_steps: PositiveInt = key(10, unit="steps", origin=OURS, about="Interval of log lines in metrics.jsonl.")
    deterministic: bool = key(
        False, origin=OURS, about="Use deterministic kernels on a GPU. Training on a CPU is always deterministic."
    )

    @model_validator(mode="after")
    def _check_warmup(self) -> Self:
        if self.max_steps is not None and self.warmup_steps >= self.max_steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be less than max_steps ({self.max_steps})")
        return self

"""Sections of encoders, of the loader and of the training loop."""

from typing import Literal, Self

from pydantic import model_validator

from fineclip.config.base import OURS, NotNegativeFloat, NotNegativeInt, PositiveFloat, PositiveInt, Section, Share, key
from fineclip.config.data import WeightsConfig

FINECLIP = "FineCLIP scripts"


class EncoderConfig(Section):
    """A CLIP that training starts from."""

    model: str = key(
        origin="open_clip", about="name of an open_clip model, or path of a model config in its JSON format"
    )
    weights: WeightsConfig = key(origin=OURS, about="what training starts from")
    tokenizer: WeightsConfig | None = key(
        None, origin=OURS, about="BPE file in CLIP's format; null takes the model's own"
    )
    head: Literal["cls", "mean"] = key(
        "cls", origin="CLIP", about="global embedding from the class token, or the mean of all patches"
    )
    image_size: PositiveInt = key(
        224, unit="px", origin=FINECLIP, about="side of the square that images are resized to, aspect not kept"
    )
    crop_size: PositiveInt = key(224, unit="px", origin=FINECLIP, about="side of the square that crops are resized to")


class LoaderConfig(Section):
    """From packed shards to what the encoder takes: what changes pixels or embeddings, if only by rounding."""

    resample: Literal["fast", "pillow"] = key(
        "fast",
        origin="pillow: authors' code",
        about="fast decodes by libjpeg-turbo and resizes 8-bit pixels, at worst 54 dB (bicubic 50) from Pillow's; pillow is the authors', to the bit",
    )
    crops: Literal["worker", "device"] = key(
        "worker",
        origin=OURS,
        about="where images and crops are resized: by the loader's workers, or from decoded images on the device, in float",
    )
    cached_texts: bool = key(
        False,
        origin=OURS,
        about="embed every caption once beforehand, for methods whose text tower is frozen; equal up to rounding",
    )

    @model_validator(mode="after")
    def _device_has_no_pillow(self) -> Self:
        if self.crops == "device" and self.resample == "pillow":
            raise ValueError("crops: device, but resample: pillow, which runs on the host only. Take resample: fast")
        return self


class TrainConfig(Section):
    """The training loop, the same for every method."""

    seed: NotNegativeInt = key(0, origin=OURS, about="of order and draws; `plan.seeds` sets it for each run")
    batch_size: PositiveInt = key(
        256, unit="images", origin="FineCLIP scripts: 8 x 32", about="images of a step over all processes"
    )
    epochs: PositiveInt = key(10, origin=FINECLIP, about="visits to every image")
    max_steps: PositiveInt | None = key(
        None, unit="steps", origin=OURS, about="stop early; the schedule ends there too"
    )
    learning_rate: PositiveFloat = key(1e-5, origin=FINECLIP, about="peak")
    warmup_steps: NotNegativeInt = key(
        1000, unit="steps", origin=FINECLIP, about="linear from 0 to the peak; then cosine to 0"
    )
    weight_decay: NotNegativeFloat = key(
        0.1, origin=FINECLIP, about="of matrices; vectors, norms, biases and the logit scale have none"
    )
    betas: tuple[Share, Share] = key((0.9, 0.999), origin="FineCLIP scripts, EVA", about="of AdamW")
    eps: PositiveFloat = key(1e-8, origin="FineCLIP scripts, EVA", about="of AdamW")
    clip_gradient_norm: PositiveFloat | None = key(
        None, origin="FineCLIP scripts: none", about="largest norm of all gradients together; null does not clip"
    )
    precision: Literal["fp32", "bf16", "fp16"] = key(
        "fp32", origin=OURS, about="of the encoder's arithmetic; losses and weights stay fp32; fp16 scales the loss"
    )
    max_growth: PositiveFloat | None = key(
        2.0,
        origin=OURS,
        about="stop where the mean of the last losses looked at is so many times the first; null never stops",
        gt=1,
    )
    max_regions: PositiveInt = key(
        20, unit="boxes", origin="FineCLIP scripts: 20 (B/16)", about="regions drawn of an image at each visit"
    )
    require_region: bool = key(
        False, origin=OURS, about="leave out images in which nothing was detected; the paper does"
    )
    max_lost: Share = key(0.01, origin=OURS, about="share of selected samples that may be lost between select and pack")
    shuffle_shards: PositiveInt = key(
        4, unit="shards", origin=OURS, about="samples are shuffled inside windows of so many shards"
    )
    checkpoint_every_steps: PositiveInt = key(500, unit="steps", origin=OURS, about="between checkpoints")
    log_every_steps: PositiveInt = key(10, unit="steps", origin=OURS, about="between lines of metrics.jsonl")
    deterministic: bool = key(False, origin=OURS, about="deterministic kernels on a GPU; a CPU always is")

    @model_validator(mode="after")
    def _warm_before_end(self) -> Self:
        if self.max_steps is not None and self.warmup_steps >= self.max_steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be less than max_steps ({self.max_steps})")
        return self

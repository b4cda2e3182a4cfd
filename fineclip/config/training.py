"""Sections of encoders, data loader and training loop."""

from typing import Literal, Self

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator

from fineclip.config.base import PositiveInt, Section, Share, key
from fineclip.config.data import WeightsConfig

FINECLIP = "FineCLIP scripts"


class EncoderConfig(Section):
    """A pretrained CLIP model, the start of training.

    Attributes:
        model: Name of an open_clip model, or path of a model config in the JSON format of open_clip.
        weights: Pretrained weights.
        tokenizer: BPE vocabulary in the format of CLIP; null: the tokenizer of the model.
        head: Global embedding: `cls` from the class token, `mean` over all patch tokens.
        image_size: Side of the square input image.
        crop_size: Side of the square input crop of a region.
    """

    model: str
    weights: WeightsConfig
    tokenizer: WeightsConfig | None = None
    head: Literal["cls", "mean"] = key("cls", origin="CLIP")
    image_size: PositiveInt = key(224, unit="px", origin=FINECLIP)
    crop_size: PositiveInt = key(224, unit="px", origin=FINECLIP)


class LoaderConfig(Section):
    """Decoding and preprocessing options that change pixels or embeddings, if only by rounding.

    Attributes:
        image_backend: `turbojpeg`: decode with libjpeg-turbo and resize 8-bit pixels, PSNR to Pillow at least 54 dB
            (bicubic: 50 dB). `pillow`: pixels of the authors' code, bit for bit.
        crops: Where images and crops are resized: in the loader workers, or on the device in floating point.
        cached_texts: Embed all captions once before training, for methods with a frozen text tower. The result is equal
            up to rounding.
    """

    image_backend: Literal["turbojpeg", "pillow"] = "turbojpeg"
    crops: Literal["worker", "device"] = "worker"
    cached_texts: bool = False

    @model_validator(mode="after")
    def _check_backend(self) -> Self:
        if self.crops == "device" and self.image_backend == "pillow":
            raise ValueError(
                "crops: device, but image_backend: pillow runs on the CPU only. Set image_backend: turbojpeg"
            )
        return self


class TrainConfig(Section):
    """The training loop, the same for all methods.

    Attributes:
        seed: Seed of sample order and random draws. Each run takes its own from `plan.seeds`.
        batch_size: Global batch size: images per step over all processes.
        epochs: Passes over the data.
        max_steps: Total number of steps, if smaller than that of `epochs`; also the end of the learning rate schedule.
            null: no limit.
        learning_rate: Peak learning rate of AdamW.
        warmup_steps: Steps of the linear warm-up from 0 to the peak; a cosine decay to 0 follows.
        weight_decay: Weight decay of matrices. Vectors, norms, biases and the logit scale have none.
        betas: Betas of AdamW.
        eps: Epsilon of AdamW.
        max_grad_norm: Maximum norm of all gradients together; null: no clipping.
        precision: Data type of the encoder's computation (autocast). Weights and losses are fp32; fp16 uses loss
            scaling.
        divergence_factor: Stop as diverged if the mean of recent losses exceeds the first loss by this factor; null:
            never.
        max_regions: Maximum regions per image, sampled anew in each epoch.
        require_region: Use only images with at least one region, as in the FineCLIP paper.
        max_missing_fraction: Maximum fraction of the selected samples that may be missing in the packed shards.
        shuffle_shards: Samples are shuffled within windows of this many shards.
        checkpoint_every_steps: Interval of checkpoints.
        log_every_steps: Interval of log lines in metrics.jsonl.
        deterministic: Use deterministic kernels on a GPU. Training on a CPU is always deterministic.
    """

    seed: NonNegativeInt = 0
    batch_size: PositiveInt = key(256, unit="images", origin="FineCLIP scripts: 8 x 32")
    epochs: PositiveInt = key(10, origin=FINECLIP)
    max_steps: PositiveInt | None = key(None, unit="steps")
    learning_rate: PositiveFloat = key(1e-5, origin=FINECLIP)
    warmup_steps: NonNegativeInt = key(1000, unit="steps", origin=FINECLIP)
    weight_decay: NonNegativeFloat = key(0.1, origin=FINECLIP)
    betas: tuple[Share, Share] = key((0.9, 0.999), origin="FineCLIP scripts, EVA")
    eps: PositiveFloat = key(1e-8, origin="FineCLIP scripts, EVA")
    max_grad_norm: PositiveFloat | None = key(None, origin=FINECLIP)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    divergence_factor: PositiveFloat | None = key(2.0, gt=1)
    max_regions: PositiveInt = key(20, unit="boxes", origin="FineCLIP scripts: 20 (B/16)")
    require_region: bool = False
    max_missing_fraction: Share = 0.01
    shuffle_shards: PositiveInt = key(4, unit="shards")
    checkpoint_every_steps: PositiveInt = key(500, unit="steps")
    log_every_steps: PositiveInt = key(10, unit="steps")
    deterministic: bool = False

    @model_validator(mode="after")
    def _check_warmup(self) -> Self:
        if self.max_steps is not None and self.warmup_steps >= self.max_steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be less than max_steps ({self.max_steps})")
        return self

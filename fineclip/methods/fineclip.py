"""FineCLIP: global contrast, regional contrast and real-time self-distillation.

    L = w_global L_global + w_region L_region + w_distill L_distill

    L_global   image i  <->  its caption,         in-batch negatives: all images
    L_region   region j <->  its caption,         in-batch negatives: all regions
    L_distill  1 - cos(region j, crop j)          dense feature of the region vs. global embedding of its crop

Source: Jing et al., NeurIPS 2024, equations 1-6; official code, training/clipself.py.

Deviations from the official code, with reasons:
  * Gradients are averaged over ranks (there: every GPU trains its own copy).
  * Contrastive gradients are exact (there, with W GPUs, each GPU has the gradient of its own rows only: 1/W of the weight
    relative to the distillation; `weights: {global: 0.125, region: 0.125}` gives the mix of the 8-GPU scripts).
  * There are no padding rows (there: on one GPU zero rows enter L_region).
  * An image without regions contributes none (there: an artificial box with an empty caption), nor does a region without a
    caption.
  * Up to `max_regions` are drawn from all usable regions (there: drawn first, then filtered by size).
  * One pass of the trunk encodes image and regions (there: two), and a term of weight 0 is not computed.
`relaxed` names cheaper variants of the objective: crops without gradient (a step takes a half to a third), smaller crops,
fewer regions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from fineclip.boxes import enlarge
from fineclip.config import FineCLIPConfig
from fineclip.errors import ConfigError
from fineclip.losses.contrastive import contrastive_loss
from fineclip.losses.distillation import distillation_loss
from fineclip.methods.base import EncoderCall, Method, require, vision_path
from fineclip.methods.transforms import (
    DataSpec,
    MethodTransform,
    TrainingExample,
    Transform,
    draw_caption,
    draw_regions,
)
from fineclip.models.encoder import RegionEncoder
from fineclip.types import Batch, Counts, Losses, Sample

VERSION = 1  # of the loss and of the transform: a change trains again


class Features(NamedTuple):
    """Embeddings of this rank, not normalized: (B, D) of images and captions, (R, D) of regions and their captions.

    None if no term with a weight above 0 needs them.
    """

    image: Tensor | None
    caption: Tensor | None
    region: Tensor | None
    region_caption: Tensor | None


class FineCLIPTransform(MethodTransform):
    """Resize the image and draw a caption and regions with their captions and crops."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> TrainingExample:
        """Return the example of one sample in one epoch."""
        spec, config = self.data_spec, self.config
        caption = draw_caption(sample.captions, rng)
        regions = draw_regions(sample, rng, at_most=self.max_regions)
        texts = spec.texts(sample.key, [caption, *(region.caption or "" for region in regions)])
        boxes = [enlarge(region.box, config.crop_scale) for region in regions] if config.weights.distill else None
        pixels = spec.pixels(sample.image, self.resize, boxes=boxes, crop_size=config.relaxed.crop_size)
        return TrainingExample(
            sample.key,
            pixels.image,
            text=texts[0],
            boxes=self.fractions([region.box for region in regions], sample),
            region_texts=texts[1:],
            crops=pixels.crops,
            crop_plan=pixels.crop_plan,
        )


class FineCLIP(Method[Features]):
    """Train a `RegionEncoder` with the FineCLIP objective.

    Args:
        encoder: Initial weights; changed by training.
        config: Section of the method.

    Raises:
        ConfigError: All weights are 0, or crops are not a multiple of the patch size.
    """

    version = VERSION
    config_type = FineCLIPConfig
    transform_type = FineCLIPTransform

    def __init__(self, encoder: RegionEncoder, config: FineCLIPConfig) -> None:
        super().__init__(encoder, config)
        weights, relaxed = config.weights, config.relaxed
        self.weights = weights.model_dump(by_alias=True)
        if not any(self.weights.values()):
            raise ConfigError("methods.fineclip.weights: all are 0, so nothing is trained. Set one of them above 0.")
        if relaxed.crop_size is not None:
            encoder.require_whole_patches(relaxed.crop_size, what="methods.fineclip.relaxed.crop_size:")
        self.uses_in_batch_negatives = bool(weights.global_ or weights.region)
        self.path = vision_path(image=weights.global_ > 0, region=max(weights.region, weights.distill) > 0)
        if weights.distill:
            self.crops = "frozen" if relaxed.detach_crops else "trained"
            self.region_weight = weights.distill

    @classmethod
    def build_transform(cls, data_spec: DataSpec, config: FineCLIPConfig, *, max_regions: int) -> Transform:
        """Return the transform.

        Args:
            data_spec: Sizes and tokenizer.
            config: Section of the method; `relaxed.max_regions` may lower `max_regions`.
            max_regions: Regions per image, at most.

        Returns:
            Picklable function (sample, rng) -> example.
        """
        fewer = config.relaxed.max_regions or max_regions
        return super().build_transform(data_spec, config, max_regions=min(fewer, max_regions))

    def encode(self, batch: Batch) -> Features:
        """Encode the images, regions and captions of this rank."""
        image_BD, region_RD = self.encode_vision(batch)
        return Features(
            image=image_BD,
            caption=require(self.embed_texts(batch)) if self.weights["global"] else None,
            region=region_RD,
            region_caption=require(self.embed_region_texts(batch)) if self.weights["region"] else None,
        )

    def batch_loss(self, features: Features, counts: Counts) -> Losses:
        """Compute the contrastive terms. The regional term is 0 if no rank has a region."""
        scale = self.encoder.logit_scale.exp()
        image_BD, caption_BD, region_RD, region_caption_RD = features
        terms: dict[str, Tensor] = {}
        if image_BD is not None and caption_BD is not None:
            terms["global"] = contrastive_loss(image_BD, caption_BD, logit_scale=scale, counts=counts.images)
        if region_RD is not None and region_caption_RD is not None:
            terms["region"] = contrastive_loss(region_RD, region_caption_RD, logit_scale=scale, counts=counts.regions)
        return Losses.weighted(terms, weights=self.weights)

    def region_loss(self, region_RD: Tensor, crop_RD: Tensor, counts: Sequence[int]) -> Losses:
        """Compute the distillation term, without its weight.

        Args:
            region_RD: Dense features of regions, not normalized.
            crop_RD: Embeddings of their crops, not normalized.
            counts: Regions of each rank in rank order.

        Returns:
            Losses of this rank; 0 if no rank has a region.
        """
        distill = distillation_loss(region_RD, crop_RD, counts=counts)
        return Losses.weighted({"distill": distill}, weights={"distill": 1.0})

    def encoder_calls(self, data_spec: DataSpec) -> list[EncoderCall]:
        """Return images, and texts and crops if their terms have a weight."""
        train_text, crop_px = self.config.train_text, self.config.relaxed.crop_size or data_spec.crop_size
        calls = {
            "global": EncoderCall("texts", gradient=train_text),
            "region": EncoderCall("region_texts", gradient=train_text),
            "distill": EncoderCall("crops", crop_px, gradient=self.crops == "trained"),
        }
        images = EncoderCall("images", data_spec.image_size, self.path)
        return [images, *(call for term, call in calls.items() if self.weights[term])]

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
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from fineclip.boxes import enlarge
from fineclip.config import FineCLIPConfig
from fineclip.errors import ConfigError
from fineclip.losses.contrastive import contrastive_loss
from fineclip.losses.distillation import distillation_loss
from fineclip.methods.base import EncoderCall, Method, require
from fineclip.methods.transforms import (
    RESIZES,
    DataSpec,
    TrainingExample,
    Transform,
    draw_caption,
    draw_regions,
    stack_boxes,
)
from fineclip.models.encoder import RegionEncoder
from fineclip.models.flops import Path
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


@dataclass(frozen=True)
class FineCLIPTransform:
    """Resize the image and draw a caption and regions with their captions and crops."""

    data_spec: DataSpec
    config: FineCLIPConfig
    max_regions: int

    def __call__(self, sample: Sample, rng: np.random.Generator) -> TrainingExample:
        """Return the example of one sample in one epoch.

        Args:
            sample: A packed sample.
            rng: Generator of the sample.

        Returns:
            Example with the fields that `encode` reads.

        Raises:
            UndecodableImage: The bytes are not an image.
        """
        spec, config, resize = self.data_spec, self.config, RESIZES[self.config.resize]
        caption = draw_caption(sample.captions, rng)
        regions = draw_regions(sample, rng, at_most=self.max_regions)
        texts = spec.texts(sample.key, [caption, *(region.caption or "" for region in regions)])
        boxes = [enlarge(region.box, config.crop_scale) for region in regions] if config.weights.distill else None
        pixels = spec.pixels(sample.image, resize, boxes=boxes, crop_size=config.relaxed.crop_size)
        return TrainingExample(
            sample.key,
            pixels.image,
            text=texts[0],
            boxes=stack_boxes([resize.fractions(region.box, sample) for region in regions]),
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

    def __init__(self, encoder: RegionEncoder, config: FineCLIPConfig) -> None:
        super().__init__(encoder, config)
        weights, crop_size = config.weights, config.relaxed.crop_size
        self.weights = {"global": weights.global_, "region": weights.region, "distill": weights.distill}
        self.uses_in_batch_negatives = bool(weights.global_ or weights.region)
        if weights.distill:
            self.crops = "frozen" if config.relaxed.detach_crops else "trained"
        if not any(self.weights.values()):
            raise ConfigError("methods.fineclip.weights: all are 0, so nothing is trained. Set one of them above 0.")
        if crop_size is not None and any(crop_size % side for side in encoder.patch):
            raise ConfigError(
                f"methods.fineclip.relaxed.crop_size: {crop_size} px is not a multiple of the patch size,"
                f" {encoder.patch[0]} px. Set a multiple, or null."
            )

    @classmethod
    def build_transform(cls, data_spec: DataSpec, config: FineCLIPConfig, *, max_regions: int) -> Transform:
        """Return the transform; `config.relaxed.max_regions` may lower `max_regions`."""
        fewer = config.relaxed.max_regions
        return FineCLIPTransform(data_spec, config, max_regions if fewer is None else min(fewer, max_regions))

    def encode(self, batch: Batch) -> Features:
        """Encode the images, regions and captions of this rank."""
        images, weights, encoder = require(batch.images), self.weights, self.encoder
        image_BD = region_RD = None
        if not (weights["region"] or weights["distill"]):
            image_BD = encoder.encode_image(images)
        elif weights["global"]:
            image_BD, region_RD = encoder.encode_image_and_regions(
                images, require(batch.boxes), require(batch.box_to_image)
            )
        else:
            region_RD = encoder.encode_regions(images, require(batch.boxes), require(batch.box_to_image))
        return Features(
            image=image_BD,
            caption=require(self.embed_texts(batch)) if weights["global"] else None,
            region=region_RD,
            region_caption=require(self.embed_region_texts(batch)) if weights["region"] else None,
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
        """Compute the distillation term."""
        distill = distillation_loss(region_RD, crop_RD, counts=counts)
        return Losses.weighted({"distill": distill}, weights=self.weights)

    def encoder_calls(self, data_spec: DataSpec) -> list[EncoderCall]:
        """Return images, and texts and crops if their terms have a weight."""
        weights, relaxed, train_text = self.weights, self.config.relaxed, self.config.train_text
        has_regions = bool(weights["region"] or weights["distill"])
        path: Path = "global" if not has_regions else "shared" if weights["global"] else "dense"
        calls = [EncoderCall("images", data_spec.image_size, path)]
        if weights["global"]:
            calls.append(EncoderCall("texts", gradient=train_text))
        if weights["region"]:
            calls.append(EncoderCall("region_texts", gradient=train_text))
        if weights["distill"]:
            px = relaxed.crop_size or data_spec.crop_size
            calls.append(EncoderCall("crops", px, gradient=not relaxed.detach_crops))
        return calls

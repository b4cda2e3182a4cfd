"""FineCLIP: global contrast, regional contrast and real-time self-distillation in one model.

    L = w_global L_global + w_region L_region + w_distill L_distill

    L_global   image i  <->  its caption,         over all images of all processes
    L_region   region j <->  its caption,         over all regions of all processes
    L_distill  1 - cos(region j, crop j)          the dense map's region against the global embedding of its crop

Source: Jing et al., NeurIPS 2024, equations 1-6; official code, training/clipself.py.

What we change, and why:
  * gradients are averaged over processes (there: every GPU trains its own copy);
  * contrastive gradients are exact (there, with W GPUs, each sees those of its own rows only: 1/W of the weight against
    the distillation; `weights: {global: 0.125, region: 0.125}` gives the mix of the 8-GPU scripts);
  * no padding rows (there: on one GPU zero rows enter L_region);
  * an image without regions has none (there: a made-up box with an empty caption), nor has a region without a caption;
  * up to `max_regions` are drawn from all usable regions (there: drawn first, then thinned by size);
  * one pass of the trunk serves image and regions (there: two), and a term of weight 0 is not computed.
`relaxed` names what is another objective and cheaper: crops without gradient (a step takes a half to a third), smaller
crops, fewer regions.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from fineclip.boxes import enlarge
from fineclip.config import FineCLIPConfig
from fineclip.errors import ConfigError
from fineclip.methods.base import Method, Passes, given
from fineclip.methods.chunks import distilled_in_chunks, encoded_in_chunks
from fineclip.methods.contrastive import contrastive_loss
from fineclip.methods.distillation import distillation_loss
from fineclip.methods.items import (
    RESIZES,
    Inputs,
    Item,
    Prepare,
    draw_caption,
    draw_regions,
    stack_boxes,
)
from fineclip.models.encoder import RegionEncoder
from fineclip.types import Batch, Counts, Losses, Sample

VERSION = 1  # of the loss and of what is drawn: a change of it trains again


class Features(NamedTuple):
    """What the objective compares, of width D: a row for each image or each region of this process.

    None where the weights leave no term that needs it, or crops are compared apart.
    """

    image: Tensor | None
    caption: Tensor | None
    region: Tensor | None
    region_caption: Tensor | None
    crop: Tensor | None


@dataclass(frozen=True)
class PrepareFineCLIP:
    """The image on its square, one of its captions, and some of its regions with captions and crops."""

    inputs: Inputs
    options: FineCLIPConfig
    max_regions: int

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Item:
        """One visit to a sample.

        Raises:
            UndecodableImage: its bytes are no image.
        """
        inputs, options, resize = self.inputs, self.options, RESIZES[self.options.resize]
        caption = draw_caption(sample.captions, rng)
        regions = draw_regions(sample, rng, at_most=self.max_regions)
        texts = inputs.texts(sample.key, [caption, *(region.caption or "" for region in regions)])
        boxes = [enlarge(region.box, options.crop_scale) for region in regions] if options.weights.distill else None
        pixels = inputs.pixels(sample.image, resize, boxes=boxes, crop_size=options.relaxed.crop_size)
        return Item(
            sample.key,
            pixels.image,
            text=texts[0],
            boxes=stack_boxes([resize.fractions(region.box, sample) for region in regions]),
            region_texts=texts[1:],
            crops=pixels.crops,
            cuts=pixels.cuts,
        )


class FineCLIP(Method[Features]):
    """The FineCLIP objective on a `RegionEncoder`."""

    version = VERSION
    section = FineCLIPConfig

    def __init__(self, encoder: RegionEncoder, options: FineCLIPConfig) -> None:
        super().__init__(encoder, options)
        weights = options.weights
        self.weights = {"global": weights.global_, "region": weights.region, "distill": weights.distill}
        self.compares_rows = bool(weights.global_ or weights.region)
        if not any(self.weights.values()):
            raise ConfigError("methods.fineclip.weights: all are 0, so there is nothing to learn. Raise one of them.")
        crop_size = options.relaxed.crop_size
        if crop_size is not None and any(crop_size % side for side in encoder.patch):
            raise ConfigError(
                f"methods.fineclip.relaxed.crop_size: {crop_size} px is not whole patches of {encoder.patch[0]} px:"
                " name a multiple of that, or null"
            )

    @classmethod
    def preparation(cls, inputs: Inputs, options: FineCLIPConfig, *, max_regions: int) -> Prepare:
        """Images, captions, regions, their captions and crops."""
        fewer = options.relaxed.max_regions
        return PrepareFineCLIP(inputs, options, max_regions if fewer is None else min(fewer, max_regions))

    def passes(self, inputs: Inputs) -> Passes:
        """Images, and crops if they are compared."""
        relaxed = self.options.relaxed
        if not self.weights["distill"]:
            return Passes(inputs.image_size)
        return Passes(
            inputs.image_size, crop_px=relaxed.crop_size or inputs.crop_size, keeps_crops=not relaxed.detach_crops
        )

    def features(self, batch: Batch) -> Features:
        """Encode the rows of this process, as far as a term needs them. No communication."""
        weights = self.weights
        image_BD, region_RD = self._image_and_regions(batch)
        return Features(
            image=image_BD,
            caption=self.encode_captions(batch) if weights["global"] else None,
            region=region_RD,
            region_caption=self.encode_region_captions(batch) if weights["region"] else None,
            crop=self._crops(given(batch.crops)) if weights["distill"] and not self._is_apart else None,
        )

    @property
    def _is_apart(self) -> bool:
        """Whether crops are encoded, compared and gone back through a few at a time."""
        return self.chunks.apart and not self.options.relaxed.detach_crops

    def own_terms(self, rows: Features, batch: Batch) -> Losses:
        """The distillation, where crops are taken a few at a time."""
        if rows.region is None or not self.weights["distill"] or not self._is_apart:
            return super().own_terms(rows, batch)
        distill = distilled_in_chunks(
            self.encoder.encode_image,
            rows.region,
            given(batch.crops),
            counts=batch.counts.regions,
            chunks=self.chunks,
            parameters=[each for each in self.encoder.parameters() if each.requires_grad],
        )
        return Losses.weighted({"distill": distill}, weights=self.weights)

    def _image_and_regions(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        images = given(batch.images)
        if not (self.weights["region"] or self.weights["distill"]):
            return self.encoder.encode_image(images), None
        boxes_R4, box_to_image_R = given(batch.boxes), given(batch.box_to_image)
        if not self.weights["global"]:
            return None, self.encoder.encode_regions(images, boxes_R4, box_to_image_R)
        return self.encoder.encode_image_and_regions(images, boxes_R4, box_to_image_R)

    def _crops(self, crops: Tensor) -> Tensor:
        if self.options.relaxed.detach_crops:
            return encoded_in_chunks(self.encoder.encode_image, crops, self.chunks)
        return self.encoder.encode_image(crops)

    def loss(self, rows: Features, counts: Counts) -> Losses:
        """The module docstring's equation. A batch without regions has two terms that are 0."""
        scale = self.encoder.logit_scale.exp()
        terms: dict[str, Tensor] = {}
        if rows.image is not None and rows.caption is not None:
            terms["global"] = contrastive_loss(rows.image, rows.caption, scale=scale, counts=counts.images)
        if rows.region is not None and rows.region_caption is not None:
            terms["region"] = contrastive_loss(rows.region, rows.region_caption, scale=scale, counts=counts.regions)
        if rows.region is not None and rows.crop is not None:
            terms["distill"] = distillation_loss(rows.region, rows.crop, counts=counts.regions)
        return Losses.weighted(terms, weights=self.weights)

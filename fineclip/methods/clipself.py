"""CLIPSelf: dense features of regions are trained towards global embeddings of their crops by a frozen copy of the encoder.

    L = L_distill       1 - cos(region j, crop j)          mean over all regions of all ranks

    region j   pooled from the dense map of the trained encoder
    crop j     global embedding by the initial encoder, without gradient

Regions are those of the data (`proposals`), or the cells of a regular grid drawn in each epoch (`patches`). Texts are not
used. The exported encoder is `wise_ft_alpha` of the trained and `1 - alpha` of the initial weights; training always continues from
the trained weights.

Only the value path of the trunk's last block is used, and neither class token nor logit scale is compared. The class token
is trained through other blocks that attend to it. The last block's query and key and the logit scale have no gradient,
and AdamW does not change them. (In OpenAI's towers query, key and value are one matrix: the rows of query and key have
zero gradient and decay, as in the authors' code.)

Source: Wu et al., ICLR 2024; official code, training/clipself.py and training/data.py (GridDistillDataset,
ProposalDistillDataset).

Deviations from the official code, with reasons:
  * Gradients are averaged over ranks (there: every GPU trains its own copy on its own two images).
  * The mean is over the regions of all ranks (there: over those of each GPU).
  * An image without regions contributes none (there: an artificial box in its corner).
  * Up to `max_regions` are drawn from all usable regions (there: drawn first, then filtered by size; here the detect stage
    decides which sizes exist).
  * The exported weights are interpolated in float32 once, at the end; a resumed training never starts from them (there: it
    would, with the optimizer state of other weights).
  * The whole vision tower is trained by default. `unlocked_blocks` with the number of all blocks gives the authors' scripts,
    which freeze stem, positions, class token, final norm and projection.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from fineclip.boxes import enlarge
from fineclip.config import CLIPSelfConfig
from fineclip.losses.distillation import distillation_loss
from fineclip.methods.base import EncoderCall, Method, encode_regions
from fineclip.methods.transforms import (
    DataSpec,
    MethodTransform,
    TrainingExample,
    draw_caption,
    draw_regions,
    draw_subset,
    grid_boxes,
)
from fineclip.types import Batch, Box, Counts, Losses, Sample

VERSION = 1  # of the loss and of the transform: a change trains again


class Features(NamedTuple):
    """Dense features of the regions of this rank, (R, D), not normalized."""

    region: Tensor


class CLIPSelfTransform(MethodTransform):
    """Resize the image and draw regions or patches with their crops."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> TrainingExample:
        """Return the example of one sample in one epoch."""
        boxes, crop_scale = self._boxes(sample, rng)
        crops = [enlarge(box, crop_scale) for box in boxes]
        pixels = self.data_spec.pixels(sample.image, self.resize, boxes=crops)
        return TrainingExample(
            sample.key,
            pixels.image,
            boxes=self.fractions(boxes, sample),
            crops=pixels.crops,
            crop_plan=pixels.crop_plan,
        )

    def _boxes(self, sample: Sample, rng: np.random.Generator) -> tuple[list[Box], float]:
        """Return boxes in px of the image, and the factor by which their crops are wider and higher."""
        draw_caption(sample.captions, rng)  # not used; draws it so that the regions equal those of other methods
        if self.config.regions == "patches":
            return draw_patches(sample, rng, max_split=self.config.max_split, at_most=self.max_regions), 1.0
        regions = draw_regions(sample, rng, at_most=self.max_regions, usable=lambda _: True)
        return [region.box for region in regions], self.config.crop_scale


class CLIPSelf(Method[Features]):
    """Train a `RegionEncoder` with the CLIPSelf objective."""

    version = VERSION
    config_type = CLIPSelfConfig
    transform_type = CLIPSelfTransform
    needs_teacher = True
    uses_in_batch_negatives = False
    crops = "frozen"

    def encode(self, batch: Batch) -> Features:
        """Encode the regions of this rank."""
        return Features(encode_regions(self.encoder, batch))

    def batch_loss(self, features: Features, counts: Counts) -> Losses:  # noqa: ARG002
        """Return no terms: there are no in-batch negatives."""
        return Losses.weighted({}, weights={})

    def region_loss(self, region_RD: Tensor, crop_RD: Tensor, counts: Sequence[int]) -> Losses:
        """Compute the distillation term.

        Args:
            region_RD: Dense features of regions, not normalized.
            crop_RD: Embeddings of their crops by the teacher, not normalized.
            counts: Regions of each rank in rank order.

        Returns:
            Losses of this rank; 0 if no rank has a region.
        """
        distill = distillation_loss(region_RD, crop_RD, counts=counts)
        return Losses.weighted({"distill": distill}, weights={"distill": 1.0})

    def encoder_calls(self, data_spec: DataSpec) -> list[EncoderCall]:
        """Return images, and crops of the teacher."""
        return [
            EncoderCall("images", data_spec.image_size, "dense"),
            EncoderCall("crops", data_spec.crop_size, gradient=False),
        ]


def grids(max_split: int) -> list[tuple[int, int]]:
    """Return (rows, columns) of all grids of patches in which neither is more than twice the other.

    Args:
        max_split: Maximum of rows and columns; 6 gives 24 grids.

    Returns:
        24 pairs for `max_split` 6.

    Source:
        CLIPSelf, training/data.py `GridDistillDataset`.
    """
    return [
        (rows, columns)
        for rows in range(1, max_split + 1)
        for columns in range(math.ceil(rows / 2), min(2 * rows, max_split) + 1)
    ]


def draw_patches(sample: Sample, rng: np.random.Generator, *, max_split: int, at_most: int) -> list[Box]:
    """Return the cells of a random grid in px of the image, row by row; a random subset if there are more than `at_most`.

    Args:
        sample: Only its size is used.
        rng: Generator of the sample.
        max_split: Maximum of rows and columns of the grid.
        at_most: Maximum number of cells.

    Returns:
        At most `at_most` boxes.
    """
    choices = grids(max_split)
    rows, columns = choices[int(rng.integers(len(choices)))]
    return draw_subset(grid_boxes(rows, columns, width=sample.width, height=sample.height), rng, at_most=at_most)

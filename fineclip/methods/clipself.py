"""CLIPSelf: dense features drawn towards the global embeddings that a frozen copy of the encoder gives of the crops.

    L = L_distill       1 - cos(region j, crop j)          over all regions of all processes

    region j   pooled from the dense map of the encoder that learns
    crop j     global embedding by the encoder as it was at first, without gradient

Regions are those of the data (`proposals`), or the cells of a regular grid that is drawn at each visit (`patches`). No text
takes part. Published is `alpha` of the trained weights and the rest of the initial ones; training goes on from the
former.

Of the trunk's last block only the value path and what follows it is used, and neither class token nor logit scale is
compared: the class token learns where other blocks look at it, the last block's query and key and the logit scale keep
no gradient at all, and AdamW leaves them alone. (In OpenAI's towers query, key and value are one matrix: there the rows
of the first two have a gradient of 0 and decay with the others, as in the authors' code.)

Source: Wu et al., ICLR 2024; official code, training/clipself.py and training/data.py (GridDistillDataset,
ProposalDistillDataset).

What we change, and why:
  * gradients are averaged over processes (there: every GPU trains its own copy, of its own two images);
  * the mean is over the regions of all processes (there: a mean of each GPU);
  * an image without regions has none (there: a made-up box in its corner);
  * up to `max_regions` are drawn from all usable regions (there: drawn first, then thinned by size; which sizes there are
    is the detect stage's affair here);
  * what is published is mixed in float32 once, at the end; a resumed training never starts from the mixture (there: it
    would, with the optimiser's state of the other weights);
  * all of the vision tower trains by default; `trained_blocks` names the last blocks, as the authors' scripts name all of
    them, which leaves stem, positions, class token, final norm and projection as they are.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
from torch import Tensor

from fineclip.boxes import enlarge
from fineclip.config import ClipSelfConfig
from fineclip.methods.base import Method, Passes, given
from fineclip.methods.chunks import encoded_in_chunks
from fineclip.methods.distillation import distillation_loss
from fineclip.methods.items import (
    RESIZES,
    Inputs,
    Item,
    Prepare,
    draw_caption,
    draw_regions,
    draw_subset,
    grid_boxes,
    stack_boxes,
)
from fineclip.models.encoder import RegionEncoder
from fineclip.types import Batch, Box, Counts, Losses, Sample

VERSION = 1  # of the loss and of what is drawn: a change of it trains again


class Features(NamedTuple):
    """What the objective compares, of width D: a row for each region of this process."""

    region: Tensor
    crop: Tensor


@dataclass(frozen=True)
class PrepareClipSelf:
    """The image on its square, and some of its regions or patches with their crops."""

    inputs: Inputs
    options: ClipSelfConfig
    max_regions: int

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Item:
        """One visit to a sample.

        Raises:
            UndecodableImage: its bytes are no image.
        """
        resize = RESIZES[self.options.resize]
        boxes, enlarged = self._boxes(sample, rng)
        pixels = self.inputs.pixels(sample.image, resize, boxes=[enlarge(box, enlarged) for box in boxes])
        return Item(
            sample.key,
            pixels.image,
            boxes=stack_boxes([resize.fractions(box, sample) for box in boxes]),
            crops=pixels.crops,
            cuts=pixels.cuts,
        )

    def _boxes(self, sample: Sample, rng: np.random.Generator) -> tuple[list[Box], float]:
        """In pixels of the image, and how many times as wide and high their crops are."""
        draw_caption(sample.captions, rng)  # and leave it: so the regions are those that other methods draw
        if self.options.regions == "patches":
            return draw_patches(sample, rng, max_split=self.options.max_split, at_most=self.max_regions), 1.0
        regions = draw_regions(sample, rng, at_most=self.max_regions, usable=lambda _: True)
        return [region.box for region in regions], self.options.crop_scale


class ClipSelf(Method[Features]):
    """The CLIPSelf objective on a `RegionEncoder`."""

    version = VERSION
    section = ClipSelfConfig
    compares_with_initial = True
    compares_rows = False

    @classmethod
    def preparation(cls, inputs: Inputs, options: ClipSelfConfig, *, max_regions: int) -> Prepare:
        """Images, regions and their crops. No caption."""
        return PrepareClipSelf(inputs, options, max_regions)

    def passes(self, inputs: Inputs) -> Passes:
        """Images, and the teacher's crops."""
        return Passes(inputs.image_size, crop_px=inputs.crop_size)

    def features(self, batch: Batch) -> Features:
        """Encode the rows of this process. No communication."""
        boxes_R4, box_to_image_R = given(batch.boxes), given(batch.box_to_image)
        teacher = cast("RegionEncoder", self.initial)
        crop_RD = encoded_in_chunks(teacher.encode_image, given(batch.crops), self.chunks)
        return Features(self.encoder.encode_regions(given(batch.images), boxes_R4, box_to_image_R), crop_RD)

    def loss(self, rows: Features, counts: Counts) -> Losses:
        """The module docstring's equation; 0 of a batch without regions."""
        terms = {"distill": distillation_loss(rows.region, rows.crop, counts=counts.regions)}
        return Losses.weighted(terms, weights={"distill": 1.0})


def grids(max_split: int) -> list[tuple[int, int]]:
    """Rows and columns of the grids of patches, neither more than twice the other: 24 of them for 6.

    Source: CLIPSelf, training/data.py `GridDistillDataset`.
    """
    return [
        (rows, columns)
        for rows in range(1, max_split + 1)
        for columns in range(math.ceil(rows / 2), min(2 * rows, max_split) + 1)
    ]


def draw_patches(sample: Sample, rng: np.random.Generator, *, max_split: int, at_most: int) -> list[Box]:
    """The cells of one of the grids in pixels of the image, or a random subset of them, row by row."""
    choices = grids(max_split)
    rows, columns = choices[int(rng.integers(len(choices)))]
    return draw_subset(grid_boxes(rows, columns, width=sample.width, height=sample.height), rng, at_most=at_most)

"""CLIP: global contrast alone, between an image and its caption.

    L = L_global        image i  <->  its caption, over all images of all processes

Source: Radford et al. 2021, Figure 3. The text tower is frozen by default, as in FineCLIP's own comparison; `train_text`
trains both towers.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from fineclip.config import ClipConfig
from fineclip.methods.base import Method, given
from fineclip.methods.contrastive import contrastive_loss
from fineclip.methods.items import RESIZES, Inputs, Item, Prepare, draw_caption
from fineclip.types import Batch, Counts, Losses, Sample

VERSION = 1  # of the loss and of what is drawn: a change of it trains again


class Features(NamedTuple):
    """What the objective compares, of width D: a row for each image of this process."""

    image: Tensor
    caption: Tensor


@dataclass(frozen=True)
class PrepareClip:
    """The image on its square and one of its captions."""

    inputs: Inputs
    options: ClipConfig

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Item:
        """One visit to a sample.

        Raises:
            UndecodableImage: its bytes are no image.
        """
        caption = draw_caption(sample.captions, rng)
        pixels = self.inputs.pixels(sample.image, RESIZES[self.options.resize])
        return Item(sample.key, pixels.image, text=self.inputs.texts(sample.key, [caption])[0], cuts=pixels.cuts)


class Clip(Method[Features]):
    """The CLIP objective on a `RegionEncoder`."""

    version = VERSION
    section = ClipConfig

    @classmethod
    def preparation(cls, inputs: Inputs, options: ClipConfig, *, max_regions: int) -> Prepare:  # noqa: ARG003
        """Regions play no part."""
        return PrepareClip(inputs, options)

    def features(self, batch: Batch) -> Features:
        """Encode the rows of this process. No communication."""
        return Features(image=self.encoder.encode_image(given(batch.images)), caption=self.encode_captions(batch))

    def loss(self, rows: Features, counts: Counts) -> Losses:
        """The module docstring's equation."""
        scale = self.encoder.logit_scale.exp()
        terms = {"global": contrastive_loss(rows.image, rows.caption, scale=scale, counts=counts.images)}
        return Losses.weighted(terms, weights={"global": 1.0})

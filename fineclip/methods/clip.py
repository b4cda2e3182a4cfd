"""CLIP: contrast of images and captions.

    L = L_global        image i  <->  its caption,   in-batch negatives: all images

Source: Radford et al. 2021, Figure 3. The text tower is frozen by default, as in the comparison of the FineCLIP paper;
`train_text` trains both towers.
"""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from fineclip.config import CLIPConfig
from fineclip.losses.contrastive import contrastive_loss
from fineclip.methods.base import EncoderCall, Method, require
from fineclip.methods.transforms import DataSpec, MethodTransform, TrainingExample, draw_caption
from fineclip.types import Batch, Counts, Losses, Sample

VERSION = 1  # of the loss and of the transform: a change trains again


class Features(NamedTuple):
    """Embeddings of this rank, (B, D), not normalized."""

    image: Tensor
    caption: Tensor


class CLIPTransform(MethodTransform):
    """Resize the image and draw one of its captions."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> TrainingExample:
        """Return the example of one sample in one epoch."""
        caption = draw_caption(sample.captions, rng)
        pixels = self.data_spec.pixels(sample.image, self.resize)
        text = self.data_spec.texts(sample.key, [caption])[0]
        return TrainingExample(sample.key, pixels.image, text=text, crop_plan=pixels.crop_plan)


class CLIP(Method[Features]):
    """Train a `RegionEncoder` with the CLIP objective."""

    version = VERSION
    config_type = CLIPConfig
    transform_type = CLIPTransform

    def encode(self, batch: Batch) -> Features:
        """Encode the images and captions of this rank."""
        image_BD = self.encoder.encode_image(require(batch.images))
        return Features(image_BD, require(self.embed_texts(batch)))

    def batch_loss(self, features: Features, counts: Counts) -> Losses:
        """Compute the contrastive term."""
        scale = self.encoder.logit_scale.exp()
        loss = contrastive_loss(features.image, features.caption, logit_scale=scale, counts=counts.images)
        return Losses.weighted({"global": loss}, weights={"global": 1.0})

    def encoder_calls(self, data_spec: DataSpec) -> list[EncoderCall]:
        """Return images and texts."""
        return [EncoderCall("images", data_spec.image_size), EncoderCall("texts", gradient=self.config.train_text)]

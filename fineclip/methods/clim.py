"""CLIM: images are combined into mosaics, and each tile is a region whose text is the caption of its image.

    L = L_contrast      row i of V  <->  caption i,   in-batch negatives: all images

    V          for each image in the order of the batch the dense feature of its tile in a mosaic,
               then the global embeddings of the remaining images

Legend: B images of this rank, N rows, M mosaics, S side of an image, m side of a mosaic, in pixels.

The global batch is divided in its order: a set of mosaics of 2 x 2, 3 x 3 and 4 x 4 tiles takes 29 images. The batch is
filled with as many complete sets as possible: first all 2 x 2, then all 3 x 3, then all 4 x 4. The remaining images stay
single. Tiles are placed row by row, and the mosaic is resized to `mosaic_size`.

Mosaics are planned for the global batch, and a rank gets whole mosaics (`image_groups`), so that the mosaics are the same
for any number of ranks. At least one set is required: a `train.batch_size` or a number of samples below 29 is an error before
training.

Source: Wu et al., AAAI 2024; official code, training/clim.py (the variant on CLIP).

Deviations from the official code, with reasons:
  * Mosaics are planned for the global batch (there: on each GPU, so that the objective depends on the number of GPUs, and
    each needs 29 images).
  * Gradients are averaged over ranks (there: every GPU trains its own copy).
  * If no image remains, the path of the class token is not computed, and its parameters have no gradient.
  * The whole vision tower is trained and exported; `unlocked_blocks: 6` and `wise_ft_alpha: 0.7` are the authors' settings.
  * torchvision's RandomResizedCrop is drawn from the generator of (seed, epoch, key).
"""

from collections.abc import Sequence
from math import isqrt
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fineclip.config import CLIMConfig
from fineclip.errors import ConfigError
from fineclip.losses.contrastive import contrastive_loss
from fineclip.methods.base import EncoderCall, Method, groups_within, own_images, require
from fineclip.methods.transforms import (
    DataSpec,
    MethodTransform,
    Resize,
    TrainingExample,
    draw_caption,
    fractions,
    grid_boxes,
    stack_boxes,
)
from fineclip.models.encoder import RegionEncoder
from fineclip.models.images import SQUASH_BICUBIC, random_resized_crop
from fineclip.types import Batch, Counts, Losses, Sample

VERSION = 1  # of the loss and of the transform: a change trains again

RESIZE = Resize(SQUASH_BICUBIC, SQUASH_BICUBIC, fractions)


class Features(NamedTuple):
    """Embeddings of this rank, (B, D), not normalized: of tiles or single images, and of captions."""

    visual: Tensor
    caption: Tensor


class CLIMTransform(MethodTransform):
    """Crop a large part of the image, resize it, and draw one of its captions."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> TrainingExample:
        """Return the example of one sample in one epoch."""
        caption = draw_caption(sample.captions, rng)
        part = random_resized_crop(sample.width, sample.height, rng, area=self.config.crop_area)
        pixels = self.data_spec.pixels(sample.image, RESIZE, part=part)
        text = self.data_spec.texts(sample.key, [caption])[0]
        return TrainingExample(sample.key, pixels.image, text=text, crop_plan=pixels.crop_plan)


class CLIM(Method[Features]):
    """Train a `RegionEncoder` with the CLIM objective.

    Args:
        encoder: Initial weights; changed by training.
        config: Section of the method.

    Raises:
        ConfigError: `mosaic_size` is not a multiple of the patch size.
    """

    version = VERSION
    config_type = CLIMConfig
    transform_type = CLIMTransform

    def __init__(self, encoder: RegionEncoder, config: CLIMConfig) -> None:
        super().__init__(encoder, config)
        encoder.require_whole_patches(config.mosaic_size, what="methods.clim.mosaic_size:")

    def image_groups(self, images: int) -> list[int]:
        """Return the numbers of tiles of the mosaics, then 1 for each single image.

        Args:
            images: Images of the batch over all ranks.

        Returns:
            Sizes whose sum is `images`.

        Raises:
            ConfigError: The batch does not fill one set of mosaics.
        """
        sides = mosaic_sides(images, self.config.mosaics)
        if not sides:
            raise ConfigError(
                f"train.batch_size: a step has {images} images, but a set of mosaics takes {self.config.min_batch_size}. Raise it."
                " If there are no more samples, select more, or set fewer or smaller mosaics in methods.clim.mosaics."
            )
        return _groups(sides, images)

    def encode(self, batch: Batch) -> Features:
        """Encode the mosaics, single images and captions of this rank."""
        images_B3SS = self.encoder.preprocess(require(batch.images))
        total = sum(batch.counts.images)
        groups = _groups(mosaic_sides(total, self.config.mosaics), total)
        sides = [isqrt(tiles) for tiles in groups_within(groups, own_images(batch)) if tiles > 1]
        used = sum(side * side for side in sides)
        mosaics_M3mm = make_mosaics(images_B3SS[:used], sides, size=self.config.mosaic_size)
        boxes_N4, box_to_mosaic_N = tile_boxes(sides, device=images_B3SS.device)
        rows = [self.encoder.encode_regions(mosaics_M3mm, boxes_N4, box_to_mosaic_N)]
        if 1 in groups:  # a property of the global batch, so that all ranks use the same parameters
            rows.append(self.encoder.encode_image(images_B3SS[used:]))
        return Features(torch.cat(rows), require(self.embed_texts(batch)))

    def batch_loss(self, features: Features, counts: Counts) -> Losses:
        """Compute the contrastive term."""
        scale = self.encoder.logit_scale.exp()
        loss = contrastive_loss(features.visual, features.caption, logit_scale=scale, counts=counts.images)
        return Losses.weighted({"contrast": loss}, weights={"contrast": 1.0})

    def encoder_calls(self, data_spec: DataSpec) -> list[EncoderCall]:
        """Return the kinds of mosaics, single images and texts."""
        px = self.config.mosaic_size
        return [
            *(EncoderCall("images", px, "dense", images=side * side) for side in sorted({*self.config.mosaics})),
            EncoderCall("images", data_spec.image_size),
            EncoderCall("texts", gradient=self.config.train_text),
        ]


def _groups(sides: Sequence[int], images: int) -> list[int]:
    tiles = [side * side for side in sides]
    return tiles + [1] * (images - sum(tiles))


def mosaic_sides(images: int, sides: Sequence[int]) -> list[int]:
    """Return the tiles along the side of each mosaic of a global batch, in order. Remaining images are single.

    Args:
        images: Images of the batch over all ranks.
        sides: Tiles along the side of each mosaic of a set.

    Returns:
        One side per mosaic; empty if the batch does not fill a set.

    Source:
        CLIM, training/clim.py `split_a_batch`.
    """
    sets = images // sum(side * side for side in sides)
    return [side for side in sides for _ in range(sets)]


def make_mosaics(images_B3SS: Tensor, sides: Sequence[int], *, size: int) -> Tensor:
    """Return mosaics of consecutive images, tiled row by row and resized, (M, 3, m, m).

    Args:
        images_B3SS: B is the number of tiles of all mosaics.
        sides: Tiles along the side of each mosaic; M may be 0.
        size: m.

    Returns:
        Mosaics in the order of the images.

    Source:
        CLIM: bicubic, without antialiasing, corners not aligned.
    """
    if not sides:
        return images_B3SS
    parts = torch.split(images_B3SS, [side * side for side in sides])
    mosaics = [tiled(part, side)[None] for part, side in zip(parts, sides, strict=True)]
    resized = [interpolate(each, size=(size, size), mode="bicubic", align_corners=False) for each in mosaics]
    return torch.cat(resized)


def tiled(tiles_N3SS: Tensor, side: int) -> Tensor:
    """Return side x side images as one image, row by row, (3, side S, side S)."""
    channels, height, width = tiles_N3SS.shape[1:]
    grid = tiles_N3SS.reshape(side, side, channels, height, width).permute(2, 0, 3, 1, 4)
    return grid.reshape(channels, side * height, side * width)


def tile_boxes(sides: Sequence[int], *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the box of each tile, (N, 4) in fractions of its mosaic, and the number of its mosaic, (N,)."""
    boxes = [box for side in sides for box in grid_boxes(side, side)]
    owners = [number for number, side in enumerate(sides) for _ in range(side * side)]
    return stack_boxes(boxes).to(device), torch.tensor(owners, dtype=torch.int64, device=device)

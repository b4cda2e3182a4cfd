"""CLIM: images are put together to mosaics, and each tile is a region whose text is the caption of its image.

    L = L_contrast      row i of V  <->  caption i,        over all images of all processes

    V          for each image in the order of the batch what the mosaics' dense maps say of its tile,
               then the global embeddings of the images that are left over

Legend: B images of this process, N rows, M mosaics, S side of an image, m side of a mosaic, in pixels.

A batch is cut in its order: a set of mosaics of 2 x 2, 3 x 3 and 4 x 4 tiles takes 29 images, and there are as many sets
as the batch fills, all 2 x 2 first, then all 3 x 3, then all 4 x 4; what is left stays single. Tiles are laid row by row,
and the mosaic is resized to `mosaic_size`.

The plan is made of the whole batch of all processes, and a process gets whole mosaics (`groups`), so that any number of
processes sees the same mosaics. There must be a set at least: `train.batch_size` below 29 is refused before training, and
so is a training of fewer than 29 samples, whose steps are all of them.

Source: Wu et al., AAAI 2024; official code, training/clim.py (the variant on CLIP).

What we change, and why:
  * mosaics are planned from the batch of all processes (there: of each GPU, which changes what is trained with their number,
    and needs 29 images on each);
  * gradients are averaged over processes (there: every GPU trains its own copy);
  * where no image is left over, the class token's path is not computed, and its parameters keep no gradient;
  * all of the vision tower trains and is published as it is; `trained_blocks: 6` and `alpha: 0.7` are the authors';
  * torchvision's RandomResizedCrop is drawn from the generator of (seed, epoch, key).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fineclip.config import ClimConfig
from fineclip.errors import ConfigError
from fineclip.methods.base import Method, Passes, given
from fineclip.methods.contrastive import contrastive_loss, first_row
from fineclip.methods.items import (
    Group,
    Inputs,
    Item,
    Prepare,
    Resize,
    draw_caption,
    fractions,
    grid_boxes,
    stack_boxes,
)
from fineclip.models.encoder import RegionEncoder
from fineclip.models.images import SQUASH_BICUBIC, random_resized_crop
from fineclip.types import Batch, Counts, Losses, Sample

VERSION = 1  # of the loss and of what is drawn: a change of it trains again

RESIZE = Resize(SQUASH_BICUBIC, SQUASH_BICUBIC, fractions)


class Features(NamedTuple):
    """What the objective compares, of width D: a row for each image of this process."""

    visual: Tensor
    caption: Tensor


@dataclass(frozen=True)
class PrepareClim:
    """Most of the image on its square, and one of its captions."""

    inputs: Inputs
    options: ClimConfig

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Item:
        """One visit to a sample.

        Raises:
            UndecodableImage: its bytes are no image.
        """
        caption = draw_caption(sample.captions, rng)
        part = random_resized_crop(sample.width, sample.height, rng, area=self.options.crop_area)
        pixels = self.inputs.pixels(sample.image, RESIZE, part=part)
        return Item(sample.key, pixels.image, text=self.inputs.texts(sample.key, [caption])[0], cuts=pixels.cuts)


class Clim(Method[Features]):
    """The CLIM objective on a `RegionEncoder`.

    Raises:
        ConfigError: mosaics are not whole patches.
    """

    version = VERSION
    section = ClimConfig

    def __init__(self, encoder: RegionEncoder, options: ClimConfig) -> None:
        super().__init__(encoder, options)
        if any(options.mosaic_size % side for side in encoder.patch):
            raise ConfigError(
                f"methods.clim.mosaic_size: {options.mosaic_size} px is not whole patches of {encoder.patch[0]} px:"
                " name a multiple of that"
            )

    @classmethod
    def preparation(cls, inputs: Inputs, options: ClimConfig, *, max_regions: int) -> Prepare:  # noqa: ARG003
        """Images and captions: the regions are made of the batch."""
        return PrepareClim(inputs, options)

    def groups(self, images: int, inputs: Inputs) -> Sequence[Group]:
        """The mosaics of a step, then the single images; a cost is the pixels that are encoded.

        Raises:
            ConfigError: they do not fill a set of mosaics.
        """
        least, sides = self.options.least_images, mosaic_sides(images, self.options.mosaics)
        if not sides:
            raise ConfigError(
                f"train.batch_size: a step has {images} images, but a set of mosaics takes {least}. Raise it, or, where there are"
                " no more samples than that, select more, or name fewer or smaller mosaics in methods.clim.mosaics."
            )
        single = images - sum(side * side for side in sides)
        mosaics = [Group(side * side, cost=self.options.mosaic_size**2) for side in sides]
        return mosaics + [Group(1, cost=inputs.image_size**2)] * single

    def passes(self, inputs: Inputs) -> Passes:  # noqa: ARG002
        """The smallest mosaic, the one with the fewest images."""
        return Passes(self.options.mosaic_size, images=min(self.options.mosaics) ** 2)

    def features(self, batch: Batch) -> Features:
        """Encode the rows of this process. No communication."""
        images_B3SS, counts = self.encoder.preprocess(given(batch.images)), batch.counts.images
        planned, sides = mosaic_sides(sum(counts), self.options.mosaics), self.sides_of(batch)
        used = sum(side * side for side in sides)
        mosaics_M3mm = make_mosaics(images_B3SS[:used], sides, size=self.options.mosaic_size)
        boxes_N4, box_to_mosaic_N = tile_boxes(sides, device=images_B3SS.device)
        rows = [self.encoder.encode_regions(mosaics_M3mm, boxes_N4, box_to_mosaic_N)]
        if sum(counts) > sum(side * side for side in planned):  # on every process or on none
            rows.append(self.encoder.encode_image(images_B3SS[used:]))
        return Features(torch.cat(rows), self.encode_captions(batch))

    def cuts(self, batch: Batch, images: int) -> list[int]:
        """As `Method.cuts`, between mosaics: of a large one alone there may be more."""
        own = len(batch.keys)
        sides = self.sides_of(batch)
        ends = [*accumulate(side * side for side in sides)]
        ends += range((ends[-1] if ends else 0) + 1, own + 1)  # of the single images
        edges = [0]
        for before, end in pairwise([0, *ends]):
            if end - edges[-1] > images and before > edges[-1]:
                edges.append(before)
        return [*edges, own]

    def sides_of(self, batch: Batch) -> list[int]:
        """Of the mosaics that the images of a batch, or of a part of one, make."""
        counts, images = batch.counts.images, len(batch.keys)
        first = first_row(counts) + batch.first_image
        return sides_within(mosaic_sides(sum(counts), self.options.mosaics), range(first, first + images))

    def loss(self, rows: Features, counts: Counts) -> Losses:
        """The module docstring's equation."""
        scale = self.encoder.logit_scale.exp()
        terms = {"contrast": contrastive_loss(rows.visual, rows.caption, scale=scale, counts=counts.images)}
        return Losses.weighted(terms, weights={"contrast": 1.0})


def mosaic_sides(images: int, sides: Sequence[int]) -> list[int]:
    """Tiles along the side of each mosaic that a batch of so many images makes, in order; the other images are single.

    Source: CLIM, training/clim.py `split_a_batch`.
    """
    sets = images // sum(side * side for side in sides)
    return [side for side in sides for _ in range(sets)]


def sides_within(sides: Sequence[int], images: range) -> list[int]:
    """Those of the mosaics that are made of these images of the batch.

    Raises:
        AssertionError: the images of one do not all lie inside or all outside.
    """
    within, begin = [], 0
    for side in sides:
        end = begin + side * side
        if images.start <= begin and end <= images.stop:
            within.append(side)
        elif images and begin < images.stop and images.start < end:
            raise AssertionError(f"images {begin} to {end - 1} of a batch are a mosaic, but this process has {images}")
        begin = end
    return within


def make_mosaics(images_B3SS: Tensor, sides: Sequence[int], *, size: int) -> Tensor:
    """(M, 3, m, m): so many images in their order, each mosaic tiled row by row, then resized; of none, none.

    Source: CLIM: bicubic, without antialiasing, corners not aligned.
    """
    if not sides:
        return images_B3SS
    parts = torch.split(images_B3SS, [side * side for side in sides])
    return torch.cat(
        [
            interpolate(
                tiled(part, side)[None], size=(size, size), mode="bicubic", align_corners=False, antialias=False
            )
            for part, side in zip(parts, sides, strict=True)
        ]
    )


def tiled(tiles_N3SS: Tensor, side: int) -> Tensor:
    """(3, side S, side S) from side x side images, row by row."""
    channels, height, width = tiles_N3SS.shape[1:]
    grid = tiles_N3SS.reshape(side, side, channels, height, width).permute(2, 0, 3, 1, 4)
    return grid.reshape(channels, side * height, side * width)


def tile_boxes(sides: Sequence[int], *, device: torch.device) -> tuple[Tensor, Tensor]:
    """(N, 4) fractions of the mosaic, and (N,) its number: every tile of every mosaic, in the order of the images."""
    boxes = [box for side in sides for box in grid_boxes(side, side)]
    owners = [number for number, side in enumerate(sides) for _ in range(side * side)]
    return stack_boxes(boxes).to(device), torch.tensor(owners, dtype=torch.int64, device=device)

"""Encoders with random weights and random steps: packed for this package, padded for the official code.

Legend: B images, R regions of all images, K slots for the regions of an image, L tokens, S side of an image in pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fineclip.config import EncoderConfig, WeightsConfig, parse
from fineclip.config.methods import FineCLIPConfig
from fineclip.methods.fineclip import FineCLIP
from fineclip.methods.transforms import DataSpec
from fineclip.models.encoder import RegionEncoder, build_encoder
from fineclip.models.images import normalize_pixels
from fineclip.models.tokenizer import trim_padding
from fineclip.types import Batch, Counts

SLOTS = 20  # of the official template
START, END = 49406, 49407
NOISE = 0.02  # standard deviation of the noise added to the weights


@dataclass(frozen=True)
class Step:
    """Content of one step, uint8 pixels. Regions of all images are concatenated."""

    regions: tuple[int, ...]
    images_B3SS: Tensor
    boxes_R4: Tensor
    crops_R3SS: Tensor
    texts_BL: Tensor
    region_texts_RL: Tensor


@dataclass(frozen=True)
class Padded:
    """Padded batch of the official code: K slots per image, float pixels; the last column of a box is 1 if the slot is used."""

    images_B3SS: Tensor
    texts_BL: Tensor
    boxes_BK5: Tensor
    crops_BK3SS: Tensor
    region_texts_BKL: Tensor


def random_encoder(model: str = "EVA02-B-16", *, size: int = 224, seed: int = 0) -> RegionEncoder:
    """Build an encoder with random weights; noise is added, so that no norm or bias is neutral."""
    torch.manual_seed(seed)
    weights = WeightsConfig(path="random.pt")
    encoder = build_encoder(EncoderConfig(model=model, weights=weights, image_size=size, crop_size=size))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(NOISE * torch.randn_like(parameter))
        encoder.logit_scale.fill_(3.0)
    return encoder


def data_spec(px: int) -> DataSpec:
    """Return the data spec of images and crops of one size, without a tokenizer."""
    return DataSpec(tokenize=lambda _: torch.zeros(0, 77, dtype=torch.int64), image_size=px, crop_size=px)


def build_method(encoder: RegionEncoder, options: Mapping[str, Any] | None = None) -> FineCLIP:
    """Return FineCLIP with the encoder."""
    return FineCLIP(encoder, parse(FineCLIPConfig, options or {}, where="benchmark"))


def random_step(encoder: RegionEncoder, regions: Sequence[int], *, size: int = 224, seed: int = 0) -> Step:
    """Draw pixels, boxes of 8 to 48 % of a side, and texts of 8 to 16 tokens."""
    rng = torch.Generator().manual_seed(seed)
    images, total = len(regions), sum(regions)
    corners_R2 = torch.rand(total, 2, generator=rng) * 0.5
    sides_R2 = torch.rand(total, 2, generator=rng) * 0.4 + 0.08
    return Step(
        regions=tuple(regions),
        images_B3SS=_pixels(images, size, rng),
        boxes_R4=torch.cat([corners_R2, corners_R2 + sides_R2], dim=1),
        crops_R3SS=_pixels(total, size, rng),
        texts_BL=_texts(images, encoder, rng),
        region_texts_RL=_texts(total, encoder, rng),
    )


def packed(step: Step) -> Batch:
    """Return the step as a batch of our loader."""
    texts, rows = _once(step.texts_BL)
    region_texts, region_rows = _once(step.region_texts_RL)
    owners = torch.repeat_interleave(torch.arange(len(step.regions)), torch.tensor(step.regions))
    return Batch(
        keys=tuple(map(str, range(len(step.regions)))),
        counts=Counts([len(step.regions)], [sum(step.regions)]),
        images=step.images_B3SS,
        texts=texts,
        text_rows=rows,
        boxes=step.boxes_R4,
        box_to_image=owners,
        region_texts=region_texts,
        region_text_rows=region_rows,
        crops=step.crops_R3SS,
        regions_per_image=step.regions,
    )


def padded(step: Step, *, slots: int = SLOTS) -> Padded:
    """Return the step as a batch of the official loader."""
    images, length = len(step.regions), step.texts_BL.shape[1]
    boxes_BK5 = torch.zeros(images, slots, 5)
    crops_BK3SS = torch.zeros(images, slots, *step.crops_R3SS.shape[1:])
    texts_BKL = torch.zeros(images, slots, length, dtype=torch.int64)
    first = 0
    for image, count in enumerate(step.regions):
        rows = slice(first, first + count)
        boxes_BK5[image, :count, :4], boxes_BK5[image, :count, 4] = step.boxes_R4[rows], 1
        crops_BK3SS[image, :count] = normalize_pixels(step.crops_R3SS[rows])
        texts_BKL[image, :count] = step.region_texts_RL[rows]
        first += count
    return Padded(normalize_pixels(step.images_B3SS), step.texts_BL, boxes_BK5, crops_BK3SS, texts_BKL)


def _pixels(count: int, size: int, rng: torch.Generator) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=rng, dtype=torch.uint8)


def _texts(count: int, encoder: RegionEncoder, rng: torch.Generator) -> Tensor:
    """Draw texts (N, L): start token, words, end token, zeros."""
    length, vocabulary = encoder.context_length, encoder.vocabulary_size
    start, end = (START, END) if vocabulary > END else (vocabulary - 2, vocabulary - 1)
    texts_NL = torch.zeros(count, length, dtype=torch.int64)
    for row in texts_NL:
        words = int(torch.randint(min(8, length - 2), min(17, length - 1), (1,), generator=rng))
        row[0], row[words + 1] = start, end
        row[1 : words + 1] = torch.randint(1, start, (words,), generator=rng)
    return texts_NL


def _once(texts_NL: Tensor) -> tuple[Tensor, Tensor]:
    texts, rows = torch.unique(trim_padding(texts_NL), dim=0, return_inverse=True)
    return texts, rows

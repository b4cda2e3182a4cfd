"""Reimplementation of the official loader: Pillow decoding, float pixels, 20 crop slots per image.

Source: FineCLIP, training/data.py `ProposalDistillDataset.__getitem__` and `det_image_transform`; the default collate of torch.

Legend: K slots, S side of a square in pixels, L tokens.
"""

import io
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate
from torchvision.transforms import Compose, InterpolationMode, Normalize, Resize, ToTensor

from benchmarks.inputs import SLOTS
from fineclip.boxes import clip, enlarge
from fineclip.models.images import MEAN, STD
from fineclip.types import Sample

ENLARGED = 1.5
SMALLEST, LARGEST = 8**2, 1024**2  # area of a box, in pixels
Tokenize = Callable[[Sequence[str]], Tensor]
Fields = tuple[Tensor, ...]


class OfficialLoader:
    """Make padded fields of samples, and batches of them."""

    def __init__(self, tokenize: Tokenize, *, size: int = 224, slots: int = SLOTS) -> None:
        self.tokenize, self.size, self.slots = tokenize, size, slots
        self.transform = Compose(
            [Resize((size, size), InterpolationMode.BILINEAR), _as_rgb, ToTensor(), Normalize(MEAN, STD)]
        )

    def item(self, sample: Sample, rng: np.random.Generator) -> Fields:
        """Return image, boxes, crops, text and region texts of a sample."""
        picture = Image.open(io.BytesIO(sample.image))
        image = self.transform(picture)
        boxes_K5 = torch.zeros(self.slots, 5)
        crops_K3SS = torch.zeros(self.slots, 3, self.size, self.size)
        texts_KL = torch.zeros(self.slots, 77, dtype=torch.int64)
        for slot, index in enumerate(rng.permutation(len(sample.regions))[: self.slots]):
            region = sample.regions[int(index)]
            box = region.box
            texts_KL[slot] = self.tokenize([region.caption or ""])[0]
            if not SMALLEST <= box.width * box.height <= LARGEST:
                continue
            around = clip(enlarge(box, ENLARGED), sample.width, sample.height)
            crops_K3SS[slot] = self.transform(picture.crop(around))
            x, y = self.size / sample.width, self.size / sample.height
            scaled = torch.tensor([box.x1 * x, box.y1 * y, box.x2 * x, box.y2 * y, 1.0])
            boxes_K5[slot] = scaled / torch.tensor([self.size, self.size, self.size, self.size, 1.0])
        caption = sample.captions[int(rng.integers(len(sample.captions)))]
        return image, boxes_K5, crops_K3SS, self.tokenize([caption]), texts_KL

    def batch(self, samples: Sequence[Sample], rng: np.random.Generator) -> Fields:
        """Collate samples with the default collate of torch."""
        return tuple(default_collate([self.item(sample, rng) for sample in samples]))


def _as_rgb(picture: Image.Image) -> Image.Image:
    return picture.convert("RGB")

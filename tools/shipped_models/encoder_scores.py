"""Validation of the encoder: classification of crops and of boxes, and retrieval.

Legend: I images, M things of all images, K class names, D embedding.
"""

import numpy as np
import torch
from open_clip.model import CLIP
from PIL import Image
from torch import Tensor

from fineclip.boxes import fractions
from fineclip.miniature.scenes import draw_scene
from fineclip.miniature.shapes import THINGS
from fineclip.miniature.wording import with_article
from fineclip.models.encoder import RegionEncoder
from fineclip.models.features import FeatureEncoder
from fineclip.models.images import normalize_pixels
from fineclip.models.tokenizer import Tokenizer
from fineclip.types import Box
from tools.shipped_models.encoder_files import CLOSE_UP_PX, IMAGE_PX
from tools.shipped_models.pictures import close_up, square_frame

BATCH_TEXTS = 100


class ValidationScenes:
    """The first `count` scenes of a seed, resized once."""

    def __init__(self, seed: int, count: int) -> None:
        self.scenes = [draw_scene(seed, index) for index in range(count)]
        images = [Image.fromarray(scene.pixels) for scene in self.scenes]
        unused = np.random.default_rng(0)
        self.pixels = normalized(np.stack([close_up(image, (0, 0, *image.size), IMAGE_PX) for image in images]))
        things = [(index, thing) for index, scene in enumerate(self.scenes) for thing in scene.things]
        crops = [close_up(images[index], square_frame(thing.box, unused), CLOSE_UP_PX) for index, thing in things]
        self.crops = normalized(np.stack(crops))
        self.boxes_M4 = torch.tensor([fractions(Box(*thing.box), *images[index].size) for index, thing in things])
        self.owners_M = torch.tensor([index for index, _ in things])
        self.labels_M = torch.tensor([THINGS.index(thing.label) for _, thing in things])


def normalized(pixels: np.ndarray) -> Tensor:
    """Normalize (B, H, W, 3) uint8 as open_clip does; (B, 3, H, W) float32."""
    return normalize_pixels(torch.from_numpy(pixels).permute(0, 3, 1, 2))


def encoder_scores(model: CLIP, tokenize: Tokenizer, validation: ValidationScenes) -> dict[str, float]:
    """Return percentages: class-mean top-1 of crops and boxes over twenty things, and R@1 of clean captions."""
    encoder = FeatureEncoder(RegionEncoder(model), tokenize, image_size=IMAGE_PX, batch_size=BATCH_TEXTS, device="cpu")
    names_KD = encoder.encode_text([f"a photo of {with_article(label)}" for label in THINGS])
    captions_ID = encoder.encode_text([scene.clean for scene in validation.scenes])
    similarity_II = encoder.encode_pixels(validation.pixels) @ captions_ID.T
    crops_MD = encoder.encode_pixels(validation.crops)
    regions_MD = encoder.encode_pixel_regions(validation.pixels, validation.boxes_M4, validation.owners_M)
    own_I = torch.arange(len(similarity_II))
    model.train()
    return {
        "crop_top1": _class_mean_top1(crops_MD @ names_KD.T, validation.labels_M),
        "dense_top1": _class_mean_top1(regions_MD @ names_KD.T, validation.labels_M),
        "image_to_text_R1": _percent(similarity_II.argmax(dim=1) == own_I),
        "text_to_image_R1": _percent(similarity_II.argmax(dim=0) == own_I),
    }


def _class_mean_top1(similarity_MK: Tensor, labels_M: Tensor) -> float:
    right_M = similarity_MK.argmax(dim=1) == labels_M
    return round(float(np.mean([_percent(right_M[labels_M == label]) for label in sorted(set(labels_M.tolist()))])), 1)


def _percent(right: Tensor) -> float:
    return round(100 * right.double().mean().item(), 1)

"""Validation of the encoder: classification of crops and of boxes, and retrieval.

Legend: I images, M things of all images, K class names, D embedding.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from PIL import Image
from torch import Tensor
from torchvision.ops import roi_align

from fineclip.miniature.scenes import draw_scene
from fineclip.miniature.shapes import THINGS
from fineclip.miniature.wording import with_article
from fineclip.miniature.world import Scene
from tools.shipped_models.fast_clip import encode_dense, encode_images, encode_texts
from tools.shipped_models.pictures import close_up, square_frame

Tokenize = Callable[[Sequence[str]], Tensor]

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP, open_clip's default
BATCH_IMAGES = 100


def normalize(pixels: np.ndarray) -> Tensor:
    """Normalize (B, H, W, 3) uint8 as open_clip does; (B, 3, H, W) float32."""
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


class ValidationScenes:
    """The first `count` scenes of a seed, resized once."""

    def __init__(self, seed: int, count: int, scene_px: int, close_up_px: int) -> None:
        self.scenes: list[Scene] = [draw_scene(seed, index) for index in range(count)]
        images = [Image.fromarray(scene.pixels) for scene in self.scenes]
        unused = np.random.default_rng(0)
        self.pixels = np.stack([close_up(image, (0, 0, *image.size), scene_px) for image in images])
        self.crops = np.stack(
            [
                close_up(image, square_frame(thing.box, unused), close_up_px)
                for image, scene in zip(images, self.scenes, strict=True)
                for thing in scene.things
            ]
        )
        labels = [THINGS.index(thing.label) for scene in self.scenes for thing in scene.things]
        self.labels_M = torch.tensor(labels)

    def boxes(self, grid: int) -> list[Tensor]:
        """Return the boxes of each scene in cells of a square grid."""
        return [
            torch.tensor([thing.box for thing in scene.things], dtype=torch.float32).view(-1, 4)
            / torch.tensor(scene.pixels.shape[1::-1] * 2)
            * grid
            for scene in self.scenes
        ]


@torch.no_grad()
def encoder_scores(model: CLIP, tokenize: Tokenize, validation: ValidationScenes) -> dict[str, float]:
    """Return percentages: class-mean top-1 of crops and boxes over twenty things, and R@1 of clean captions."""
    model.eval()
    names_KD = encode_texts(model, tokenize([f"a photo of {with_article(label)}" for label in THINGS]))
    captions_ID = encode_texts(model, tokenize([scene.clean for scene in validation.scenes]))
    images_ID = _in_batches(model, encode_images, validation.pixels)
    crops_MD = _in_batches(model, encode_images, validation.crops)
    dense_IDhw = _in_batches(model, encode_dense, validation.pixels)
    boxes = validation.boxes(dense_IDhw.shape[-1])
    regions_MD = F.normalize(roi_align(dense_IDhw, boxes, (1, 1), aligned=True).flatten(1), dim=-1)
    similarity_II = images_ID @ captions_ID.T
    own_I = torch.arange(len(similarity_II))
    model.train()
    return {
        "crop_top1": _class_mean_top1(crops_MD @ names_KD.T, validation.labels_M),
        "dense_top1": _class_mean_top1(regions_MD @ names_KD.T, validation.labels_M),
        "image_to_text_R1": _percent(similarity_II.argmax(dim=1) == own_I),
        "text_to_image_R1": _percent(similarity_II.argmax(dim=0) == own_I),
    }


def _in_batches(model: CLIP, encode: Callable[[CLIP, Tensor], Tensor], pixels: np.ndarray) -> Tensor:
    starts = range(0, len(pixels), BATCH_IMAGES)
    return torch.cat([encode(model, normalize(pixels[start : start + BATCH_IMAGES])) for start in starts])


def _class_mean_top1(similarity_MK: Tensor, labels_M: Tensor) -> float:
    right_M = similarity_MK.argmax(dim=1) == labels_M
    return round(float(np.mean([_percent(right_M[labels_M == label]) for label in sorted(set(labels_M.tolist()))])), 1)


def _percent(right: Tensor) -> float:
    return round(100 * right.double().mean().item(), 1)

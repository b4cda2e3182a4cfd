"""Captioners: a caption for each region. `blip2` captions crops, the template captions labels. This file does not import torch."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from PIL import Image

from fineclip.boxes import enlarge
from fineclip.config import Blip2Caption, TemplateCaption
from fineclip.shards.images import crop
from fineclip.types import Box, RegionCaption

T_contra = TypeVar("T_contra", contravariant=True)


class Captioner(Protocol[T_contra]):
    """Protocol of captioners. The caption of a region does not depend on the other regions."""

    def describe(self, regions: Sequence[T_contra]) -> list[RegionCaption]:
        """Return a caption for each region, in order."""


def region_crop(image: Image.Image, box: Box, config: Blip2Caption) -> Image.Image:
    """Crop a region for the captioner.

    Args:
        image: Image of the region.
        box: In pixels of the image.
        config: `square` extends the shorter side first, `context` enlarges both sides; the crop is clipped to the image.

    Returns:
        RGB crop; at least one pixel of the image.
    """
    if config.square:
        grow_x, grow_y = (max(box.width, box.height) - side for side in (box.width, box.height))
        box = Box(box.x1 - grow_x / 2, box.y1 - grow_y / 2, box.x2 + grow_x / 2, box.y2 + grow_y / 2)
    return crop(image, enlarge(box, config.context))


class TemplateCaptioner:
    """Fill the label into a template. The article of the template is kept, as in CLIP's prompts: `a photo of a apple`.

    Underscores become spaces, as in `alarm_clock` of LVIS. A region without a label gets an empty caption.

    Args:
        config: `template` with the placeholder `{label}`.
    """

    def __init__(self, config: TemplateCaption) -> None:
        self._template = config.template

    def describe(self, regions: Sequence[str]) -> list[RegionCaption]:
        """Return a caption for each label, in order."""
        sentences = (self._template.replace("{label}", label.replace("_", " ")) if label else "" for label in regions)
        return [RegionCaption(sentence, None) for sentence in sentences]

"""Captioners: what is known of regions in, a caption for each out. `blip2` looks at crops, the template at labels.

Nothing here imports torch.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from PIL import Image

from fineclip.boxes import enlarge
from fineclip.config import Blip2Caption, TemplateCaption
from fineclip.shards.images import crop
from fineclip.types import Box, RegionCaption

T_contra = TypeVar("T_contra", contravariant=True)


class Captioner(Protocol[T_contra]):
    """Writes captions. What it writes of a region does not depend on the regions beside it."""

    def describe(self, regions: Sequence[T_contra]) -> list[RegionCaption]:
        """A caption for each, in order."""


def region_view(image: Image.Image, box: Box, config: Blip2Caption) -> Image.Image:
    """What the captioner sees of a region: its box, made square and enlarged as the configuration says, cut at the edges."""
    if config.square:
        grow_x, grow_y = (max(box.width, box.height) - side for side in (box.width, box.height))
        box = Box(box.x1 - grow_x / 2, box.y1 - grow_y / 2, box.x2 + grow_x / 2, box.y2 + grow_y / 2)
    return crop(image, enlarge(box, config.context))


class TemplateCaptioner:
    """A sentence around the label. Its article is the template's, as in CLIP's prompts: `a photo of a apple`.

    Underscores are blanks, as in LVIS' `alarm_clock`; of a region without a label nothing is said.
    """

    def __init__(self, config: TemplateCaption) -> None:
        self._template = config.template

    def describe(self, regions: Sequence[str]) -> list[RegionCaption]:
        """A caption for each label, in order."""
        sentences = (self._template.replace("{label}", label.replace("_", " ")) if label else "" for label in regions)
        return [RegionCaption(sentence, None) for sentence in sentences]

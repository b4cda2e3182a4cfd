"""Captioners: what is known of regions in, a caption for each out. `blip2` looks at crops, the template at labels."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

from fineclip.config import TemplateCaption

T_contra = TypeVar("T_contra", contravariant=True)


class RegionCaption(NamedTuple):
    """Words on one region. `logprob` is the mean of a token, None where no model wrote them; the caption may be empty."""

    caption: str
    logprob: float | None


class Captioner(Protocol[T_contra]):
    """Writes captions. What it writes of a region does not depend on the regions beside it."""

    def describe(self, regions: Sequence[T_contra]) -> list[RegionCaption]:
        """A caption for each, in order."""


class TemplateCaptioner:
    """A sentence around the label. Its article is the template's, as in CLIP's prompts: `a photo of a apple`."""

    def __init__(self, config: TemplateCaption) -> None:
        self._template = config.template

    def describe(self, regions: Sequence[str]) -> list[RegionCaption]:
        """A caption for each label, in order."""
        return [RegionCaption(self._template.replace("{label}", label), None) for label in regions]

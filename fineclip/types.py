"""The types that flow through the package. Nothing here imports torch at run time.

Legend: B images of this process, R regions of this process (packed, never padded), V views, L tokens of the longest text,
H W image pixels, h w crop pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Box(NamedTuple):
    """A rectangle with half-open edges, in pixels of the stored image unless stated otherwise. See `fineclip.boxes`."""

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def width(self) -> float:
        """Width; not positive for an empty box."""
        return self.x2 - self.x1

    @property
    def height(self) -> float:
        """Height; not positive for an empty box."""
        return self.y2 - self.y1


class LabeledBox(NamedTuple):
    """A box of a data set with the name of its class."""

    box: Box
    label: str


@dataclass(frozen=True, slots=True)
class Region:
    """A box of an image with its score in [0, 1], the name of its class, and its caption if it has one."""

    box: Box
    score: float
    label: str
    caption: str | None = None


class RegionCaption(NamedTuple):
    """Output of a captioner for one region: the caption, and the mean log probability of its tokens, None if it has none."""

    caption: str | None
    logprob: float | None


@dataclass(frozen=True, slots=True)
class Sample:
    """A training sample: encoded image, its captions (training draws one per epoch) and its regions."""

    key: str
    image: bytes
    width: int
    height: int
    captions: tuple[str, ...]
    url: str | None = None
    regions: tuple[Region, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image before the filter: size from its header, captions, and hash. Width 0 stands for an unreadable header."""

    key: str
    width: int
    height: int
    captions: tuple[str, ...]
    sha256: str


class Counts(NamedTuple):
    """Rows of every process, in rank order; host integers, exchanged once a step."""

    images: Sequence[int]
    regions: Sequence[int]


@dataclass(slots=True)
class Batch:
    """What one process sees of one step. A field that the method does not ask for is None.

    images (B, 3, H, W) 8-bit pixels, or normalised floats, as crops and views; texts (B, L) int64; boxes (R, 4) fractions of the transformed image,
    x1 y1 x2 y2; box_to_image (R,) int64, ascending; region_texts (R, L); region_labels (R,); crops (R, 3, h, w);
    views (V, B, 3, H, W). texts and region_texts may be (., D) embeddings, made beforehand, and may hold each text once:
    text_rows (B,) and region_text_rows (R,) int64 then say which is whose; None: row i is of image or region i. `seed` is a function of (seed, step), the same on every process: what is drawn for the whole
    batch comes from it. `first_image` is the place of the first among the images of this process, in a part of a batch.
    `regions_per_image` says what box_to_image does, where the host knows it without asking a device.
    """

    keys: tuple[str, ...]
    counts: Counts
    images: Tensor | None = None
    texts: Tensor | None = None
    boxes: Tensor | None = None
    box_to_image: Tensor | None = None
    region_texts: Tensor | None = None
    text_rows: Tensor | None = None
    region_text_rows: Tensor | None = None
    region_labels: Tensor | None = None
    crops: Tensor | None = None
    views: Tensor | None = None
    seed: int = 0
    first_image: int = 0
    regions_per_image: tuple[int, ...] | None = None


class Losses(NamedTuple):
    """The value to go down and its parts. A NamedTuple because DDP looks into tuples and not into dataclasses.

    Both are scaled as `losses/contrastive.py` says: averaged over processes they are the full-batch values.
    """

    total: Tensor
    terms: dict[str, Tensor]

    @classmethod
    def weighted(cls, terms: Mapping[str, Tensor], *, weights: Mapping[str, float]) -> Losses:
        """Sum of `weights[name] * terms[name]`; the terms are kept unweighted and detached.

        A term of weight 0 is left out of the sum, so that its parameters keep no gradient at all.
        """
        total = sum((weights[name] * term for name, term in terms.items() if weights[name] != 0), start=0.0)
        return cls(total=total, terms={name: term.detach() for name, term in terms.items()})  # type: ignore[arg-type]

    def plus(self, other: Losses) -> Losses:
        """The sum; a term that both have is summed too."""
        terms = dict(self.terms)
        for name, term in other.terms.items():
            terms[name] = terms[name] + term if name in terms else term
        return Losses(self.total + other.total, terms)

    def detached(self) -> Losses:
        """The same values without their graph."""
        return Losses(self.total.detach(), dict(self.terms))


class Score(NamedTuple):
    """One number of a benchmark: `value` in percent over `n` cases."""

    metric: str
    value: float
    n: int

"""Types that several packages share. torch is imported for type checking only.

Legend: B images of this rank, R regions of this rank (concatenated, without padding), N texts, L tokens of the longest
text, D embedding width, H W image pixels, h w crop pixels.
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
    """An image before the filter: size from its header, captions, and hash. Width 0 means that the header is unreadable."""

    key: str
    width: int
    height: int
    captions: tuple[str, ...]
    sha256: str


class Counts(NamedTuple):
    """Rows of every rank, in rank order; host integers, exchanged once per step."""

    images: Sequence[int]
    regions: Sequence[int]


@dataclass(slots=True)
class Batch:
    """Inputs of one step on one rank, on its device. A field that the method does not use is None.

    Attributes:
        keys: Keys of the B images.
        counts: Rows of all ranks.
        images: (B, 3, H, W) uint8 pixels or normalized floats.
        texts: (N, L) int64 tokens, or (N, D) embeddings computed beforehand; equal texts may be stored once.
        boxes: (R, 4) float32, x1 y1 x2 y2 as fractions of the transformed image.
        box_to_image: (R,) int64, ascending; index of the image of each region.
        region_texts: As `texts`, of regions.
        text_rows: (B,) int64, row of `texts` of each image; None: row i belongs to image i.
        region_text_rows: (R,) int64, row of `region_texts` of each region; None: row i belongs to region i.
        region_labels: (R,) int64.
        crops: (R, 3, h, w) uint8 pixels or normalized floats.
        seed: Function of (run seed, step), equal on all ranks; for random draws that concern the global batch.
        first_image: Index of the first image within the rank, if this is a micro-batch.
        regions_per_image: Number of regions of each image on the host, if known without a device synchronization.
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
    seed: int = 0
    first_image: int = 0
    regions_per_image: tuple[int, ...] | None = None


class Losses(NamedTuple):
    """Total loss and its terms. A NamedTuple, because DDP finds tensors in tuples but not in dataclasses.

    Both are scaled as `losses/contrastive.py` describes: their means over ranks are the full-batch values.
    """

    total: Tensor
    terms: dict[str, Tensor]

    @classmethod
    def weighted(cls, terms: Mapping[str, Tensor], *, weights: Mapping[str, float]) -> Losses:
        """Return the sum of `weights[name] * terms[name]`, with the terms unweighted and detached.

        A term of weight 0 is left out of the sum, so that the gradients of its parameters stay None.

        Args:
            terms: Scalars with a graph.
            weights: Weight of each term, at least 0.

        Returns:
            Total with a graph, and detached terms.
        """
        total = sum((weights[name] * term for name, term in terms.items() if weights[name] != 0), start=0.0)
        return cls(total=total, terms={name: term.detach() for name, term in terms.items()})  # type: ignore[arg-type]

    def plus(self, other: Losses) -> Losses:
        """Return the sum of both; terms with the same name are added."""
        terms = dict(self.terms)
        for name, term in other.terms.items():
            terms[name] = terms[name] + term if name in terms else term
        return Losses(self.total + other.total, terms)

    def detached(self) -> Losses:
        """Return the same values without a graph."""
        return Losses(self.total.detach(), dict(self.terms))


class Score(NamedTuple):
    """One number of a benchmark: `value` in percent over `n` cases."""

    metric: str
    value: float
    n: int

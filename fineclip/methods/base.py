"""What every method is: an encoder, what it compares, and how far off that is.

`prepare` runs in the loader's workers and is handed to them without the weights. `features` encodes the rows of this
process, `loss` does all the communication, `forward` is both: it is what DistributedDataParallel wraps, so gradients are
averaged over processes by construction.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar, cast

import torch
from torch import Tensor, nn

from fineclip.config import MethodConfig
from fineclip.methods.chunks import Chunks, accumulated
from fineclip.methods.items import Group, Inputs, Prepare
from fineclip.models.encoder import RegionEncoder
from fineclip.types import Batch, Counts, Losses

Features = TypeVar("Features")
LARGEST_LOGIT_SCALE = math.log(100)
UNDECAYED = ("bn", "ln", "bias", "logit_scale")


class ParameterGroup(NamedTuple):
    """Parameters that the optimiser treats alike."""

    parameters: list[nn.Parameter]
    decays: bool


class Passes(NamedTuple):
    """What a method encodes, for whoever has to know what it keeps.

    Attributes:
        image_px: side of the squares that the encoder sees.
        images: images of the batch that lie on one of them.
        crop_px: side of the crops, None without.
        keeps_crops: whether there is a gradient through them.
    """

    image_px: int
    images: int = 1
    crop_px: int | None = None
    keeps_crops: bool = False


class Method(nn.Module, ABC, Generic[Features]):
    """An objective on a `RegionEncoder`, with its section of the configuration as `options`.

    The text tower is frozen unless `options.train_text`; of the vision tower all trains, or `options.trained_blocks`.

    Attributes:
        encoder: what learns.
        initial: a frozen copy of it as it was at first, where the method compares with it or publishes a mixture; else None.
        chunks: how many rows are encoded at a time; all, until somebody says otherwise. It changes no result.
        compares_rows: whether the loss of a row depends on other rows; if not, parts of a batch need nothing of each other.
    """

    version: ClassVar[int]
    section: ClassVar[type[MethodConfig]]
    compares_with_initial: ClassVar[bool] = False
    compares_rows: bool = True

    def __init__(self, encoder: RegionEncoder, options: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.options = options
        self.chunks = Chunks()
        keeps_initial = self.compares_with_initial or options.alpha < 1
        self.initial = frozen_copy(encoder) if keeps_initial else None
        freeze(encoder, options)
        self.train()

    @classmethod
    def build(cls, encoder: RegionEncoder, options: Any, inputs: Inputs) -> Self:  # noqa: ARG003
        """The method on an encoder; `inputs` are for those that need texts or concepts beforehand."""
        return cls(encoder, options)

    @classmethod
    @abstractmethod
    def preparation(cls, inputs: Inputs, options: Any, *, max_regions: int) -> Prepare:
        """A picklable `prepare(sample, rng) -> Item`, pure: all that is drawn comes from `rng`."""

    def groups(self, images: int, inputs: Inputs) -> Sequence[Group]:  # noqa: ARG002
        """Which of the images of a step one process must see together, in their order: each may lie on any process.

        Called before training, with the images of a step over all processes.

        Raises:
            ConfigError: the method has no use for a step of so few.
        """
        return [Group(images=1, cost=1)] * images

    def passes(self, inputs: Inputs) -> Passes:
        """What is encoded at which size."""
        return Passes(inputs.image_size)

    @abstractmethod
    def features(self, batch: Batch) -> Features:
        """Encode the rows of this process. No communication."""

    @abstractmethod
    def loss(self, rows: Features, counts: Counts) -> Losses:
        """Compare the rows of all processes. All communication, float32 under autocast too."""

    def forward(self, batch: Batch) -> Losses:
        """The loss of a batch. `batch.counts` holds the rows of every process."""
        if self.chunks.images is not None and max(batch.counts.images) > self.chunks.images:
            return accumulated(self, batch)
        rows = self.features(batch)
        losses, own = self.loss(rows, batch.counts), self.own_terms(rows, batch)
        return losses.plus(own) if own.terms else losses

    def own_terms(self, rows: Features, batch: Batch) -> Losses:  # noqa: ARG002
        """What `loss` leaves out because no row is compared with another one, and chunks are gone back through at once."""
        return Losses(torch.zeros((), device=given(batch.images).device), {})

    def parts(self, batch: Batch, images: int) -> list[Batch]:
        """The batch of this process in pieces of at most so many images with their regions; `counts` stay those of all."""
        edges = self.cuts(batch, images)
        pieces = zip(pairwise(edges), pairwise(region_edges(batch, edges)), strict=True)
        return [part_of(batch, slice(*own), slice(*regions)) for own, regions in pieces] or [batch]

    def cuts(self, batch: Batch, images: int) -> list[int]:
        """Where `parts` cuts: 0, then after which images, up to all."""
        return [*range(0, len(batch.keys), images), len(batch.keys)]

    def with_embedded_texts(self, batch: Batch) -> Batch:
        """The batch with embeddings in place of its texts, a row for each image and each region."""
        with torch.no_grad():
            texts = None if batch.texts is None else self.encode_captions(batch)
            region_texts = None if batch.region_texts is None else self.encode_region_captions(batch)
        return replace(batch, texts=texts, text_rows=None, region_texts=region_texts, region_text_rows=None)

    def encode_captions(self, batch: Batch) -> Tensor:
        """(B, D), of the images' texts."""
        return self._encode_texts(given(batch.texts), batch.text_rows)

    def encode_region_captions(self, batch: Batch) -> Tensor:
        """(R, D), of the regions' texts."""
        return self._encode_texts(given(batch.region_texts), batch.region_text_rows)

    def _encode_texts(self, texts: Tensor, rows_N: Tensor | None) -> Tensor:
        """(N, D), without a graph while the text tower is frozen; a text that several rows share is encoded once."""
        if texts.is_floating_point():
            features = texts
        else:
            with nullcontext() if self.options.train_text else torch.no_grad():
                features = self.encoder.encode_text(texts)
        return features if rows_N is None else features[rows_N]

    def parameter_groups(self) -> list[ParameterGroup]:
        """Trainable parameters: those that decay, those that do not.

        Source: open_clip and FineCLIP `training/main.py`: no decay below two dimensions, nor where the name says norm, bias
        or logit scale. So class token and position embedding, which have three in EVA, decay.
        """
        groups = {True: ParameterGroup([], decays=True), False: ParameterGroup([], decays=False)}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                decays = parameter.ndim >= 2 and not any(part in name for part in UNDECAYED)
                groups[decays].parameters.append(parameter)
        return [group for group in groups.values() if group.parameters]

    @torch.no_grad()
    def after_step(self, step: int, of: int) -> None:  # noqa: ARG002 (schedules of other methods need both)
        """After the optimiser's step number `step` (from 0) of `of`: keep the inverse temperature in [1, 100]."""
        self.encoder.logit_scale.clamp_(0, LARGEST_LOGIT_SCALE)

    def export_encoder(self) -> RegionEncoder:
        """What is published: the encoder, or its mixture with the initial one; training goes on from neither."""
        if self.initial is None or self.options.alpha == 1:
            return self.encoder
        return mixture(self.encoder, self.initial, alpha=self.options.alpha)

    def train(self, mode: bool = True) -> Self:
        """As of any module; what does not learn stays in evaluation mode."""
        super().train(mode)
        for module in self.modules() if mode else ():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
        return self


def freeze(encoder: RegionEncoder, options: MethodConfig) -> None:
    """Let only that learn which the options name, and the logit scale.

    Source: EVA-CLIP `lock` as CLIPSelf calls it, and CLIM's for OpenAI's towers: of a tower of which the last blocks train,
    stem, positions, class token, final norm and projection do not. There 0 blocks unlock every block of an EVA tower;
    here there is no such number.
    """
    for _, parameter in () if options.train_text else encoder.text_parameters():
        parameter.requires_grad_(False)
    if options.trained_blocks is None:
        return
    for _, parameter in encoder.vision_parameters():
        parameter.requires_grad_(False)
    for block in encoder.trunk.blocks[-options.trained_blocks :]:
        block.requires_grad_(True)


def frozen_copy(encoder: RegionEncoder) -> RegionEncoder:
    """The same weights, which stay as they are."""
    return copy.deepcopy(encoder).requires_grad_(False).eval()


@torch.no_grad()
def mixture(trained: RegionEncoder, initial: RegionEncoder, *, alpha: float) -> RegionEncoder:
    """`alpha` of the trained weights and the rest of the initial ones, in float32; neither is changed.

    Source: Wortsman et al. 2022 (WiSE-FT); CLIPSelf, training/main.py `student_teacher_ensemble`.
    """
    mixed = frozen_copy(trained)
    weights, others = mixed.state_dict(), initial.state_dict()
    for name, value in weights.items():
        if value.is_floating_point():
            value.copy_(alpha * value.float() + (1 - alpha) * others[name].float())
    return mixed


def region_edges(batch: Batch, edges: Sequence[int]) -> list[int]:
    """Before which region each of these images begins. A look at the device where the host does not know."""
    owner_R, counts = batch.box_to_image, batch.regions_per_image
    if owner_R is None:
        return [0] * len(edges)
    if counts is not None:
        begins = [0, *accumulate(counts)]
        return [begins[edge] for edge in edges]
    return cast("list[int]", torch.searchsorted(owner_R, torch.tensor(edges, device=owner_R.device)).tolist())


def part_of(batch: Batch, rows: slice, own: slice) -> Batch:
    """Consecutive images of a process's batch with their regions; `counts` and `seed` stay those of the step."""
    return replace(
        batch,
        keys=batch.keys[rows],
        images=_cut(batch.images, rows),
        texts=batch.texts if batch.text_rows is not None else _cut(batch.texts, rows),
        text_rows=_cut(batch.text_rows, rows),
        boxes=_cut(batch.boxes, own),
        box_to_image=None if batch.box_to_image is None else batch.box_to_image[own] - rows.start,
        region_texts=batch.region_texts if batch.region_text_rows is not None else _cut(batch.region_texts, own),
        region_text_rows=_cut(batch.region_text_rows, own),
        region_labels=_cut(batch.region_labels, own),
        crops=_cut(batch.crops, own),
        views=None if batch.views is None else batch.views[:, rows],
        first_image=batch.first_image + rows.start,
        regions_per_image=None if batch.regions_per_image is None else batch.regions_per_image[rows],
    )


def _cut(field: Tensor | None, rows: slice) -> Tensor | None:
    return None if field is None else field[rows]


def given(field: Tensor | None) -> Tensor:
    """A field of the batch that `prepare` must have filled."""
    if field is None:
        raise AssertionError("the method needs a field of the batch that its `prepare` leaves empty")
    return field

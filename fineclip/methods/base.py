"""What every method is: an encoder, what it compares, and how far off that is.

`prepare` runs in the loader's workers and is handed to them without the weights. `features` encodes the rows of this
process, `loss` does all the communication, `forward` is both: it is what DistributedDataParallel wraps, so gradients are
averaged over processes by construction.
"""

import math
from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import torch
from torch import Tensor, nn

from fineclip.config import Section
from fineclip.methods.items import Inputs, Prepare
from fineclip.models.encoder import RegionEncoder
from fineclip.types import Batch, Counts, Losses

Features = TypeVar("Features")
LARGEST_LOGIT_SCALE = math.log(100)
UNDECAYED = ("bn", "ln", "bias", "logit_scale")


class ParameterGroup(NamedTuple):
    """Parameters that the optimiser treats alike."""

    parameters: list[nn.Parameter]
    decays: bool


class Method(nn.Module, ABC, Generic[Features]):
    """An objective on a `RegionEncoder`, with its section of the configuration as `options`.

    The text tower is frozen unless a subclass says `train_text`.
    """

    version: ClassVar[int]
    section: ClassVar[type[Section]]

    def __init__(self, encoder: RegionEncoder, options: Any, *, train_text: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.options = options
        self.train_text = train_text
        for _, parameter in () if train_text else encoder.text_parameters():
            parameter.requires_grad_(False)
        self.train()

    @classmethod
    @abstractmethod
    def preparation(cls, inputs: Inputs, options: Any, *, max_regions: int) -> Prepare:
        """A picklable `prepare(sample, rng) -> Item`, pure: all that is drawn comes from `rng`."""

    @abstractmethod
    def features(self, batch: Batch) -> Features:
        """Encode the rows of this process. No communication."""

    @abstractmethod
    def loss(self, rows: Features, counts: Counts) -> Losses:
        """Compare the rows of all processes. All communication, float32 under autocast too."""

    def forward(self, batch: Batch) -> Losses:
        """The loss of a batch. `batch.counts` holds the rows of every process."""
        return self.loss(self.features(batch), batch.counts)

    def encode_text(self, tokens_NL: Tensor) -> Tensor:
        """(N, D), without a graph while the text tower is frozen."""
        with nullcontext() if self.train_text else torch.no_grad():
            return self.encoder.encode_text(tokens_NL)

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
        """What is published."""
        return self.encoder

    def train(self, mode: bool = True) -> Self:
        """As of any module; towers that do not learn stay in evaluation mode."""
        super().train(mode)
        for module in self.encoder.modules() if mode else ():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
        return self


def given(field: Tensor | None) -> Tensor:
    """A field of the batch that `prepare` must have filled."""
    if field is None:
        raise AssertionError("the method needs a field of the batch that its `prepare` leaves empty")
    return field

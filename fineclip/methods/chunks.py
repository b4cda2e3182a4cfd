"""The same loss in less memory: crops a few at a time, images a few at a time.

Legend: R regions of this process, D embedding width, P trainable parameters.

Crops. What is lost on region j looks at its own crop only. So a chunk of crops is encoded, compared, gone back through and
forgotten before the next: one pass, no arithmetic twice. The gradient with respect to the regions' features is kept and
handed on when the whole loss is gone back through.

Images. A contrast looks at all rows at once. So all are encoded without a graph first, the loss and its gradient with
respect to every row are taken, and a few images at a time are encoded again, each row pulled by its gradient (Gao et al.
2021, GradCache): the images' forward pass is made twice, the crops' and the frozen texts' once.

Both hand the gradients that they have made to autograd as those of an ordinary function (`precomputed`), so an outer factor,
other terms and DistributedDataParallel treat them as what they are. They cost one more copy of the gradients each. The
factor that keeps half precision from vanishing must be there when they are made: `Chunks.loss_scale`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from fineclip.methods.distillation import distillation_loss
from fineclip.types import Batch, Losses

if TYPE_CHECKING:
    from fineclip.methods.base import Method

Encode = Callable[[Tensor], Tensor]
Gradients = dict[Tensor, Tensor]  # of parameters


@dataclass
class Chunks:
    """How many rows of this process are encoded at a time; None: all.

    Attributes:
        crops: at most so many crops at a time.
        images: at most so many images at a time, with their regions.
        are_padded: whether every chunk of crops is filled up with black ones, so that a compiled encoder sees one shape.
        loss_scale: what the loss will be multiplied by before it is gone back through.
    """

    crops: int | None = None
    images: int | None = None
    are_padded: bool = False
    loss_scale: Tensor | float = 1.0

    @property
    def apart(self) -> bool:
        """Whether crops are gone back through by themselves."""
        return self.crops is not None or self.images is not None

    def of(self, rows: Tensor) -> Sequence[Tensor]:
        """Crops, or what there is of each, in chunks."""
        return torch.split(rows, self.crops or len(rows)) if len(rows) else ()

    def encoded(self, encode: Encode, crops: Tensor) -> Tensor:
        """What `encode` makes of one chunk."""
        missing = (self.crops or 0) - len(crops) if self.are_padded else 0
        return encode(pad(crops, (0, 0) * (crops.ndim - 1) + (0, missing)))[: len(crops)] if missing else encode(crops)


def encoded_in_chunks(encode: Encode, crops: Tensor, chunks: Chunks) -> Tensor:
    """(R, D): `encode(crops)` without a graph, so that a chunk is forgotten as soon as it is encoded."""
    with torch.no_grad():
        rows = [chunks.encoded(encode, chunk) for chunk in chunks.of(crops)]
        return torch.cat(rows) if rows else encode(crops)


def distilled_in_chunks(
    encode: Encode,
    region_RD: Tensor,
    crops: Tensor,
    *,
    counts: Sequence[int],
    chunks: Chunks,
    parameters: Sequence[nn.Parameter],
) -> Tensor:
    """`distillation_loss(region_RD, encode(crops), counts=counts)`, its gradient made chunk by chunk.

    Args:
        encode: crops to (., D), of the parameters given.
        region_RD: one row for each crop; may carry gradient.
        crops: (R, 3, s, s).
        counts: regions of each process, in rank order.
        chunks: how many at a time, and the factor that the loss will have.
        parameters: those that may get a gradient.

    Returns:
        A scalar, 0 of no region.
    """
    total, pulls, gradients = region_RD.new_zeros(()), [], Gradients()
    for rows, chunk in zip(chunks.of(region_RD.detach()), chunks.of(crops), strict=True):
        with torch.enable_grad():
            leaf_RD = rows.requires_grad_()
            loss = distillation_loss(leaf_RD, chunks.encoded(encode, chunk), counts=counts)
        (pull_RD,) = gone_back([loss], [chunks.loss_scale], [leaf_RD], parameters, into=gradients)
        pulls.append(rows.new_zeros(rows.shape) if pull_RD is None else pull_RD)
        total += loss.detach()
    if not pulls:
        return region_RD.sum() * 0
    return precomputed(total, {region_RD: torch.cat(pulls)} | gradients, scale=chunks.loss_scale)


def accumulated(method: "Method[Any]", batch: Batch) -> Losses:
    """`method(batch)`, a few images at a time; collectives are those of one `loss`, on every process alike."""
    chunks, parameters = method.chunks, [each for each in method.parameters() if each.requires_grad]
    parts = method.parts(_with_texts(method, batch), chunks.images or 1)
    gradients = Gradients()
    if method.compares_rows:
        losses, pulls = _compared(method, parts, batch, into=gradients)
    else:
        losses, pulls = None, [None] * len(parts)
    for part, pull in zip(parts, pulls, strict=True):
        with torch.enable_grad():
            rows = method.features(part)
            own = method.own_terms(rows, part)
            own = own if pull is not None else method.loss(rows, batch.counts).plus(own)
        outputs, factors = ([own.total], [chunks.loss_scale]) if own.total.requires_grad else ([], [])
        for name, gradient in (pull or {}).items():
            outputs.append(getattr(rows, name))
            factors.append(gradient)
        gone_back(outputs, factors, [], parameters, into=gradients)
        losses = own.detached() if losses is None else losses.plus(own.detached())
    if losses is None:
        raise AssertionError("a batch has at least one part, though it may be empty")
    return Losses(precomputed(losses.total, gradients, scale=chunks.loss_scale), losses.terms)


def _compared(
    method: "Method[Any]", parts: Sequence[Batch], batch: Batch, *, into: Gradients
) -> tuple[Losses, list[dict[str, Tensor] | None]]:
    """The loss of all rows, and for each part the gradients with respect to its rows, by the names of their fields."""
    with torch.no_grad():
        rows = [cast("NamedTuple", method.features(part)) for part in parts]
    torch.clear_autocast_cache()  # weights that were cast without a graph would be taken for those with one
    whole, leaves = _joined(rows)
    with torch.enable_grad():
        losses = method.loss(whole, batch.counts)
    names = list(leaves)
    others = [each for each in method.parameters() if each.requires_grad]
    found = gone_back([losses.total], [method.chunks.loss_scale], [leaves[name] for name in names], others, into=into)
    pulls: list[dict[str, Tensor] | None] = [{} for _ in parts]
    for name, gradient in zip(names, found, strict=True):
        if gradient is None:
            continue
        sizes = [len(getattr(each, name)) for each in rows]
        for pull, piece in zip(pulls, torch.split(gradient, sizes), strict=True):
            cast("dict[str, Tensor]", pull)[name] = piece
    return losses.detached(), pulls


def _joined(rows: Sequence[NamedTuple]) -> tuple[Any, dict[str, Tensor]]:
    """The rows of all parts as one, and those fields of it that a gradient may flow to."""
    fields: dict[str, Any] = {}
    leaves: dict[str, Tensor] = {}
    for name, *values in zip(rows[0]._fields, *rows, strict=True):
        fields[name] = values[0]
        if isinstance(values[0], Tensor):
            fields[name] = torch.cat(values)
            if fields[name].is_floating_point():
                leaves[name] = fields[name] = fields[name].requires_grad_()
    return rows[0]._replace(**fields), leaves


def _with_texts(method: "Method[Any]", batch: Batch) -> Batch:
    """The batch with its texts embedded, once, where their tower is frozen."""
    return batch if method.options.train_text else method.with_embedded_texts(batch)


def gone_back(
    outputs: Sequence[Tensor],
    factors: Sequence[Tensor | float],
    inputs: Sequence[Tensor],
    parameters: Sequence[nn.Parameter],
    *,
    into: Gradients,
) -> list[Tensor | None]:
    """Gradients with respect to `inputs`; those of the parameters are added to `into`. What takes no part has none.

    Outside of autocast, which would round the products of a loss that was computed without.
    """
    pairs = [(output, factor) for output, factor in zip(outputs, factors, strict=True) if output.requires_grad]
    if not pairs:
        return [None] * len(inputs)
    tangents = [
        factor if isinstance(factor, Tensor) and factor.shape == output.shape else torch.ones_like(output) * factor
        for output, factor in pairs
    ]
    device = pairs[0][0].device.type
    with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
        found = torch.autograd.grad(
            [output for output, _ in pairs], [*inputs, *parameters], tangents, allow_unused=True
        )
    for parameter, gradient in zip(parameters, found[len(inputs) :], strict=True):
        if gradient is not None:
            into[parameter] = into[parameter].add_(gradient) if parameter in into else gradient.clone()
    return list(found[: len(inputs)])


def precomputed(value: Tensor, gradients: Mapping[Tensor, Tensor], *, scale: Tensor | float) -> Tensor:
    """`value`, a scalar, whose gradient with respect to each key of `gradients` is the tensor there over `scale`.

    Only what is differentiable takes part; without any, the value stands alone.
    """
    wanted = [key for key in gradients if key.requires_grad]
    if not wanted or not torch.is_grad_enabled():
        return value
    return cast("Tensor", _Precomputed.apply(value, scale, len(wanted), *[gradients[key] for key in wanted], *wanted))


class _Precomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, scale: Tensor | float, count: int, *tensors: Tensor) -> Tensor:
        ctx.scale, ctx.gradients = scale, tensors[:count]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        factor = outer[0] / ctx.scale
        own = [gradient * factor.to(gradient.dtype) for gradient in ctx.gradients]
        ctx.gradients = ()
        return (None, None, None, *[None] * len(own), *own)

"""Micro-batches: the same loss and gradients in less memory. `GradCache` wraps a method, and DDP wraps `GradCache`.

Legend: R regions on this rank, D embedding width.

Crops: the loss of a region depends only on its own crop, so each micro-batch of crops is encoded, back-propagated and freed
before the next. No arithmetic is repeated. The gradient of the regions' features is kept for the backward pass of the
whole loss.

Images: GradCache (Gao et al. 2021). All images are encoded without a graph, the loss and its gradient with respect to all
features are computed, and each micro-batch is encoded again with a graph and back-propagated from these gradients. The
forward pass of images runs twice, that of crops and frozen texts once.

In both cases gradients of parameters are computed during the forward pass and passed to autograd as those of one function
(`with_gradients`), so that outer factors, other terms and DDP work as usual. Each costs one more copy of the gradients. The
factor of the loss that protects fp16 gradients from underflow must be applied when they are computed: it is taken from the
`GradScaler`.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.functional import pad

from fineclip.methods.base import Method, require
from fineclip.types import Batch, Losses

Gradients = dict[Tensor, Tensor]  # of parameters


@dataclass(frozen=True)
class MicroBatchSizes:
    """Rows that a rank encodes at a time.

    Attributes:
        crops: Maximum number of crops; None: all.
        images: Maximum number of images with their regions; None: all.
        pad_crops: Whether the last micro-batch of crops is padded with zeros, so that a compiled encoder has one input shape.
    """

    crops: int | None = None
    images: int | None = None
    pad_crops: bool = False

    @property
    def splits(self) -> bool:
        """Whether the batch is split into micro-batches."""
        return self.crops is not None or self.images is not None


class GradCache(nn.Module):
    """Compute the loss of a method in micro-batches.

    Args:
        method: The method; its parameters are those of this module.
        sizes: Sizes of micro-batches.
        scaler: Scaler of the loss; None: the loss is not scaled.
    """

    def __init__(
        self, method: Method[Any], sizes: MicroBatchSizes | None = None, scaler: GradScaler | None = None
    ) -> None:
        super().__init__()
        self.method, self.sizes, self.scaler = method, sizes or MicroBatchSizes(), scaler

    def forward(self, batch: Batch) -> Losses:
        """Return the loss of a batch.

        Args:
            batch: Rows of this rank; `batch.counts` has those of all ranks.

        Returns:
            Total and detached terms. Their mean over ranks is the full-batch loss.
        """
        if self.sizes.images is not None and max(batch.counts.images) > self.sizes.images:
            return self._accumulate(batch)
        features = self.method.encode(batch)
        crop_RD = None if self._splits_crops else self._encode_crops(batch)
        losses = self.method.batch_loss(features, batch.counts)
        return _sum(losses, self._region_loss(features, crop_RD, batch))

    @property
    def _splits_crops(self) -> bool:
        """Whether crops are back-propagated in micro-batches."""
        return self.method.crops == "trained" and self.sizes.splits

    @property
    def _loss_scale(self) -> Tensor | float:
        if self.scaler is None or not self.scaler.is_enabled():
            return 1.0
        return self.scaler.scale(torch.ones((), device=next(self.method.parameters()).device))

    @property
    def _trained(self) -> list[nn.Parameter]:
        return [each for each in self.method.parameters() if each.requires_grad]

    def _encode_crops(self, batch: Batch) -> Tensor | None:
        """Return embeddings of all crops, (R, D), or None if the method uses none."""
        if self.method.crops == "unused":
            return None
        crops = require(batch.crops)
        if self.method.crops == "trained":
            return self.method.encode_crops(crops)
        rows = [self._encode_micro_batch(micro_batch) for micro_batch in self._split(crops)]
        return torch.cat(rows) if rows else self.method.encode_crops(crops)

    def _split(self, rows: Tensor) -> Sequence[Tensor]:
        """Split crops, or features of them, into micro-batches."""
        return torch.split(rows, self.sizes.crops or len(rows)) if len(rows) else ()

    def _encode_micro_batch(self, crops: Tensor) -> Tensor:
        missing = (self.sizes.crops or 0) - len(crops) if self.sizes.pad_crops else 0
        if not missing:
            return self.method.encode_crops(crops)
        return self.method.encode_crops(pad(crops, (0, 0) * (crops.ndim - 1) + (0, missing)))[: len(crops)]

    def _region_loss(self, features: Any, crop_RD: Tensor | None, batch: Batch) -> Losses | None:
        """Return the terms of single regions, or None if the method has none.

        Args:
            features: From `Method.encode`.
            crop_RD: Embeddings of the crops; None: crops are encoded here, in micro-batches.
            batch: Rows of this rank.

        Returns:
            Losses of this rank, or None.
        """
        if self.method.crops == "unused":
            return None
        if crop_RD is None:
            losses = self._split_region_loss(features.region, require(batch.crops), batch.counts.regions)
        else:
            losses = self.method.region_loss(features.region, crop_RD, batch.counts.regions)
        return losses._replace(total=self.method.region_weight * losses.total)

    def _split_region_loss(self, region_RD: Tensor, crops: Tensor, counts: Sequence[int]) -> Losses:
        """Compute `Method.region_loss` and its gradients one micro-batch of crops after the other."""
        losses, region_gradients, gradients = None, [], Gradients()
        for rows, micro_batch in zip(self._split(region_RD.detach()), self._split(crops), strict=True):
            with torch.enable_grad():
                leaf = rows.requires_grad_()
                part = self.method.region_loss(leaf, self._encode_micro_batch(micro_batch), counts)
            (gradient,) = backward_into([part.total], [self._loss_scale], [leaf], self._trained, into=gradients)
            region_gradients.append(torch.zeros_like(rows) if gradient is None else gradient)
            losses = _sum(losses, part.detached())
        if losses is None:  # this rank has no region
            return self.method.region_loss(region_RD, region_RD.detach(), counts)
        gradients = {region_RD: torch.cat(region_gradients)} | gradients
        return Losses(with_gradients(losses.total, gradients, scale=self._loss_scale), losses.terms)

    def _accumulate(self, batch: Batch) -> Losses:
        """Compute the loss and its gradients in micro-batches of images. All ranks make the same collectives."""
        method, gradients, losses = self.method, Gradients(), None
        micro_batches = self._micro_batches(batch if method.config.train_text else self._embed_texts(batch))
        feature_gradients: list[dict[str, Tensor]] = [{} for _ in micro_batches]
        if method.uses_in_batch_negatives:
            losses, feature_gradients = self._compare(micro_batches, batch, into=gradients)
        has_region_loss = method.crops == "trained" or not method.uses_in_batch_negatives
        for micro_batch, own in zip(micro_batches, feature_gradients, strict=True):
            outputs: list[Tensor] = []
            factors: list[Tensor | float] = []
            with torch.enable_grad():
                features = method.encode(micro_batch)
                if has_region_loss:
                    crop_RD = None if self._splits_crops else self._encode_crops(micro_batch)
                    part = self._region_loss(features, crop_RD, micro_batch)
                    if part is not None:
                        outputs.append(part.total)
                        factors.append(self._loss_scale)
                        losses = _sum(losses, part.detached())
            outputs += [getattr(features, name) for name in own]
            factors += own.values()
            backward_into(outputs, factors, [], self._trained, into=gradients)
        if losses is None:
            raise AssertionError(f"{type(method).__name__} has neither terms of a batch nor of regions")
        return Losses(with_gradients(losses.total, gradients, scale=self._loss_scale), losses.terms)

    def _compare(
        self, micro_batches: Sequence[Batch], batch: Batch, *, into: Gradients
    ) -> tuple[Losses, list[dict[str, Tensor]]]:
        """Compute the loss of all rows and, for each micro-batch, its gradients by names of features.

        Terms of regions whose crops have no gradient are part of it.
        """
        method = self.method
        with torch.no_grad():
            features = [cast("NamedTuple", method.encode(each)) for each in micro_batches]
            crops = [self._encode_crops(each) for each in micro_batches if method.crops == "frozen"]
        torch.clear_autocast_cache()  # weights cast without a graph would be used in place of those with one
        whole, leaves = _join(features)
        with torch.enable_grad():
            losses = method.batch_loss(whole, batch.counts)
            if crops:
                losses = _sum(losses, self._region_loss(whole, torch.cat([require(each) for each in crops]), batch))
        found = backward_into([losses.total], [self._loss_scale], list(leaves.values()), self._trained, into=into)
        gradients: list[dict[str, Tensor]] = [{} for _ in micro_batches]
        for name, gradient in zip(leaves, found, strict=True):
            if gradient is not None:
                rows = torch.split(gradient, [len(getattr(each, name)) for each in features])
                for own, part in zip(gradients, rows, strict=True):
                    own[name] = part
        return losses.detached(), gradients

    @torch.no_grad()
    def _embed_texts(self, batch: Batch) -> Batch:
        """Return the batch with embeddings in place of tokens, one row per image or region."""
        texts, region_texts = self.method.embed_texts(batch), self.method.embed_region_texts(batch)
        return replace(batch, texts=texts, text_rows=None, region_texts=region_texts, region_text_rows=None)

    def _micro_batches(self, batch: Batch) -> list[Batch]:
        """Split the batch of this rank between groups of images. `counts` still describe the whole batch."""
        if not batch.keys:
            return [batch]
        limit, bounds, sizes = self.sizes.images or 1, [0], self.method.own_groups(batch)
        for end, size in zip(accumulate(sizes), sizes, strict=True):  # a group larger than the limit stays whole
            if end - bounds[-1] > limit and end - size > bounds[-1]:
                bounds.append(end - size)
        bounds.append(len(batch.keys))
        slices = zip(pairwise(bounds), pairwise(region_bounds(batch, bounds)), strict=True)
        return [slice_batch(batch, slice(*images), slice(*regions)) for images, regions in slices]


def _sum(first: Losses | None, second: Losses | None) -> Losses:
    """Return the sum of losses; those without terms are left out, because their total has no graph."""
    present = [each for each in (first, second) if each is not None and each.terms]
    if not present:
        raise AssertionError("a method has at least one term")
    return present[0] if len(present) == 1 else present[0].plus(present[1])


def _join(features: Sequence[NamedTuple]) -> tuple[Any, dict[str, Tensor]]:
    """Return the features of all micro-batches as one, and those of its fields that may have a gradient, as leaves."""
    fields: dict[str, Any] = {}
    leaves: dict[str, Tensor] = {}
    for name, *values in zip(features[0]._fields, *features, strict=True):
        fields[name] = values[0]
        if isinstance(values[0], Tensor):
            fields[name] = torch.cat(values)
            if fields[name].is_floating_point():
                leaves[name] = fields[name] = fields[name].requires_grad_()
    return features[0]._replace(**fields), leaves


def slice_batch(batch: Batch, images: slice, regions: slice) -> Batch:
    """Return consecutive images of a batch with their regions. `counts` and `seed` stay those of the step.

    Args:
        batch: Rows of one rank.
        images: Images.
        regions: Regions of these images.

    Returns:
        Views of the tensors of `batch`.
    """
    of_images = ["keys", "images", "regions_per_image", "texts" if batch.text_rows is None else "text_rows"]
    of_regions = ["boxes", "box_to_image", "region_labels", "crops"]
    of_regions.append("region_texts" if batch.region_text_rows is None else "region_text_rows")
    rows = dict.fromkeys(of_images, images) | dict.fromkeys(of_regions, regions)
    present = {name: getattr(batch, name) for name in rows if getattr(batch, name) is not None}
    part = replace(batch, **{name: value[rows[name]] for name, value in present.items()})
    if part.box_to_image is not None:
        part.box_to_image = part.box_to_image - images.start
    part.first_image += images.start
    return part


def region_bounds(batch: Batch, bounds: Sequence[int]) -> list[int]:
    """Return the number of the first region of each image in `bounds`. Synchronizes with the device if the host lacks counts.

    Args:
        batch: Rows of one rank.
        bounds: Numbers of images, ascending, up to the number of images.

    Returns:
        As many numbers as `bounds`.
    """
    if batch.box_to_image is None:
        return [0] * len(bounds)
    counts = batch.regions_per_image or torch.bincount(batch.box_to_image, minlength=len(batch.keys)).tolist()
    begins = [0, *accumulate(counts)]
    return [begins[bound] for bound in bounds]


def backward_into(
    outputs: Sequence[Tensor],
    factors: Sequence[Tensor | float],
    inputs: Sequence[Tensor],
    parameters: Sequence[nn.Parameter],
    *,
    into: Gradients,
) -> list[Tensor | None]:
    """Back-propagate outputs, outside of autocast, which would round the products of a loss computed without it.

    Args:
        outputs: Tensors; those without a graph are left out.
        factors: Gradient with respect to each output: of its shape, or a scalar.
        inputs: Tensors whose gradients are returned.
        parameters: Parameters whose gradients are added to `into`.
        into: Changed in place; parameters that the outputs do not depend on are not in it.

    Returns:
        Gradients with respect to `inputs`; None for those that the outputs do not depend on.
    """
    pairs = [(output, factor) for output, factor in zip(outputs, factors, strict=True) if output.requires_grad]
    if not pairs:
        return [None] * len(inputs)
    output_gradients = [torch.ones_like(output) * factor for output, factor in pairs]
    device = pairs[0][0].device.type
    with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
        found = torch.autograd.grad(
            [output for output, _ in pairs], [*inputs, *parameters], output_gradients, allow_unused=True
        )
    for parameter, gradient in zip(parameters, found[len(inputs) :], strict=True):
        if gradient is not None:
            into[parameter] = into[parameter].add_(gradient) if parameter in into else gradient.clone()
    return list(found[: len(inputs)])


def with_gradients(value: Tensor, gradients: Mapping[Tensor, Tensor], *, scale: Tensor | float) -> Tensor:
    """Return `value` with a backward pass that returns `gradients / scale`.

    Args:
        value: Scalar without a graph.
        gradients: Gradient by tensor; tensors that do not require grad are left out.
        scale: Factor that the gradients contain.

    Returns:
        Scalar equal to `value`.
    """
    wanted = [key for key in gradients if key.requires_grad]
    if not wanted or not torch.is_grad_enabled():
        return value
    return cast("Tensor", _WithGradients.apply(value, scale, len(wanted), *[gradients[key] for key in wanted], *wanted))


class _WithGradients(torch.autograd.Function):
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

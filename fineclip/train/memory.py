"""Choose micro-batches so that a step fits into `runtime.memory_gb`.

Activations are measured on the encoder, with one row and with two, without training: the bytes that autograd keeps, each
storage counted once, without parameters. The rest is computed.

    static     weights, gradients, two moments of AdamW; one more copy of the gradients for micro-batches of crops, one for
               those of images, and one for the buckets of DDP
    batch      8-bit pixels of the largest batch of a rank; embeddings and logits of contrastive terms
    rows       images and crops of a micro-batch, times the bytes of one
"""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fineclip.config import RuntimeConfig
from fineclip.errors import ConfigError
from fineclip.methods.base import EncoderCall, Method
from fineclip.models.encoder import RegionEncoder
from fineclip.train.grad_cache import MicroBatchSizes

log = logging.getLogger(__name__)

GB = 1e9
GPU_FRACTION = 0.9  # used by `auto`
CUDA_CONTEXT = 1.0 * GB  # kernels and workspaces of libraries
LOGIT_COPIES = 6  # for each direction: product, scaled product, log-softmax, and their gradients
COMPILED_CROPS = 64  # crops of a micro-batch if the encoder is compiled and no other limit is set


class RankBatchSize(NamedTuple):
    """Maximum number of rows of one rank in a step, and of all ranks."""

    images: int
    regions: int
    all_images: int
    all_regions: int


class MemoryCosts(NamedTuple):
    """Bytes of the parts of a step."""

    static: float
    batch: float
    image: float
    crop: float

    def total(self, images: int, crops: int) -> float:
        """Return the bytes of a step with these sizes of micro-batches."""
        return self.static + self.batch + images * self.image + crops * self.crop


def choose_micro_batches(
    method: Method[Any],
    calls: Sequence[EncoderCall],
    rows: RankBatchSize,
    runtime: RuntimeConfig,
    *,
    dtype: torch.dtype | None,
    is_distributed: bool,
    previous: MicroBatchSizes | None = None,
) -> MicroBatchSizes:
    """Return the sizes set in `runtime`, else the previous ones if they fit, else the largest that fit.

    Args:
        method: On its device.
        calls: Its `encoder_calls`.
        rows: Rows of a rank.
        runtime: Limits.
        dtype: Of autocast; None without.
        is_distributed: Whether there are several ranks.
        previous: Sizes in the checkpoint.

    Returns:
        Sizes per rank.

    Raises:
        ConfigError: Not even one image and one crop fit.
    """
    sizes = previous or MicroBatchSizes()
    device = next(method.parameters()).device
    if (limit := memory_limit(runtime, device)) is not None:
        costs = estimate_memory(method, calls, rows, dtype=dtype, is_distributed=is_distributed)

        def expected(sizes: MicroBatchSizes) -> float:
            return costs.total(sizes.images or rows.images, sizes.crops or rows.regions)

        if previous is None or expected(previous) > limit:
            sizes = largest_micro_batches(costs, rows, limit)
        log.info("estimated step memory %.3g GB (limit %.3g GB)", expected(sizes) / GB, limit / GB)
    crops, images = runtime.crop_micro_batch_size or sizes.crops, runtime.image_micro_batch_size or sizes.images
    if previous is not None and (crops, images) != (previous.crops, previous.images):
        log.warning(
            "micro-batches of %s crops and %s images differ from those of the checkpoint (%s, %s): the result may differ"
            " in the last bits from that of an uninterrupted training",
            *(crops, images, previous.crops, previous.images),
        )
    if runtime.compile and crops is None:
        crops = COMPILED_CROPS
    return MicroBatchSizes(crops, images, pad_crops=runtime.compile)


def memory_limit(runtime: RuntimeConfig, device: torch.device) -> float | None:
    """Return the bytes that a process may use; None: no limit."""
    if runtime.memory_gb != "auto":
        return None if runtime.memory_gb is None else runtime.memory_gb * GB
    if device.type != "cuda":
        return None
    return GPU_FRACTION * torch.cuda.get_device_properties(device).total_memory


def largest_micro_batches(costs: MemoryCosts, rows: RankBatchSize, limit: float) -> MicroBatchSizes:
    """Return the largest micro-batches that fit: none if a whole batch fits; else of crops, and of images if necessary.

    All images at once save a second forward pass of images, so they are preferred if a tenth of their number of crops also
    fits.

    Args:
        costs: Bytes; those of a crop are 0 if the method encodes none.
        rows: Rows of a rank.
        limit: Bytes.

    Returns:
        Sizes per rank.

    Raises:
        ConfigError: Not even one image and one crop fit.
    """
    has_crops = costs.crop > 0
    if costs.total(rows.images, rows.regions) <= limit:
        return MicroBatchSizes()
    least_crops = min(rows.regions, max(1, rows.images // 10))
    if costs.total(rows.images, least_crops) <= limit:
        return MicroBatchSizes(crops=_fitting(limit - costs.total(rows.images, 0), costs.crop, rows.regions))
    rest = limit - costs.static - costs.batch
    if rest < costs.image + costs.crop:
        raise ConfigError(
            f"runtime.memory_gb: {limit / GB:.3g} GB is not enough for one image{' and one crop' if has_crops else ''}."
            f" Required: {costs.static / GB:.3g} GB for weights, gradients and moments, {costs.batch / GB:.3g} GB for a"
            f" batch, {costs.image / GB:.3g} GB per image, {costs.crop / GB:.3g} GB per crop."
            " Set runtime.activation_checkpointing: true, use more processes, or lower train.batch_size."
        )
    images = _fitting(rest / 2 if has_crops else rest, costs.image, rows.images)
    crops = _fitting(rest - images * costs.image, costs.crop, rows.regions) if has_crops else None
    return MicroBatchSizes(crops=crops, images=images)


def _fitting(space: float, each: float, at_most: int) -> int:
    return max(1, min(at_most, int(space / max(each, 1.0))))


def estimate_memory(
    method: Method[Any],
    calls: Sequence[EncoderCall],
    rows: RankBatchSize,
    *,
    dtype: torch.dtype | None,
    is_distributed: bool,
) -> MemoryCosts:
    """Measure and compute the bytes of a step.

    Args:
        method: On its device.
        calls: Its `encoder_calls`.
        rows: Rows of a rank.
        dtype: Of autocast; None without.
        is_distributed: Whether there are several ranks.

    Returns:
        Bytes, per rank.
    """
    trained = sum(each.nbytes for each in method.parameters() if each.requires_grad)
    frozen = sum(each.nbytes for each in method.parameters() if not each.requires_grad)
    static = trained * (4 + 2 + is_distributed) + frozen
    encoder, width = method.encoder, method.encoder.width
    images = max((call for call in calls if call.rows == "images"), key=lambda call: call.px**2 / call.images)
    image, constant = saved_bytes(encoder, images.px, dtype=dtype, has_regions=True)
    crop = 0.0
    pixels = rows.images * 3 * images.px**2 / images.images
    for call in calls:
        if call.rows == "crops":
            crop, _ = saved_bytes(encoder, call.px, dtype=dtype, has_regions=False)
            crop = crop if call.gradient else 2 * crop / len(encoder.trunk.blocks)
            pixels += rows.regions * 3 * call.px**2
    embeddings = 4 * width * 4 * (rows.all_images + rows.all_regions)
    logits = 4 * LOGIT_COPIES * (rows.images * rows.all_images + rows.regions * rows.all_regions)
    reserve = CUDA_CONTEXT if next(method.parameters()).device.type == "cuda" else 0.0
    return MemoryCosts(static + constant + reserve, pixels + embeddings + logits, image / images.images, crop)


def saved_bytes(
    encoder: RegionEncoder, px: int, *, dtype: torch.dtype | None, has_regions: bool
) -> tuple[float, float]:
    """Measure the bytes that autograd keeps for one image, and the constant bytes (weights cast to another precision).

    Args:
        encoder: On its device. If its blocks are checkpointed, the bytes of recomputing one block are included.
        px: Side of the image.
        dtype: Of autocast; None without.
        has_regions: Whether the dense map is computed beside the global embedding.

    Returns:
        Bytes per image, and constant bytes.
    """

    def kept(rows: int) -> float:
        return _saved(encoder, rows, px, dtype=dtype, has_regions=has_regions)

    one, two = kept(1), kept(2)
    each, constant = two - one, max(0.0, 2 * one - two)
    if encoder.trunk.checkpointing:
        encoder.trunk.checkpointing = False
        try:
            each += (kept(2) - kept(1)) / len(encoder.trunk.blocks)
        finally:
            encoder.trunk.checkpointing = True
    return each, constant


def _saved(encoder: RegionEncoder, rows: int, px: int, *, dtype: torch.dtype | None, has_regions: bool) -> float:
    parameter = next(encoder.parameters())
    images = torch.zeros(rows, 3, px, px, device=parameter.device, dtype=parameter.dtype)
    boxes = images.new_tensor([[0.0, 0.0, 1.0, 1.0]]).expand(rows, -1)
    own = {each.untyped_storage().data_ptr() for each in encoder.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    autocast = nullcontext() if dtype is None else torch.autocast(parameter.device.type, dtype=dtype)
    with torch.enable_grad(), autocast, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        box_to_image = torch.arange(rows, device=parameter.device)
        graph = (
            encoder.encode_image_and_regions(images, boxes, box_to_image)
            if has_regions
            else encoder.encode_image(images)
        )
    del graph
    return float(sum(kept.values()))

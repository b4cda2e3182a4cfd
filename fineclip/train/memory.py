"""How many rows to encode at a time so that a training stays within its memory: `runtime.memory_gb`.

What a backward pass needs is measured on the encoder itself, one row and two, without a step being made: the bytes that
autograd keeps, each storage once, parameters apart. The rest is counted.

    static     weights, gradients, two moments of AdamW; once more the gradients for each kind of chunks, and for the buckets
               that are sent to other processes
    batch      8-bit pixels of the largest share of a step; embeddings and logits of the contrasts
    rows       images and crops at a time, times what one keeps
"""

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fineclip.config import RuntimeConfig
from fineclip.errors import ConfigError
from fineclip.methods import Method
from fineclip.methods.base import Passes
from fineclip.methods.chunks import Chunks
from fineclip.models.encoder import RegionEncoder

GB = 1e9
SHARE_OF_GPU = 0.9  # what `auto` takes of it
CONTEXT = 1.0 * GB  # of a GPU, for its kernels and the workspace of its libraries
COPIES_OF_LOGITS = 6  # each direction: product, scaled, log-softmax, and their gradients


class Share(NamedTuple):
    """The most rows that one process may see of a step, and all of them together."""

    images: int
    regions: int
    all_images: int
    all_regions: int


class Costs(NamedTuple):
    """Bytes."""

    static: float
    batch: float
    image: float
    crop: float

    def of(self, images: int, crops: int) -> float:
        """All, with so many rows at a time."""
        return self.static + self.batch + images * self.image + crops * self.crop


def limit_of(runtime: RuntimeConfig, device: torch.device) -> float | None:
    """Bytes that a process may use; None: no limit is set."""
    if runtime.memory_gb != "auto":
        return None if runtime.memory_gb is None else runtime.memory_gb * GB
    if device.type != "cuda":
        return None
    return SHARE_OF_GPU * torch.cuda.get_device_properties(device).total_memory


def chosen_chunks(costs: Costs, share: Share, limit: float, *, has_crops: bool) -> Chunks:
    """The largest chunks that fit: all at once if that does; else crops a few at a time, and images too where they must.

    All images at once save encoding them twice, so they come first as long as a tenth of their number of crops fits beside.

    Raises:
        ConfigError: not even one image and one crop fit.
    """
    crops = share.regions if has_crops else 0
    if costs.of(share.images, crops) <= limit:
        return Chunks()
    least_crops = min(crops, max(1, share.images // 10))
    if has_crops and costs.of(share.images, least_crops) <= limit:
        return Chunks(crops=_fitting(limit - costs.of(share.images, 0), costs.crop, crops))
    rest = limit - costs.static - costs.batch
    if rest < costs.image + (costs.crop if has_crops else 0):
        raise ConfigError(
            f"runtime.memory_gb: {limit / GB:.3g} GB do not hold one image"
            f"{' and one crop' if has_crops else ''}: {costs.static / GB:.3g} GB for weights, gradients and moments,"
            f" {costs.batch / GB:.3g} GB for a batch, {costs.image / GB:.3g} GB for an image, {costs.crop / GB:.3g} GB for a"
            " crop. Set runtime.checkpointing: true, use more processes, or a smaller train.batch_size."
        )
    images = _fitting(rest / 2 if has_crops else rest, costs.image, share.images)
    return Chunks(crops=_fitting(rest - images * costs.image, costs.crop, crops) if has_crops else None, images=images)


def _fitting(space: float, each: float, at_most: int) -> int:
    return max(1, min(at_most, int(space / max(each, 1.0))))


def costs_of(method: Method[Any], passes: Passes, share: Share, *, dtype: torch.dtype | None, is_shared: bool) -> Costs:
    """What a training of this method keeps, measured and counted.

    Args:
        method: on its device.
        passes: what the method encodes.
        share: rows of a process.
        dtype: of autocast, None without.
        is_shared: whether there are several processes.
    """
    learning = sum(each.numel() * each.element_size() for each in method.parameters() if each.requires_grad)
    frozen = sum(each.numel() * each.element_size() for each in method.parameters() if not each.requires_grad)
    static = learning * (4 + 2 + is_shared) + frozen
    encoder, width = method.encoder, method.encoder.width
    image, constant = saved_bytes(encoder, passes.image_px, dtype=dtype, has_regions=True)
    crop = 0.0
    pixels = share.images * 3 * passes.image_px**2 / passes.images
    if passes.crop_px is not None:
        crop, _ = saved_bytes(encoder, passes.crop_px, dtype=dtype, has_regions=False)
        crop = crop if passes.keeps_crops else 2 * crop / len(encoder.trunk.blocks)
        pixels += share.regions * 3 * passes.crop_px**2
    rows = 4 * width * 4 * (share.all_images + share.all_regions)
    logits = 4 * COPIES_OF_LOGITS * (share.images * share.all_images + share.regions * share.all_regions)
    reserve = CONTEXT if next(method.parameters()).device.type == "cuda" else 0.0
    return Costs(static + constant + reserve, pixels + rows + logits, image / passes.images, crop)


def saved_bytes(
    encoder: RegionEncoder, px: int, *, dtype: torch.dtype | None, has_regions: bool
) -> tuple[float, float]:
    """What the backward pass of an image keeps, and what it keeps however many there are (weights in another precision).

    Of its embedding, and of its dense map too with `has_regions`. Where blocks are checkpointed, with what one of them needs
    while it is computed again.
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
        owners = torch.arange(rows, device=parameter.device)
        graph = encoder.encode_image_and_regions(images, boxes, owners) if has_regions else encoder.encode_image(images)
    del graph
    return float(sum(kept.values()))

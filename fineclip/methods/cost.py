"""How much arithmetic a step of a method asks for on this process: what a GPU's utilisation is measured against.

Counted is what the objective needs and no more: neither what checkpointing and accumulation compute twice, nor what
upstream's formulation computes in vain.
"""

from typing import Any

from torch import Tensor

from fineclip.methods.base import Method, given
from fineclip.methods.clim import Clim
from fineclip.methods.clip import Clip
from fineclip.methods.clipself import ClipSelf
from fineclip.methods.fineclip import FineCLIP
from fineclip.methods.regionclip import RegionClip
from fineclip.models.encoder import RegionEncoder
from fineclip.models.flops import Gradient, Path, image_flops, text_flops
from fineclip.types import Batch


def step_flops(method: Method[Any], batch: Batch) -> float | None:
    """FLOPs of forward and backward on the rows of this process; None for a method that no count is written for.

    Only shapes are looked at.
    """
    match method:
        case Clip():
            return _images(method.encoder, batch.images, "global") + _texts(method, batch.texts)
        case FineCLIP():
            return _fineclip(method, batch)
        case ClipSelf():
            teacher = _images(method.initial, batch.crops, "global", gradient="none")
            return teacher + _images(method.encoder, batch.images, "dense")
        case RegionClip():
            return _regionclip(method, batch)
        case Clim():
            return _clim(method, batch)
    return None


def _fineclip(method: FineCLIP, batch: Batch) -> float:
    weights = method.weights
    needs_regions = bool(weights["region"] or weights["distill"])
    path: Path = "shared" if weights["global"] and needs_regions else "dense" if needs_regions else "global"
    total = _images(method.encoder, batch.images, path)
    if weights["global"]:
        total += _texts(method, batch.texts)
    if weights["region"]:
        total += _texts(method, batch.region_texts)
    if weights["distill"]:
        detached = method.options.relaxed.detach_crops
        total += _images(method.encoder, batch.crops, "global", gradient="none" if detached else "kept")
    return total


def _regionclip(method: RegionClip, batch: Batch) -> float:
    weights = method.weights
    if method.options.targets == "labels":
        return _images(method.encoder, batch.images, "dense")
    needs_regions = bool(weights["distill"] or weights["contrast"])
    path: Path = "shared" if weights["global"] and needs_regions else "dense" if needs_regions else "global"
    total = _images(method.encoder, batch.images, path)
    if needs_regions:
        total += _images(method.initial, batch.images, "dense", gradient="none")
    return total + (_texts(method, batch.texts) if weights["global"] else 0)


def _clim(method: Clim, batch: Batch) -> float:
    images, sides = given(batch.images), method.sides_of(batch)
    mosaic = image_flops(
        method.encoder, method.options.mosaic_size, method.options.mosaic_size, path="dense", gradient="kept"
    )
    single = images[sum(side * side for side in sides) :]
    return len(sides) * mosaic + _images(method.encoder, single, "global") + _texts(method, batch.texts)


def _images(encoder: RegionEncoder | None, rows: Tensor | None, path: Path, *, gradient: Gradient = "kept") -> float:
    if encoder is None or rows is None:
        return 0.0
    return len(rows) * image_flops(encoder, rows.shape[-2], rows.shape[-1], path=path, gradient=gradient)


def _texts(method: Method[Any], texts: Tensor | None) -> float:
    """None where they were embedded beforehand."""
    if texts is None or texts.is_floating_point() or not len(texts):
        return 0.0
    gradient: Gradient = "kept" if method.options.train_text else "none"
    return len(texts) * text_flops(method.encoder, texts.shape[1], gradient=gradient)

"""FLOPs of an encoder, counted from the shapes of its weights, and peak FLOPs of GPUs.

A multiply-add is 2 FLOPs. Matrix products are counted, with weights and inside attention. Elementwise work (norms,
activations, rotary positions) is a few thousandths of them and is left out.

The backward pass of a product adds one product for the gradient of trainable weights and one for the gradient of its input,
if anything before it is trainable.

Legend: T tokens with the class token, P patches, Q rows that are computed.
"""

import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from torch import nn

from fineclip.models.encoder import RegionEncoder

VisionPath = Literal["global", "dense", "shared"]
Gradient = Literal["none", "kept"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
PROJECTIONS = ("visual.proj", "visual.trunk.head.weight")  # of open_clip's VisionTransformer, of timm's EVA-02


class Work(NamedTuple):
    """FLOPs of one part of a tower.

    Attributes:
        weights: Of products with weights.
        learns: Whether its weights are trainable.
        attention: Of products without weights.
    """

    weights: float
    learns: bool
    attention: float = 0.0


def image_flops(
    encoder: RegionEncoder, height: int, width: int, *, path: VisionPath = "global", gradient: Gradient = "none"
) -> float:
    """Count the FLOPs of one image.

    Args:
        encoder: `requires_grad` of its parameters decides which weights are trainable.
        height: Pixels, a multiple of the patch.
        width: Pixels, a multiple of the patch.
        path: `global` for `encode_image`, `dense` for `encode_dense`, `shared` for `encode_image_and_regions` with the value
            of the last block computed once.
        gradient: `none` for the forward pass, `kept` with the backward pass.

    Returns:
        FLOPs.
    """
    trunk, patches = encoder.trunk, (height // encoder.patch[0]) * (width // encoder.patch[1])
    tokens, last = patches + 1, trunk.blocks[-1]
    blocks = [_block(block, tokens, tokens) for block in trunk.blocks[:-1]]
    embedding = _block(last, tokens, tokens if encoder.head == "mean" else 1)
    dense = _dense_block(last, patches)
    if path == "shared":
        value = 2.0 * patches * _width(last) ** 2
        blocks.append(embedding._replace(weights=embedding.weights + dense.weights - value))
    else:
        blocks.append(dense if path == "dense" else embedding)
    rows = {"global": 1, "dense": patches, "shared": patches + 1}[path]
    stem = trunk.stem.get_parameter("weight")
    projection = next(value for name, value in encoder.vision_parameters() if name in PROJECTIONS)
    return _summed(
        [
            Work(2.0 * patches * stem.numel(), stem.requires_grad),
            *blocks,
            Work(2.0 * rows * projection.numel(), projection.requires_grad),
        ],
        gradient,
        starts_at_pixels=True,
    )


def text_flops(encoder: RegionEncoder, length: int, *, gradient: Gradient = "none") -> float:
    """Count the FLOPs of one text.

    Args:
        encoder: As in `image_flops`.
        length: Tokens. The last block computes the end token only.
        gradient: As in `image_flops`.

    Returns:
        FLOPs.
    """
    *blocks, last = encoder.text_tower.get_submodule("transformer.resblocks").children()
    learns = any(parameter.requires_grad for _, parameter in encoder.text_parameters())
    projection = Work(2.0 * encoder.text_tower.get_parameter("text_projection").numel(), learns)
    parts = [*(_block(block, length, length) for block in blocks), _block(last, length, 1), projection]
    return _summed(parts, gradient if learns else "none")


def count_flops(run: Callable[[], object]) -> float:
    """Measure the FLOPs of `run`, forward and backward, with torch's FlopCounterMode."""
    from torch.utils.flop_counter import FlopCounterMode  # imports triton

    counter = FlopCounterMode(display=False)
    with counter:
        run()
    return float(counter.get_total_flops())


def _summed(parts: Iterable[Work], gradient: Gradient, *, starts_at_pixels: bool = False) -> float:
    """Return the FLOPs of parts in order. The gradient of pixels, the input of the first part, is never computed."""
    total, reached = 0.0, False  # whether anything so far is trainable
    for number, part in enumerate(parts):
        total += part.weights + part.attention
        if gradient == "none":
            continue
        reached = reached or part.learns
        if part.learns:
            total += part.weights
        if reached and not (starts_at_pixels and number == 0):
            total += part.weights + 2 * part.attention
    return total


def _block(block: nn.Module, tokens: int, rows: int) -> Work:
    """Return the work of a block that computes `rows` rows over `tokens` keys and values."""
    width = _width(block)
    weights = 2.0 * (2 * tokens * width**2 + rows * (_matrices(block) - 2 * width**2))
    return Work(weights, _learns(block), attention=4.0 * rows * tokens * width)


def _dense_block(block: nn.Module, patches: int) -> Work:
    """Return the work of a block without attention, which uses neither query nor key."""
    return Work(2.0 * patches * (_matrices(block) - 2 * _width(block) ** 2), _learns(block))


def _width(block: nn.Module) -> int:
    """Return the width of tokens, and of query, key and value."""
    return next(block.parameters()).shape[0]


def _matrices(block: nn.Module) -> int:
    """Return the number of weights of all matrices of a block."""
    return sum(parameter.numel() for parameter in block.parameters() if parameter.ndim == 2)


def _learns(block: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in block.parameters())


# Peak 10^12 FLOP/s without sparsity: bf16 and fp16 with fp32 accumulation, tf32, fp32. 0: not in hardware.
# Source: NVIDIA's data sheets and architecture whitepapers, halved where they state the figure with sparsity.
PEAKS = Path(__file__).with_name("gpu_peaks.csv")


def peak_flops(device_name: str, precision: Precision) -> float | None:
    """Return the peak FLOP/s of a GPU in dense products, or None if it is unknown.

    Args:
        device_name: As `torch.cuda.get_device_name` returns it; the longest name of the table that is part of it counts.
        precision: Of the products; `tf32` if torch may use it for fp32.

    Returns:
        FLOP/s.
    """
    words = f" {device_name} "
    with PEAKS.open(newline="", encoding="utf-8") as file:
        found = [row for row in csv.DictReader(file) if f" {row['name']} " in words or f" {row['name']}-" in words]
    best = max(found, key=lambda row: len(row["name"]), default=None)
    return None if best is None else float(best[precision]) * 1e12 or None

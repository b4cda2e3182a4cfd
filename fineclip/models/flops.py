"""FLOPs of an encoder, counted from the shapes of its weights, and peak FLOPs of GPUs.

A multiply-add is 2 FLOPs. Matrix products are counted, with weights and inside attention. Elementwise work (norms,
activations, rotary positions) is a few thousandths of them and is left out.

The backward pass of a product adds one product for the gradient of trainable weights and one for the gradient of its input,
if anything before it is trainable.

Legend: T tokens with the class token, P patches, Q rows that are computed.
"""

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, assert_never

from open_clip.transformer import ResidualAttentionBlock
from timm.models.eva import EvaBlock
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fineclip.models.encoder import RegionEncoder
from fineclip.models.trunks import EvaTrunk, OpenClipTrunk

Path = Literal["full", "global", "dense", "shared"]
Gradient = Literal["none", "kept", "recomputed"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]


class Work(NamedTuple):
    """FLOPs of one part of a tower.

    Attributes:
        weights: Of products with weights.
        attention: Of products without weights.
        learns: Whether its weights are trainable.
        first: Whether its input is the image, so that the gradient of the input is never computed.
    """

    weights: float
    attention: float
    learns: bool
    first: bool = False

    @property
    def forward(self) -> float:
        """FLOPs of the forward pass."""
        return self.weights + self.attention


def image_flops(
    encoder: RegionEncoder, height: int, width: int, *, path: Path = "global", gradient: Gradient = "none"
) -> float:
    """Count the FLOPs of one image.

    Args:
        encoder: `requires_grad` of its parameters decides which weights are trainable.
        height: Pixels, a multiple of the patch.
        width: Pixels, a multiple of the patch.
        path: `full` for the tower as upstream runs it, `global` for `encode_image`, `dense` for `encode_dense`, `shared` for
            `encode_image_and_regions` with the value of the last block computed once.
        gradient: `none` for the forward pass, `kept` with the backward pass, `recomputed` with activation checkpointing.

    Returns:
        FLOPs.
    """
    patches = (height // encoder.patch[0]) * (width // encoder.patch[1])
    stem, *parts, head = _image_parts(encoder, patches, path)
    return _summed([stem._replace(first=True), *parts, head], gradient)


def text_flops(encoder: RegionEncoder, length: int, *, whole: bool = False, gradient: Gradient = "none") -> float:
    """Count the FLOPs of one text.

    Args:
        encoder: As in `image_flops`.
        length: Tokens.
        whole: Whether the last block computes all tokens, as upstream does.
        gradient: As in `image_flops`.

    Returns:
        FLOPs.
    """
    tower = encoder.text_tower
    blocks = list(tower.get_submodule("transformer.resblocks").children())
    rows = [length] * (len(blocks) - 1) + [length if whole else 1]
    learns = any(parameter.requires_grad for _, parameter in encoder.text_parameters())
    parts = [_block(block, length, row) for block, row in zip(blocks, rows, strict=True)]
    projection = Work(2.0 * tower.text_projection.numel(), 0.0, learns)  # type: ignore[operator]
    return _summed([*parts, projection], gradient if learns else "none")


def count_flops(run: Callable[[], object]) -> float:
    """Measure the FLOPs of `run`, forward and backward, with torch's FlopCounterMode."""
    counter = FlopCounterMode(display=False)
    with counter:
        run()
    return float(counter.get_total_flops())


def _summed(parts: Iterable[Work], gradient: Gradient) -> float:
    parts = list(parts)
    total = sum(part.forward for part in parts)
    if gradient == "none":
        return total
    reached = False  # whether anything so far is trainable
    for part in parts:
        if part.learns:
            total += part.weights
        reached = reached or part.learns
        if reached and not part.first:
            total += part.weights + 2 * part.attention
    if gradient == "recomputed":
        total += sum(part.forward for part in parts[1:-1])
    return total


def _image_parts(encoder: RegionEncoder, patches: int, path: Path) -> list[Work]:
    trunk, tokens = encoder.trunk, patches + 1
    last, before = trunk.blocks[-1], trunk.blocks[:-1]
    stem, projection = _ends(encoder)
    blocks = [_block(block, tokens, tokens) for block in before]
    all_rows = encoder.head == "mean"
    embedding = _block(last, tokens, tokens if all_rows else 1)
    dense = _block(last, patches, patches, has_attention=False)
    match path:
        case "full":
            blocks.append(_block(last, tokens, tokens))
            heads = 1
        case "global":
            blocks.append(embedding)
            heads = 1
        case "dense":
            blocks.append(dense)
            heads = patches
        case "shared":
            value = 2.0 * patches * _value_weights(last)
            blocks.append(embedding._replace(weights=embedding.weights + dense.weights - value))
            heads = patches + 1
        case _:
            assert_never(path)
    return [
        stem._replace(weights=stem.weights * patches),
        *blocks,
        projection._replace(weights=projection.weights * heads),
    ]


def _ends(encoder: RegionEncoder) -> tuple[Work, Work]:
    """Return the work of the first convolution for one patch, and of the projection for one row."""
    trunk = encoder.trunk
    if isinstance(trunk, EvaTrunk):
        stem, head = trunk.trunk.patch_embed.proj.weight, trunk.trunk.head.weight
    elif isinstance(trunk, OpenClipTrunk):
        stem, head = trunk.visual.conv1.weight, trunk.visual.proj
    else:
        raise TypeError(f"FLOPs of a {type(trunk).__name__} are not implemented")
    return Work(2.0 * stem.numel(), 0.0, stem.requires_grad), Work(2.0 * head.numel(), 0.0, head.requires_grad)


def _block(block: nn.Module, tokens: int, rows: int, *, has_attention: bool = True) -> Work:
    """Return the work of a block that computes `rows` rows over `tokens` keys, or without attention."""
    query, key, value, after, width = _sizes(block)
    weights = 2.0 * (tokens * value + rows * after)
    attention = 0.0
    if has_attention:
        weights += 2.0 * (tokens * key + rows * query)
        attention = 4.0 * rows * tokens * width
    return Work(weights, attention, any(parameter.requires_grad for parameter in block.parameters()))


def _value_weights(block: nn.Module) -> int:
    return _sizes(block)[2]


def _sizes(block: nn.Module) -> tuple[int, int, int, int, int]:
    """Return the number of weights of query, key, value and everything after attention, and the width of all heads."""
    if isinstance(block, EvaBlock):
        attention = block.attn
        query, key, value = (layer.weight.numel() for layer in (attention.q_proj, attention.k_proj, attention.v_proj))
        after = attention.proj.weight.numel() + _linear_weights(block.mlp)
        return query, key, value, after, attention.q_proj.out_features
    if isinstance(block, ResidualAttentionBlock):
        packed = block.attn.in_proj_weight
        third = packed.numel() // 3
        after = block.attn.out_proj.weight.numel() + _linear_weights(block.mlp)
        return third, third, third, after, packed.shape[0] // 3
    raise TypeError(f"FLOPs of a {type(block).__name__} are not implemented")


def _linear_weights(module: nn.Module) -> int:
    return sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear))


# Peak 10^12 FLOP/s without sparsity: bf16 and fp16 with fp32 accumulation, tf32, fp32. 0: not in hardware.
# Source: NVIDIA's data sheets and architecture whitepapers, halved where they state the figure with sparsity.
# A name matches within the driver's device name; longer names are tried first.
PEAKS: dict[str, tuple[float, float, float, float]] = {
    "A10": (125, 125, 62.5, 31.2),
    "A10G": (70, 70, 35, 31.5),
    "A100": (312, 312, 156, 19.5),
    "A30": (165, 165, 82, 10.3),
    "A40": (149.7, 149.7, 74.8, 37.4),
    "A800": (312, 312, 156, 19.5),
    "B200": (2250, 2250, 1100, 75),
    "GH200": (989, 989, 494, 67),
    "GeForce RTX 3090": (71, 71, 35.6, 35.6),
    "GeForce RTX 4080": (97.5, 97.5, 48.7, 48.7),
    "GeForce RTX 4090": (165.2, 165.2, 82.6, 82.6),
    "GeForce RTX 5090": (209.5, 209.5, 104.8, 104.8),
    "H100": (989, 989, 494, 67),
    "H100 NVL": (835, 835, 417, 60),
    "H100 PCIe": (756, 756, 378, 51),
    "H20": (148, 148, 74, 44),
    "H200": (989, 989, 494, 67),
    "H200 NVL": (835, 835, 417, 60),
    "H800": (989, 989, 494, 67),
    "L4": (121, 121, 60, 30.3),
    "L40": (181, 181, 90.5, 90.5),
    "L40S": (362, 362, 183, 91.6),
    "RTX 6000 Ada": (364, 364, 182, 91.1),
    "RTX A6000": (154.8, 154.8, 77.4, 38.7),
    "T4": (0, 65, 0, 8.1),
    "V100": (0, 125, 0, 15.7),
    "V100-PCIE": (0, 112, 0, 14),
}
COLUMNS: tuple[Precision, ...] = ("bf16", "fp16", "tf32", "fp32")


def peak_flops(device_name: str, precision: Precision) -> float | None:
    """Return the peak FLOP/s of a GPU in dense products, or None if it is unknown.

    Args:
        device_name: As `torch.cuda.get_device_name` returns it.
        precision: Of the products; `tf32` if torch may use it for fp32.

    Returns:
        FLOP/s.
    """
    words = f" {device_name} "
    for name in sorted(PEAKS, key=len, reverse=True):
        if f" {name} " in words or f" {name}-" in words:
            found = PEAKS[name][COLUMNS.index(precision)]
            return found * 1e12 or None
    return None

"""Rotary positions: queries and keys are turned by where their patch lies, one angle for each pair of channels.

A pair is taken as a complex number and its turn as another of length 1, so that one multiplication does what timm does
with slices, sign changes and concatenations (5 to 8 times the time, forward and backward, on a CPU). Pairs are neighbouring
channels, as in the authors' weights: no row of a weight moves.

Legend: B images, N tokens with the class token first, H heads, E width of a head, F = E / 2 angles, h w patches.
"""

import torch
from timm.layers import RotaryEmbeddingCat, build_rotary_pos_embed
from torch import Tensor


def turns_for(rope: RotaryEmbeddingCat, grid: tuple[int, int], device: torch.device) -> Tensor:
    """(1 + h w, F, 2) cosines and sines: of the class token, which is not turned, then of the patches, row by row.

    Row r of h lies at 16 r / h and column c of w at 16 c / w where the reference grid is 16 x 16: on another grid than the
    native one the same range is divided otherwise. Half of the angles are of the row, half of the column.

    Source: EVA-CLIP, rope.py `VisionRotaryEmbeddingFast`, in float32 as there. Deviation: there square grids only.
    """
    with torch.inference_mode(False):  # a table made while evaluating is saved for a backward pass while training
        sines_PE, cosines_PE = build_rotary_pos_embed(
            list(grid),
            bands=rope.bands.float(),
            in_pixels=rope.in_pixels,
            ref_feat_shape=rope.ref_feat_shape,
            grid_offset=rope.grid_offset,
            grid_indexing=rope.grid_indexing,
            rotate_half=False,
            device=device,
        )
        turns_PF2 = torch.stack([cosines_PE[:, ::2], sines_PE[:, ::2]], dim=-1)
        unturned_1F2 = torch.tensor([1.0, 0.0], device=device).expand_as(turns_PF2[:1])
        return torch.cat([unturned_1F2, turns_PF2])


def turned(rows_BNHE: Tensor, turns_NF2: Tensor) -> Tensor:
    """(B, N, H, E): every pair of channels turned, in float32 at least, returned in the type that came.

    Where torch.compile looks on, which knows no complex numbers, the product is spelled out; it makes one kernel of it.
    """
    full_BNHE = rows_BNHE.to(torch.promote_types(rows_BNHE.dtype, torch.float32))
    pairs_BNHF2 = full_BNHE.reshape(*full_BNHE.shape[:-1], full_BNHE.shape[-1] // 2, 2)
    turns_N1F2 = turns_NF2[: rows_BNHE.shape[1], None]
    if torch.compiler.is_compiling():
        (left, right), (cosine, sine) = pairs_BNHF2.unbind(-1), turns_N1F2.unbind(-1)
        turned_BNHF2 = torch.stack([left * cosine - right * sine, left * sine + right * cosine], dim=-1)
    else:
        turned_BNHF = torch.view_as_complex(pairs_BNHF2) * torch.view_as_complex(turns_N1F2.contiguous())
        turned_BNHF2 = torch.view_as_real(turned_BNHF)
    return turned_BNHF2.flatten(-2).to(rows_BNHE.dtype)

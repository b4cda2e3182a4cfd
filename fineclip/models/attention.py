"""Scaled dot-product attention: torch's fused kernel, or two matrix products where they are faster.

Legend: B batch, H heads, Q queries, K keys, N tokens, E width of a head, C width of all heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_KEYS_UNFUSED = 1024  # with more keys, the matrix of logits costs more memory than it saves time


def dot_product_attention(
    query_BHQE: Tensor,
    key_BHKE: Tensor,
    value_BHKE: Tensor,
    *,
    causal: bool = False,
    visible_B11K: Tensor | None = None,
) -> Tensor:
    """Compute softmax(Q K^T / sqrt(E)) V.

    Half precision on a CPU uses two matrix products: the backward pass of the fused kernel takes 5 times as long there
    (64 images, 65 tokens, 4 heads of 32: 53 ms against 10 ms). In float32 the fused kernel is faster.

    Args:
        query_BHQE: Queries.
        key_BHKE: Keys.
        value_BHKE: Values; their type and device choose the kernel.
        causal: Mask the keys after each query. Needs Q = K and no `visible_B11K`.
        visible_B11K: Boolean; False masks a key for all queries of that row. At least one key of each row is visible.

    Returns:
        (B, H, Q, E), in the type of the values.
    """
    half_on_cpu = value_BHKE.device.type == "cpu" and value_BHKE.dtype in (torch.bfloat16, torch.float16)
    if half_on_cpu and key_BHKE.shape[2] <= MAX_KEYS_UNFUSED:
        return _unfused(query_BHQE, key_BHKE, value_BHKE, causal=causal, visible_B11K=visible_B11K)
    return F.scaled_dot_product_attention(query_BHQE, key_BHKE, value_BHKE, attn_mask=visible_B11K, is_causal=causal)


def split_heads(rows_BNC: Tensor, heads: int) -> Tensor:
    """Reshape (B, N, C) to (B, N, H, E)."""
    batch, tokens, width = rows_BNC.shape
    return rows_BNC.reshape(batch, tokens, heads, width // heads)


def merge_heads(rows_BHNE: Tensor) -> Tensor:
    """Reshape (B, H, N, E) to (B, N, C)."""
    return rows_BHNE.transpose(1, 2).flatten(2)


def _unfused(
    query_BHQE: Tensor, key_BHKE: Tensor, value_BHKE: Tensor, *, causal: bool, visible_B11K: Tensor | None
) -> Tensor:
    logits_BHQK = (query_BHQE * query_BHQE.shape[-1] ** -0.5) @ key_BHKE.transpose(-1, -2)
    if causal:
        visible_B11K = torch.ones(logits_BHQK.shape[-2:], dtype=torch.bool, device=logits_BHQK.device).tril()
    if visible_B11K is not None:
        logits_BHQK = logits_BHQK.masked_fill(~visible_B11K, float("-inf"))
    weights_BHQK: Tensor = logits_BHQK.softmax(dim=-1).to(value_BHKE.dtype)
    return weights_BHQK @ value_BHKE

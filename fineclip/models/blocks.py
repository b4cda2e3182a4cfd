"""Forward pass of one transformer block, with attention, for some rows only, or without attention. The modules are upstream's.

Attention is torch's fused kernel, or two matrix products where they are faster.

Legend: B images or texts, T tokens, Q of them as queries, K keys, C width, H heads, E width of a head.
"""

from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from timm.models.eva import EvaBlock
from torch import Tensor

from fineclip.models.rotary import apply_rotary

MAX_KEYS_UNFUSED = 1024  # with more keys, the matrix of logits costs more memory than it saves time


def open_clip_block(
    block: ResidualAttentionBlock,
    tokens_BTC: Tensor,
    *,
    queries_BQC: Tensor | None = None,
    causal: bool = False,
    visible_B11T: Tensor | None = None,
) -> Tensor:
    """Run one block of open_clip's image or text transformer.

    Args:
        block: LayerScale is applied if it has any.
        tokens_BTC: Input of the block; its keys and values.
        queries_BQC: Rows of the input to compute the output for. None computes all.
        causal: Mask the tokens after each token.
        visible_B11T: Boolean; False masks a token for all queries.

    Returns:
        (B, Q, C), or (B, T, C) without `queries_BQC`.
    """
    attention, normed_BTC = block.attn, block.ln_1(tokens_BTC)
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    if queries_BQC is None:
        queries_BQC = tokens_BTC
        query, key, value = F.linear(normed_BTC, weight, bias).chunk(3, dim=-1)
    else:
        width = normed_BTC.shape[-1]
        query = F.linear(block.ln_1(queries_BQC), weight[:width], bias[:width])
        key, value = F.linear(normed_BTC, weight[width:], bias[width:]).chunk(2, dim=-1)
    query, key, value = (split_heads(part, attention.num_heads).transpose(1, 2) for part in (query, key, value))
    attended_BQC = merge_heads(dot_product_attention(query, key, value, causal=causal, visible_B11K=visible_B11T))
    tokens_BQC = queries_BQC + block.ls_1(attention.out_proj(attended_BQC))
    return as_tensor(tokens_BQC + block.ls_2(block.mlp(block.ln_2(tokens_BQC))))


def open_clip_block_without_attention(block: ResidualAttentionBlock, tokens_BTC: Tensor) -> Tensor:
    """Run one block of open_clip's image transformer with each token's value in place of attention; (B, T, C)."""
    weight_CC, bias_C = (packed.chunk(3)[2] for packed in (block.attn.in_proj_weight, block.attn.in_proj_bias))
    value_BTC = F.linear(block.ln_1(tokens_BTC), weight_CC, bias_C)
    tokens_BTC = tokens_BTC + block.ls_1(block.attn.out_proj(value_BTC))
    return as_tensor(tokens_BTC + block.ls_2(block.mlp(block.ln_2(tokens_BTC))))


def eva_block(block: EvaBlock, tokens_BTC: Tensor, *, rotary: Tensor | None = None, rows: int | None = None) -> Tensor:
    """Run one block of timm's EVA-02.

    Args:
        block: LayerScale and norms of queries and keys are applied if it has any.
        tokens_BTC: Input of the block; its keys and values.
        rotary: (T, F, 2) from `rotary_table`, or None without rotary positions.
        rows: Compute the output of the first `rows` tokens only. None computes all.

    Returns:
        (B, rows, C).
    """
    attention, normed_BTC = block.attn, block.norm1(tokens_BTC)
    query = attention.q_norm(split_heads(attention.q_proj(normed_BTC[:, :rows]), attention.num_heads))
    key = attention.k_norm(split_heads(attention.k_proj(normed_BTC), attention.num_heads))
    value = split_heads(attention.v_proj(normed_BTC), attention.num_heads)
    if rotary is not None:
        query, key = apply_rotary(query, rotary).type_as(value), apply_rotary(key, rotary).type_as(value)
    attended = dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    return _eva_residuals(block, tokens_BTC[:, :rows], attention.proj(attention.norm(merge_heads(attended))))


def eva_block_without_attention(block: EvaBlock, tokens_BTC: Tensor) -> Tensor:
    """Run one block of timm's EVA-02 with each token's value in place of attention; (B, T, C)."""
    value_BTC = block.attn.v_proj(block.norm1(tokens_BTC))
    return _eva_residuals(block, tokens_BTC, block.attn.proj(block.attn.norm(value_BTC)))


def _eva_residuals(block: EvaBlock, tokens: Tensor, attended: Tensor) -> Tensor:
    tokens = tokens + (attended if block.gamma_1 is None else block.gamma_1 * attended)
    mixed = block.mlp(block.norm2(tokens))
    return as_tensor(tokens + (mixed if block.gamma_2 is None else block.gamma_2 * mixed))


def as_tensor(value: Any) -> Tensor:
    """Return the output of an untyped upstream module as a tensor."""
    return value  # type: ignore[no-any-return]


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

"""Forward pass of one transformer block, with attention, for some rows only, or without attention. The modules are upstream's.

Legend: B images or texts, T tokens, Q of them as queries, C width.
"""

from typing import Any

import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from timm.models.eva import EvaBlock
from torch import Tensor

from fineclip.models.attention import dot_product_attention, merge_heads, split_heads
from fineclip.models.rotary import apply_rotary


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

"""One block of a tower, from upstream's modules: whole, of some rows only, or without attention.

Legend: B images or texts, T tokens, Q of them as queries, C width.
"""

from typing import Any

import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from timm.models.eva import EvaBlock
from torch import Tensor

from fineclip.models.attention import attend, from_heads, split_heads
from fineclip.models.rotary import turned


def open_clip_block(
    block: ResidualAttentionBlock,
    tokens_BTC: Tensor,
    *,
    queries_BQC: Tensor | None = None,
    causal: bool = False,
    visible_B11T: Tensor | None = None,
) -> Tensor:
    """(B, T, C): one block of open_clip's transformers, image or text.

    With `queries_BQC`, (B, Q, C): of these tokens only, which look at all, or at those that are visible.
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
    attended_BQC = from_heads(attend(query, key, value, causal=causal, visible_B11K=visible_B11T))
    tokens_BQC = queries_BQC + block.ls_1(attention.out_proj(attended_BQC))
    return _tensor(tokens_BQC + block.ls_2(block.mlp(block.ln_2(tokens_BQC))))


def open_clip_block_value_only(block: ResidualAttentionBlock, tokens_BTC: Tensor) -> Tensor:
    """(B, T, C): one block of open_clip's transformers without attention, each token by itself."""
    weight_CC, bias_C = (packed.chunk(3)[2] for packed in (block.attn.in_proj_weight, block.attn.in_proj_bias))
    value_BTC = F.linear(block.ln_1(tokens_BTC), weight_CC, bias_C)
    tokens_BTC = tokens_BTC + block.ls_1(block.attn.out_proj(value_BTC))
    return _tensor(tokens_BTC + block.ls_2(block.mlp(block.ln_2(tokens_BTC))))


def eva_block(block: EvaBlock, tokens_BTC: Tensor, *, turns: Tensor | None, rows: int | None = None) -> Tensor:
    """(B, rows, C): one block of timm's EVA-02, of the first `rows` tokens only where that is asked."""
    attention, normed_BTC = block.attn, block.norm1(tokens_BTC)
    query = attention.q_norm(split_heads(attention.q_proj(normed_BTC[:, :rows]), attention.num_heads))
    key = attention.k_norm(split_heads(attention.k_proj(normed_BTC), attention.num_heads))
    value = split_heads(attention.v_proj(normed_BTC), attention.num_heads)
    if turns is not None:
        query, key = turned(query, turns).type_as(value), turned(key, turns).type_as(value)
    attended = attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    return _eva_residuals(block, tokens_BTC[:, :rows], attention.proj(attention.norm(from_heads(attended))))


def eva_block_value_only(block: EvaBlock, tokens_BTC: Tensor) -> Tensor:
    """(B, T, C): one block of timm's EVA-02 without attention, each token by itself."""
    value_BTC = block.attn.v_proj(block.norm1(tokens_BTC))
    return _eva_residuals(block, tokens_BTC, block.attn.proj(block.attn.norm(value_BTC)))


def _eva_residuals(block: EvaBlock, tokens: Tensor, attended: Tensor) -> Tensor:
    tokens = tokens + (attended if block.gamma_1 is None else block.gamma_1 * attended)
    mixed = block.mlp(block.norm2(tokens))
    return _tensor(tokens + (mixed if block.gamma_2 is None else block.gamma_2 * mixed))


def _tensor(value: Any) -> Tensor:
    """What an upstream module, untyped, returns."""
    return value  # type: ignore[no-any-return]

"""Forward passes of the small CLIP for a CPU, with matrix products instead of fused attention.

The backward pass of fused attention is slow on a CPU, above all in bfloat16, and sequences are short. The results equal
open_clip's up to rounding.

Legend: B images, N texts, L tokens of a text, T tokens of an image with the class token first, C width, D embedding.
"""

import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn


def encode_images(model: CLIP, images: Tensor) -> Tensor:
    """Encode images by the mean over patches; (B, D) unit vectors."""
    visual = model.visual
    patches_BPC = visual.conv1(images).flatten(2).transpose(1, 2)
    side = round(patches_BPC.shape[1] ** 0.5)
    class_B1C = visual.class_embedding.to(patches_BPC.dtype).expand(len(images), 1, -1)
    tokens_BTC = torch.cat([class_B1C, patches_BPC], dim=1) + resize_positions(visual.positional_embedding, side)
    tokens_BTC = visual.ln_pre(tokens_BTC)
    for block in visual.transformer.resblocks:
        tokens_BTC = _block(block, tokens_BTC)
    return F.normalize((visual.ln_post(tokens_BTC[:, 1:]).mean(dim=1) @ visual.proj).float(), dim=-1)


def encode_texts(model: CLIP, texts: Tensor) -> Tensor:
    """Encode texts by the output at the end token; (N, D) unit vectors."""
    end_N = texts.argmax(dim=-1)
    texts = texts[:, : int(end_N.max()) + 1]  # a causal tower does not see later tokens
    tokens_NLC = model.token_embedding(texts) + model.positional_embedding[: texts.shape[1]]
    mask_LL = model.attn_mask[: texts.shape[1], : texts.shape[1]]
    for block in model.transformer.resblocks:
        tokens_NLC = _block(block, tokens_NLC, mask_LL)
    ends_NC = model.ln_final(tokens_NLC[torch.arange(len(texts)), end_N])
    return F.normalize((ends_NC @ model.text_projection).float(), dim=-1)


def resize_positions(position_TC: Tensor, side: int) -> Tensor:
    """Interpolate position embeddings to `side` by `side` patches; the row of the class token is kept."""
    old_side = round((len(position_TC) - 1) ** 0.5)
    if side == old_side:
        return position_TC
    grid_1Chw = position_TC[1:].T.reshape(1, -1, old_side, old_side)
    grid_1Chw = F.interpolate(grid_1Chw, (side, side), mode="bicubic", antialias=False, align_corners=False)
    return torch.cat([position_TC[:1], grid_1Chw.flatten(2)[0].T])


def _block(block: ResidualAttentionBlock, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    tokens = tokens + _attend(block.attn, block.ln_1(tokens), mask)
    out: Tensor = tokens + block.mlp(block.ln_2(tokens))
    return out


def _attend(attention: nn.MultiheadAttention, tokens: Tensor, mask: Tensor | None) -> Tensor:
    projected = F.linear(tokens, attention.in_proj_weight, attention.in_proj_bias)
    heads = projected.reshape(*projected.shape[:2], 3, attention.num_heads, -1)
    query, key, value = heads.permute(2, 0, 3, 1, 4)
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    weights = (logits if mask is None else logits + mask).softmax(dim=-1).to(value.dtype)
    attended: Tensor = attention.out_proj((weights @ value).transpose(1, 2).flatten(2))
    return attended

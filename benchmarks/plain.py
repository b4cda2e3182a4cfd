"""Reimplementation of the official FineCLIP formulation, the reference of the benchmarks.

Dense maps and embeddings of images come from separate forward passes, the last block is computed for all rows although one
is used, every text has 77 tokens in every step, and features are padded to K slots per image and gathered row by row.

It runs on the same weights with two sets of kernels: `OurKernels`, this package's blocks, attention and rotary positions,
so that only the formulation differs; `UpstreamKernels`, the forward passes of timm and open_clip, for a comparison
without this package.

Source: FineCLIP, training/clipself.py, eva_clip/loss.py, eva_vit_model.py. Rows of zeros are dropped, as in the official code
on several GPUs; on one GPU it keeps them, which is another objective.

Legend: B images, K slots, R regions, N rows, D embedding, P patches, C width, L tokens.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from benchmarks.inputs import Padded
from fineclip.models.encoder import RegionEncoder
from fineclip.models.trunks import EvaTrunk, open_clip_block


class Kernels(Protocol):
    """The three separate passes of an encoder."""

    def image(self, images_B3SS: Tensor) -> Tensor:
        """Encode images, (B, D)."""

    def dense(self, images_B3SS: Tensor) -> Tensor:
        """Encode images to dense features, (B, P, D), unit vectors."""

    def text(self, texts_NL: Tensor) -> Tensor:
        """Encode texts, (N, D)."""


class OurKernels:
    """Blocks of this package, run on all rows and all tokens as in the official code."""

    def __init__(self, encoder: RegionEncoder) -> None:
        self.encoder, self.trunk = encoder, encoder.trunk

    def image(self, images_B3SS: Tensor) -> Tensor:
        tokens_BTC = self.trunk.norm(self.trunk.last(self.trunk.forward_before_last(images_B3SS)))
        pooled_BC = tokens_BTC[:, 0] if self.encoder.head == "cls" else tokens_BTC[:, 1:].mean(dim=1)
        return self.trunk.project(pooled_BC)

    def dense(self, images_B3SS: Tensor) -> Tensor:
        tokens_BTC = self.trunk.last_without_attention(self.trunk.forward_before_last(images_B3SS).tokens_BTC)
        return F.normalize(self.trunk.project(self.trunk.norm(tokens_BTC[:, 1:])), dim=-1)

    def text(self, texts_NL: Tensor) -> Tensor:
        tower = self.encoder.text_tower
        rows_NLC = tower.get_submodule("token_embedding")(texts_NL) + tower.positional_embedding
        for block in tower.get_submodule("transformer.resblocks"):
            rows_NLC = open_clip_block(block, rows_NLC, causal=True)
        rows_NLC = tower.get_submodule("ln_final")(rows_NLC)
        return (
            rows_NLC[torch.arange(len(texts_NL), device=texts_NL.device), texts_NL.argmax(dim=-1)]
            @ tower.text_projection
        )


class UpstreamKernels:
    """Modules and forward passes of open_clip and timm."""

    def __init__(self, encoder: RegionEncoder) -> None:
        if not isinstance(encoder.trunk, EvaTrunk):
            raise TypeError("the official code runs EVA-02 trunks")
        self.visual, self.text_tower = encoder.get_submodule("visual"), encoder.text_tower

    def image(self, images_B3SS: Tensor) -> Tensor:
        return self.visual(images_B3SS)

    def dense(self, images_B3SS: Tensor) -> Tensor:
        trunk = self.visual.trunk
        tokens_BTC, rope = trunk._pos_embed(trunk.patch_embed(images_B3SS))
        tokens_BTC = trunk.norm_pre(tokens_BTC)
        *blocks, last = trunk.blocks
        for block in blocks:
            tokens_BTC = block(tokens_BTC, rope=rope)
        value_BTC = last.attn.v_proj(last.norm1(tokens_BTC))
        tokens_BTC = tokens_BTC + last.attn.proj(last.attn.norm(value_BTC))
        tokens_BTC = tokens_BTC + last.mlp(last.norm2(tokens_BTC))
        return F.normalize(trunk.head(trunk.norm(tokens_BTC[:, 1:])), dim=-1)

    def text(self, texts_NL: Tensor) -> Tensor:
        return self.text_tower(texts_NL)


def plain_loss(encoder: RegionEncoder, kernels: Kernels, batch: Padded, *, detaches_crops: bool = False) -> Tensor:
    """Return the sum of the three loss terms on one process.

    Args:
        encoder: Encoder whose inverse temperature is used.
        kernels: Implementation of its towers.
        batch: Batch in the form of the official loader.
        detaches_crops: Whether the crop branch has no gradient; the official code has one.

    Returns:
        Scalar loss.
    """
    valid_BK = batch.boxes_BK5[..., 4] > 0.5
    boxes = [rows[valid, :4] for rows, valid in zip(batch.boxes_BK5, valid_BK, strict=True)]
    crops = torch.cat([rows[valid] for rows, valid in zip(batch.crops_BK3SS, valid_BK, strict=True)])
    texts = torch.cat([rows[valid] for rows, valid in zip(batch.region_texts_BKL, valid_BK, strict=True)])
    with torch.set_grad_enabled(not detaches_crops):
        teacher_RD = _unit(kernels.image(crops))
    student_RD = _unit(_pooled(kernels.dense(batch.images_B3SS), boxes))
    with torch.no_grad():
        region_text_RD = _unit(kernels.text(texts))
    distill = 1 - (student_RD * teacher_RD).sum(dim=-1).mean()

    image_BD = _unit(kernels.image(batch.images_B3SS))
    with torch.no_grad():
        text_BD = _unit(kernels.text(batch.texts_BL))
    scale, slots = encoder.logit_scale.exp(), valid_BK.numel()
    region_term = contrast(dropped(_filled(student_RD, slots)), dropped(_filled(region_text_RD, slots)), scale)
    return distill + contrast(image_BD, text_BD, scale) + region_term


def contrast(left_ND: Tensor, right_ND: Tensor, scale: Tensor) -> Tensor:
    """Return the symmetric cross-entropy of all logits with the diagonal as target."""
    with torch.autocast(left_ND.device.type, enabled=False):
        logits_NN = scale * left_ND @ right_ND.T
        own_N = torch.arange(len(left_ND), device=left_ND.device)
        return (F.cross_entropy(logits_NN, own_N) + F.cross_entropy(logits_NN.T, own_N)) / 2


def dropped(padded_ND: Tensor) -> Tensor:
    """Return the rows that are not zero, checked one by one.

    Source: eva_clip/loss.py `gather_features` with `skip=True`: a Python loop that synchronizes with the device for every row.
    """
    return torch.stack([row for row in padded_ND if bool(row.abs().sum() > 0)])


def _filled(rows_ND: Tensor, slots: int) -> Tensor:
    """Append zero rows, so that all processes gather the same number."""
    filled = rows_ND.new_zeros(slots, rows_ND.shape[1])
    filled[: len(rows_ND)] = rows_ND
    return filled


def _pooled(dense_BPD: Tensor, boxes: list[Tensor]) -> Tensor:
    """Return 1 x 1 RoIAlign features of the boxes, (R, D)."""
    side = round(dense_BPD.shape[1] ** 0.5)
    map_BDhw = dense_BPD.float().transpose(1, 2).unflatten(2, (side, side)).contiguous()
    return roi_align(map_BDhw, [each * side for each in boxes], (1, 1), 1.0, -1, True)[..., 0, 0]


def _unit(rows_ND: Tensor) -> Tensor:
    return F.normalize(rows_ND.float(), dim=-1)

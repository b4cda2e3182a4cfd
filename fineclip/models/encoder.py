"""A CLIP that also describes regions: upstream's open_clip model, unchanged, with another way through its last block.

Legend: B images, N texts, L tokens of a text, R regions of all images (packed), D embedding, H W pixels, h w patches,
C width.

Images are normalised floats, or 8-bit pixels, which are normalised here: a quarter of the memory until then. Embeddings of
images, texts and regions are not normalised: losses and scores do that. They are float32 under autocast too.
"""

from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, TextTransformer
from torch import Tensor, nn
from torchvision.ops import roi_align

from fineclip.config import EncoderConfig
from fineclip.errors import ConfigError
from fineclip.models.architecture import build_model
from fineclip.models.blocks import open_clip_block
from fineclip.models.images import normalize_pixels
from fineclip.models.trunks import Hidden, trunk_of

SMALL = 1e-12  # area of an empty mask, so that it gives zeros
FARTHEST = 10  # images away; a box that reaches farther is not in fractions


class RegionEncoder(nn.Module):
    """An open_clip model, `CLIP` or `CustomTextCLIP`, with its own parameters under their own names.

    The modules of `model` become this module's, so `state_dict()` is what open_clip itself would write.

    Rows: no image, no text or no region in gives `(0, D)` out, still connected to the parameters that the path uses, so
    that a process without regions takes part in every collective of the backward pass.

    Attributes:
        width: D.
        head: `cls`, the class token, or `mean`, all patches: what an image's embedding is made of.
        patch: height and width of a patch in pixels; images are whole patches, of any size and aspect ratio.
        context_length: most tokens of a text.
        logit_scale: logarithm of the inverse temperature, a scalar parameter.

    Raises:
        ConfigError: the model is of a kind whose dense features nobody has defined; the message names it.
    """

    logit_scale: nn.Parameter

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        for name, module in model.named_children():
            self.add_module(name, module)
        for name, parameter in model.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in model.named_buffers(recurse=False):
            self.register_buffer(name, buffer, persistent=name not in model._non_persistent_buffers_set)
        if "logit_bias" in self._parameters:
            raise ConfigError("this model has a logit bias (SigLIP): the losses here have none")
        self.trunk = trunk_of(self.get_submodule("visual"))
        self.width, self.head, self.patch = self.trunk.width, self.trunk.head, self.trunk.patch
        self.context_length = int(model.context_length)  # type: ignore[arg-type]
        self.vocabulary_size = int(model.vocab_size)  # type: ignore[arg-type]
        _check_text_tower(self.text_tower, pool=str(getattr(model, "text_pool_type", "")))

    @property
    def text_tower(self) -> nn.Module:
        """What holds the parts of the text tower: `text` in newer models, the model itself in OpenAI's."""
        return self.get_submodule("text") if "text" in self._modules else self

    def vision_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Those of the vision tower, by their names here."""
        return ((name, value) for name, value in self.named_parameters() if name.startswith("visual."))

    def text_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Those of the text tower, by their names here; the logit scale is not among them."""
        vision = {name for name, _ in self.vision_parameters()} | {"logit_scale"}
        return ((name, value) for name, value in self.named_parameters() if name not in vision)

    def seen(self, images_B3HW: Tensor) -> Tensor:
        """8-bit pixels as normalised floats of the weights' type; floats as they are."""
        if images_B3HW.is_floating_point():
            return images_B3HW
        return normalize_pixels(images_B3HW).to(self.logit_scale.dtype)

    def encode_image(self, images_B3HW: Tensor) -> Tensor:
        """(B, D), not normalised."""
        return self._global(self._before_last(images_B3HW))[: len(images_B3HW)]

    def encode_text(self, tokens_NL: Tensor) -> Tensor:
        """(N, D), not normalised: read where the largest token stands, the first if there are several: the end token.

        L may be less than `context_length`: a causal tower does not see what follows the end, so texts that are cut there
        (`tokenizer.cut_after_ends`) have the same embeddings and gradients. The last block is computed for the end only.

        Source: CLIP.

        Raises:
            ConfigError: the texts are longer than the tower reads.
        """
        texts_NL, tower = _at_least_one(tokens_NL), self.text_tower
        length = texts_NL.shape[1]
        if not 0 < length <= self.context_length:
            raise ConfigError(f"texts of {length} tokens, but the text tower reads 1 to {self.context_length}")
        positions_LC = cast("Tensor", tower.positional_embedding)
        rows_NLC = tower.get_submodule("token_embedding")(texts_NL) + positions_LC[:length]
        *blocks, last = _blocks(tower)
        for block in blocks:
            rows_NLC = open_clip_block(block, rows_NLC, causal=True)
        end_N, place_N = texts_NL.argmax(dim=-1), torch.arange(len(texts_NL), device=texts_NL.device)
        visible_N11L = (torch.arange(length, device=end_N.device) <= end_N[:, None])[:, None, None]
        end_N1C = open_clip_block(
            last, rows_NLC, queries_BQC=rows_NLC[place_N, end_N][:, None], visible_B11T=visible_N11L
        )
        embedding_ND = tower.get_submodule("ln_final")(end_N1C[:, 0]) @ cast("Tensor", tower.text_projection)
        return _full_precision(embedding_ND)[: len(tokens_NL)]

    def encode_dense(self, images_B3HW: Tensor) -> Tensor:
        """(B, D, h, w), each token a unit vector: the last block without attention, then the head, token by token."""
        return self._dense(self._before_last(images_B3HW))[: len(images_B3HW)]

    def encode_regions(self, images_B3HW: Tensor, boxes_R4: Tensor, box_to_image_R: Tensor) -> Tensor:
        """(R, D), not normalised: the dense features of each box; boxes as in `pool_regions`."""
        hidden = self._before_last(images_B3HW, regions=boxes_R4)
        return pool_regions(self._dense(hidden), boxes_R4, box_to_image_R)

    def encode_masks(self, images_B3HW: Tensor, masks_Rhw: Tensor, mask_to_image_R: Tensor) -> Tensor:
        """(R, D), not normalised: the dense features under each mask; masks as in `pool_masks`."""
        hidden = self._before_last(images_B3HW, regions=masks_Rhw)
        return pool_masks(self._dense(hidden), masks_Rhw, mask_to_image_R)

    def encode_image_and_regions(
        self, images_B3HW: Tensor, boxes_R4: Tensor, box_to_image_R: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(B, D) and (R, D), as `encode_image` and `encode_regions` give them; only the last block runs twice."""
        hidden = self._before_last(images_B3HW, regions=boxes_R4)
        region_RD = pool_regions(self._dense(hidden), boxes_R4, box_to_image_R)
        return self._global(hidden)[: len(images_B3HW)], region_RD

    def _before_last(self, images_B3HW: Tensor, *, regions: Tensor | None = None) -> Hidden:
        if regions is not None and len(regions) and not len(images_B3HW):
            raise ConfigError(f"regions are given ({len(regions)}), but no image that they could be of")
        return self.trunk.before_last(self.seen(_at_least_one(images_B3HW)))

    def _global(self, hidden: Hidden) -> Tensor:
        if self.head == "cls":
            rows_BC = self.trunk.norm(self.trunk.last(hidden, rows=1))[:, 0]
        else:
            rows_BC = self.trunk.norm(self.trunk.last(hidden)[:, 1:]).mean(dim=1)
        return _full_precision(self.trunk.project(rows_BC))

    def _dense(self, hidden: Hidden) -> Tensor:
        tokens_BPC = self.trunk.last_value_only(hidden.tokens_BTC[:, 1:])
        dense_BPD = F.normalize(_full_precision(self.trunk.project(self.trunk.norm(tokens_BPC))), dim=-1)
        return dense_BPD.transpose(1, 2).reshape(len(dense_BPD), self.width, *hidden.grid)


def build_encoder(config: EncoderConfig) -> RegionEncoder:
    """The encoder that a configuration describes, with weights drawn from torch's global generator.

    Raises:
        ConfigError: the model cannot be used, pools in another way than `head` says, or its patches do not fit the sizes.
    """
    try:
        encoder = RegionEncoder(build_model(config))
    except ConfigError as error:
        raise ConfigError(f"encoder {config.model}: {error}") from None
    if encoder.head != config.head:
        raise ConfigError(
            f"encoder {config.model}: head is {config.head!r}, but the model's is {encoder.head!r}: set that"
        )
    for name, size in (("image_size", config.image_size), ("crop_size", config.crop_size)):
        if size % encoder.patch[0] or size % encoder.patch[1]:
            raise ConfigError(f"encoder {config.model}: {name} {size} px is not whole patches of {encoder.patch[0]} px")
    return encoder


def pool_regions(dense_BDhw: Tensor, boxes_R4: Tensor, box_to_image_R: Tensor) -> Tensor:
    """(R, D): the mean of a map over each box, by RoIAlign 1 x 1, aligned, as many samples as the box has cells.

    Args:
        dense_BDhw: unit vectors.
        boxes_R4: x1, y1, x2, y2 as fractions of the image; neither clipped nor enlarged here.
        box_to_image_R: which image each box is of, from 0 to B - 1. Values are checked on the host only, not on a GPU.

    Up to a cell outside the map its border goes on, beyond that are zeros. A box without area, x2 <= x1 or y2 <= y1, gives
    zeros and no gradient, as an empty mask does.

    Source: CLIPSelf and FineCLIP, `_extract_roi_features_v1` for EVA and `_v2` for OpenAI. Coordinates are
    float32 under autocast too: in half precision a box would move by up to an eighth of a cell.

    Raises:
        ConfigError: the shapes do not fit each other, a box is of no image of the batch, or in pixels.
    """
    _check_owners(boxes_R4, box_to_image_R, shape=(4,), images=len(dense_BDhw))
    if boxes_R4.device.type == "cpu" and not bool((boxes_R4.abs() <= FARTHEST).all()):
        raise ConfigError(
            f"boxes reach as far as {float(boxes_R4.abs().max()):g}: expected fractions of the image, 0 to 1"
        )
    height, width = dense_BDhw.shape[-2:]
    cells_R4 = boxes_R4.to(dense_BDhw.dtype) * dense_BDhw.new_tensor([width, height, width, height])
    near_R2, far_R2 = torch.split(cells_R4, 2, dim=1)
    corners_R4 = torch.cat([near_R2, torch.maximum(near_R2, far_R2)], dim=1)  # torchvision fails on a negative area
    rois_R5 = torch.cat([box_to_image_R[:, None].to(corners_R4), corners_R4], dim=1)
    with torch.autocast(dense_BDhw.device.type, enabled=False):
        pooled_RD11 = roi_align(dense_BDhw, rois_R5, output_size=(1, 1), sampling_ratio=-1, aligned=True)
    return cast("Tensor", pooled_RD11.flatten(1))


def pool_masks(dense_BDhw: Tensor, masks_Rhw: Tensor, mask_to_image_R: Tensor) -> Tensor:
    """(R, D): the mean of a map under each mask, weighted where the mask is not 0 or 1; zeros for an empty mask.

    Args:
        dense_BDhw: unit vectors.
        masks_Rhw: on the grid of the map, of any type, not negative.
        mask_to_image_R: which image each mask is of, from 0 to B - 1. Values are checked on the host only.

    Source: CLIPSelf, `mask_pool`. Deviation: one product with the maps of all images, so that no map is copied for each of
    its masks.

    Raises:
        ConfigError: the masks are not on the grid of the map, or of no image of the batch.
    """
    _check_owners(masks_Rhw, mask_to_image_R, shape=tuple(dense_BDhw.shape[-2:]), images=len(dense_BDhw))
    weights_RP = _full_precision(masks_Rhw.flatten(1).to(dense_BDhw.dtype))
    spread_RBP = weights_RP.new_zeros(len(weights_RP), len(dense_BDhw), weights_RP.shape[1])
    spread_RBP[torch.arange(len(weights_RP), device=weights_RP.device), mask_to_image_R] = weights_RP
    with torch.autocast(dense_BDhw.device.type, enabled=False):
        sum_RD = torch.einsum("rbp,bdp->rd", spread_RBP, _full_precision(dense_BDhw.flatten(2)))
    return sum_RD / (weights_RP.sum(dim=1, keepdim=True) + SMALL)


def _blocks(text_tower: nn.Module) -> list[ResidualAttentionBlock]:
    blocks = text_tower.get_submodule("transformer.resblocks").children()
    return list(cast("Iterator[ResidualAttentionBlock]", blocks))


def _at_least_one(rows: Tensor) -> Tensor:
    """`rows`, or one row of zeros, whose result is cut off again: not every kernel of every device takes no rows."""
    return rows if len(rows) else rows.new_zeros(1, *rows.shape[1:])


def _check_owners(rows: Tensor, owner_R: Tensor, *, shape: tuple[int, ...], images: int) -> None:
    """That R rows of such a shape have R owners among the images; without waiting for a GPU."""
    if rows.shape[1:] != shape or owner_R.shape != rows.shape[:1]:
        expected = " x ".join(map(str, shape))
        raise ConfigError(
            f"regions of shape {tuple(rows.shape)} with {tuple(owner_R.shape)} indices of their images do not fit: expected"
            f" R regions of {expected} (boxes of 4 numbers, masks on the grid of the map) and R indices"
        )
    if owner_R.device.type == "cpu" and len(owner_R):
        wrong = next((owner for owner in (int(owner_R.min()), int(owner_R.max())) if not 0 <= owner < images), None)
        if wrong is not None:
            there = "there is 1 image" if images == 1 else f"there are {images} images"
            raise ConfigError(f"a region is of image {wrong}, but {there}, counted from 0")


def _full_precision(rows: Tensor) -> Tensor:
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def _check_text_tower(tower: nn.Module, *, pool: str) -> None:
    """That it is CLIP's causal transformer, read at the end token."""
    if isinstance(tower, TextTransformer):
        pool = tower.pool_type
        if tower.cls_emb is not None or tower.attn_mask is None:
            raise ConfigError("this text tower cannot be used: it is not causal, or has a class token (CoCa, SigLIP)")
    elif not isinstance(tower, RegionEncoder):
        raise ConfigError(f"this text tower cannot be used: it is a {type(tower).__name__}, not open_clip's own")
    if pool != "argmax":
        raise ConfigError(f"this text tower cannot be used: it is read at {pool!r}, not at the end token")
    if not isinstance(tower.text_projection, nn.Parameter):
        raise ConfigError("this text tower cannot be used: its projection is not one matrix")
    if not all(type(block) is ResidualAttentionBlock for block in _blocks(tower)):
        raise ConfigError("this text tower cannot be used: it has another block_type than default")

"""Region encoder: an open_clip model whose dense features describe regions.

Legend: B images, N texts, L tokens of a text, R regions of all images (packed), D embedding, H W pixels, h w patches,
C width.

Images are normalized floats, or uint8 pixels, which take a quarter of the memory and are normalized here. Embeddings of
images, texts and regions are not normalized: losses and metrics do that. They are float32, also under autocast.
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
from fineclip.models.trunks import Hidden, build_trunk

EPSILON = 1e-12  # added to the area of a mask, so that an empty mask gives zeros
MAX_FRACTION = 10  # largest coordinate of a box; larger ones are pixels by mistake


class RegionEncoder(nn.Module):
    """Wrap an open_clip model and add dense features and embeddings of regions.

    The modules and parameters of `model` become those of this module, so `state_dict()` has open_clip's keys.

    Zero images, texts or regions give `(0, D)`, connected to all parameters of that path, so that a rank without regions takes
    part in every collective of the backward pass.

    Args:
        model: `CLIP` or `CustomTextCLIP` of open_clip.

    Attributes:
        width: Width of the embeddings, D.
        head: `cls` if the embedding of an image is the class token, `mean` if it is the mean of the patches.
        patch: Height and width of a patch in pixels. Images have any size and aspect ratio in multiples of it.
        context_length: Maximum number of tokens of a text.
        vocabulary_size: Number of tokens of the tokenizer.
        logit_scale: Logarithm of the inverse temperature, a scalar parameter.

    Raises:
        ConfigError: Dense features are not defined for this kind of model; the message names the part.

    Examples:
        >>> import torch
        >>> from fineclip.models.checkpoints import find_encoder
        >>> encoder = find_encoder("mini").load()
        >>> encoder.width, encoder.head, encoder.patch
        (128, 'mean', (12, 12))
        >>> images = torch.zeros(2, 3, 96, 96, dtype=torch.uint8)
        >>> boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.2, 0.2, 0.8, 0.8], [0.0, 0.0, 1.0, 1.0]])
        >>> image_BD, region_RD = encoder.encode_image_and_regions(images, boxes, torch.tensor([0, 0, 1]))
        >>> image_BD.shape, region_RD.shape
        (torch.Size([2, 128]), torch.Size([3, 128]))
        >>> encoder.encode_dense(torch.zeros(1, 3, 48, 120)).shape
        torch.Size([1, 128, 4, 10])
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
        self.trunk = build_trunk(self.get_submodule("visual"))
        self.width, self.head, self.patch = self.trunk.width, self.trunk.head, self.trunk.patch
        self.context_length = int(model.context_length)  # type: ignore[arg-type]
        self.vocabulary_size = int(model.vocab_size)  # type: ignore[arg-type]
        _check_text_tower(self.text_tower, pool=str(getattr(model, "text_pool_type", "")))

    @property
    def text_tower(self) -> nn.Module:
        """Module that holds the text tower: `text` of `CustomTextCLIP`, this module itself for `CLIP`."""
        return self.get_submodule("text") if "text" in self._modules else self

    def vision_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over the names and parameters of the vision tower."""
        return ((name, value) for name, value in self.named_parameters() if name.startswith("visual."))

    def text_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over the names and parameters of the text tower, without the logit scale."""
        others = ("visual.", "logit_scale")
        return ((name, value) for name, value in self.named_parameters() if not name.startswith(others))

    def require_whole_patches(self, size: int, *, what: str) -> None:
        """Check that the side of a square image is a multiple of the patch.

        Args:
            size: Side in pixels.
            what: Beginning of the message: the name of the size.

        Raises:
            ConfigError: It is less than 1 or not a multiple of the patch height and width.
        """
        height, width = self.patch
        if size < 1 or size % height or size % width:
            raise ConfigError(
                f"{what} {size} px is not a multiple of the encoder's patch of {height} x {width} px. Set a multiple."
            )

    def preprocess(self, images_B3HW: Tensor) -> Tensor:
        """Normalize uint8 pixels, in the type of the weights. Floats are returned unchanged."""
        if images_B3HW.is_floating_point():
            return images_B3HW
        return normalize_pixels(images_B3HW).to(self.logit_scale.dtype)

    def encode_image(self, images_B3HW: Tensor) -> Tensor:
        """Encode whole images.

        Args:
            images_B3HW: Normalized floats or uint8 pixels; H and W are multiples of the patch.

        Returns:
            (B, D), not normalized.
        """
        return self._global(self._before_last(images_B3HW))[: len(images_B3HW)]

    def encode_text(self, tokens_NL: Tensor) -> Tensor:
        """Encode texts. The embedding is the output at the first of the largest tokens, which is the end token.

        The last block is computed for that token only.

        Args:
            tokens_NL: Token ids. L may be less than `context_length`: the tower is causal, so padding after the end changes
                neither embeddings nor gradients (`tokenizer.trim_padding` removes it).

        Returns:
            (N, D), not normalized.

        Raises:
            ConfigError: L is 0 or larger than `context_length`.

        Source:
            Radford et al. 2021; open_clip, `text_global_pool`.
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
        """Encode every patch: last block without attention, then norm and projection of each token.

        Args:
            images_B3HW: As in `encode_image`.

        Returns:
            (B, D, h, w), a unit vector for each patch.
        """
        return self._dense(self._before_last(images_B3HW))[: len(images_B3HW)]

    def encode_regions(self, images_B3HW: Tensor, boxes_R4: Tensor, box_to_image_R: Tensor) -> Tensor:
        """Encode boxes from dense features.

        Args:
            images_B3HW: As in `encode_image`.
            boxes_R4: As in `pool_regions`.
            box_to_image_R: As in `pool_regions`.

        Returns:
            (R, D), not normalized.
        """
        hidden = self._before_last(images_B3HW, regions=boxes_R4)
        return pool_regions(self._dense(hidden), boxes_R4, box_to_image_R)

    def encode_masks(self, images_B3HW: Tensor, masks_Rhw: Tensor, mask_to_image_R: Tensor) -> Tensor:
        """Encode masks from dense features.

        Args:
            images_B3HW: As in `encode_image`.
            masks_Rhw: As in `pool_masks`.
            mask_to_image_R: As in `pool_masks`.

        Returns:
            (R, D), not normalized.
        """
        hidden = self._before_last(images_B3HW, regions=masks_Rhw)
        return pool_masks(self._dense(hidden), masks_Rhw, mask_to_image_R)

    def encode_image_and_regions(
        self, images_B3HW: Tensor, boxes_R4: Tensor, box_to_image_R: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Encode whole images and boxes in one pass; only the last block runs twice.

        Args:
            images_B3HW: As in `encode_image`.
            boxes_R4: As in `pool_regions`.
            box_to_image_R: As in `pool_regions`.

        Returns:
            (B, D) as `encode_image` and (R, D) as `encode_regions`.
        """
        hidden = self._before_last(images_B3HW, regions=boxes_R4)
        region_RD = pool_regions(self._dense(hidden), boxes_R4, box_to_image_R)
        return self._global(hidden)[: len(images_B3HW)], region_RD

    def _before_last(self, images_B3HW: Tensor, *, regions: Tensor | None = None) -> Hidden:
        if regions is not None and len(regions) and not len(images_B3HW):
            raise ConfigError(f"{len(regions)} regions, but no images")
        return self.trunk.forward_before_last(self.preprocess(_at_least_one(images_B3HW)))

    def _global(self, hidden: Hidden) -> Tensor:
        if self.head == "cls":
            rows_BC = self.trunk.norm(self.trunk.last(hidden, rows=1))[:, 0]
        else:
            rows_BC = self.trunk.norm(self.trunk.last(hidden)[:, 1:]).mean(dim=1)
        return _full_precision(self.trunk.project(rows_BC))

    def _dense(self, hidden: Hidden) -> Tensor:
        tokens_BPC = self.trunk.last_without_attention(hidden.tokens_BTC[:, 1:])
        dense_BPD = F.normalize(_full_precision(self.trunk.project(self.trunk.norm(tokens_BPC))), dim=-1)
        return dense_BPD.transpose(1, 2).reshape(len(dense_BPD), self.width, *hidden.grid)


def build_encoder(config: EncoderConfig) -> RegionEncoder:
    """Build an encoder with random weights from torch's global generator.

    Args:
        config: Architecture, head and sizes.

    Returns:
        The encoder in training mode, on the CPU.

    Raises:
        ConfigError: The model is not supported, has another head, or a size is not a multiple of its patch.
    """
    try:
        encoder = RegionEncoder(build_model(config))
    except ConfigError as error:
        raise ConfigError(f"encoder {config.model}: {error}") from None
    if encoder.head != config.head:
        raise ConfigError(
            f"encoder {config.model}: head is {config.head!r}, but the model's is {encoder.head!r}: set that"
        )
    encoder.require_whole_patches(config.image_size, what=f"encoder {config.model}: image_size")
    encoder.require_whole_patches(config.crop_size, what=f"encoder {config.model}: crop_size")
    return encoder


def pool_regions(dense_BDhw: Tensor, boxes_R4: Tensor, box_to_image_R: Tensor) -> Tensor:
    """Average a feature map over each box: RoIAlign 1 x 1, aligned, one sample for each cell of the box.

    Within one cell outside the map the border value is repeated; farther out samples are zero. A box without area
    (x2 <= x1 or y2 <= y1) gives zeros and no gradient.

    Args:
        dense_BDhw: Unit vectors.
        boxes_R4: x1, y1, x2, y2 as fractions of the image. They are not clipped here.
        box_to_image_R: Index of each box's image, 0 to B - 1. Values are checked on a CPU only.

    Returns:
        (R, D), not normalized.

    Raises:
        ConfigError: The shapes do not fit each other, an index is out of range, or boxes are in pixels.

    Source:
        CLIPSelf and FineCLIP, `_extract_roi_features_v1` for EVA and `_v2` for OpenAI. Deviation: coordinates are float32 under
        autocast; half precision moves a box by up to an eighth of a cell.
    """
    _check_owners(boxes_R4, box_to_image_R, shape=(4,), images=len(dense_BDhw))
    if boxes_R4.device.type == "cpu" and not bool((boxes_R4.abs() <= MAX_FRACTION).all()):
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
    """Average a feature map under each mask, with the mask as weights. An empty mask gives zeros.

    Args:
        dense_BDhw: Unit vectors.
        masks_Rhw: Weights of at least 0, of any type, on the grid of the map.
        mask_to_image_R: Index of each mask's image, 0 to B - 1. Values are checked on a CPU only.

    Returns:
        (R, D), not normalized.

    Raises:
        ConfigError: The masks are not on the grid of the map, or an index is out of range.

    Source:
        CLIPSelf, `mask_pool`. Deviation: one product with the maps of all images, so that no map is copied for each mask.
    """
    _check_owners(masks_Rhw, mask_to_image_R, shape=tuple(dense_BDhw.shape[-2:]), images=len(dense_BDhw))
    weights_RP = _full_precision(masks_Rhw.flatten(1).to(dense_BDhw.dtype))
    spread_RBP = weights_RP.new_zeros(len(weights_RP), len(dense_BDhw), weights_RP.shape[1])
    spread_RBP[torch.arange(len(weights_RP), device=weights_RP.device), mask_to_image_R] = weights_RP
    with torch.autocast(dense_BDhw.device.type, enabled=False):
        sum_RD = torch.einsum("rbp,bdp->rd", spread_RBP, _full_precision(dense_BDhw.flatten(2)))
    return sum_RD / (weights_RP.sum(dim=1, keepdim=True) + EPSILON)


def _blocks(text_tower: nn.Module) -> list[ResidualAttentionBlock]:
    blocks = text_tower.get_submodule("transformer.resblocks").children()
    return list(cast("Iterator[ResidualAttentionBlock]", blocks))


def _at_least_one(rows: Tensor) -> Tensor:
    """Return `rows`, or one row of zeros if there are none, as some kernels fail without rows. Callers remove its result."""
    return rows if len(rows) else rows.new_zeros(1, *rows.shape[1:])


def _check_owners(rows: Tensor, owner_R: Tensor, *, shape: tuple[int, ...], images: int) -> None:
    """Check shapes, and on a CPU the range of indices; a check of values on a GPU would wait for it."""
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
            raise ConfigError(f"a region has image index {wrong}, but {there}; indices start at 0")


def _full_precision(rows: Tensor) -> Tensor:
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def _check_text_tower(tower: nn.Module, *, pool: str) -> None:
    """Check that the text tower is CLIP's causal transformer with its embedding at the end token."""
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

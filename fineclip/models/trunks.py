"""Vision towers: open_clip's VisionTransformer and timm's EVA-02, with a choice of the last block and of the grid.

The modules and their weights are upstream's. The forward pass is written here because upstream has no last block without
attention, and computes its native grid only.

Legend: B images, T tokens with the class token first, P patches, C width, D embedding, H W pixels, h w patches.

Dense features: the last block is trained for the class token, and its attention mixes the patches. Dense features skip that
attention: each token keeps its own value (value and output projection, the inner LayerNorm of EVA, residuals and MLP stay).
Source: MaskCLIP; CLIPSelf and FineCLIP, eva_vit_model.py and transformer.py, `forward_without_attn`.

Other grids: position embeddings are interpolated bicubically without antialiasing, as in the authors' code (timm and
open_clip antialias, which differs by 1e-2). Rotary tables are computed for the grid, with positions spread over the reference
grid (timm returns the native table for any size). Deviation: any height and width; the authors' code has square grids only.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from timm.layers import RotaryEmbeddingCat
from timm.models.eva import Eva, EvaAttention, EvaBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from fineclip.errors import ConfigError
from fineclip.models.blocks import (
    as_tensor,
    eva_block,
    eva_block_without_attention,
    open_clip_block,
    open_clip_block_without_attention,
)
from fineclip.models.rotary import rotary_table

MAX_SHAPES = 64  # of a compiled block; beyond that limit, 8 by default, torch stops compiling without an error


class Hidden(NamedTuple):
    """Input of the last block.

    Attributes:
        tokens_BTC: Tokens with the class token first.
        grid: Patches down and across.
        rotary: Table of `rotary_table`, or None without rotary positions.
    """

    tokens_BTC: Tensor
    grid: tuple[int, int]
    rotary: Tensor | None


class Trunk(ABC):
    """Base class of vision towers: all blocks but the last, the last block, the final norm and the projection.

    Attributes:
        head: `cls` for the class token, `mean` for the mean of the patches.
        width: Width of the embedding, D.
        patch: Height and width of a patch in pixels.
        native: Patches down and across of the learned positions.
        stem: Convolution of the patches.
        norm_pre: Norm before the first block, or the identity.
        blocks: Transformer blocks in order.
        norm: Final LayerNorm.
        rope: Rotary positions, or None.
        checkpointing: Activation checkpointing: store only the input of each block and recompute it in the backward pass.
    """

    head: str
    width: int
    patch: tuple[int, int]
    native: tuple[int, int]
    stem: nn.Module
    norm_pre: nn.Module
    blocks: Sequence[nn.Module]
    norm: nn.Module
    rope: RotaryEmbeddingCat | None = None
    checkpointing: bool = False
    _with_attention: Callable[..., Tensor]
    _without_attention: Callable[..., Tensor]

    def __init__(self) -> None:
        self._tables: dict[tuple[int, int, torch.device], Tensor] = {}

    @abstractmethod
    def class_and_positions(self) -> tuple[Tensor, Tensor]:
        """Return the class token, (..., C), and the learned position embeddings, (T, C)."""

    @abstractmethod
    def last(self, hidden: Hidden, *, rows: int | None = None) -> Tensor:
        """Run the last block.

        Args:
            hidden: Input of the block.
            rows: Compute the first `rows` tokens only. None computes all.

        Returns:
            (B, rows, C).
        """

    @abstractmethod
    def project(self, rows_C: Tensor) -> Tensor:
        """Project (..., C) to embeddings (..., D)."""

    def forward_before_last(self, images_B3HW: Tensor) -> Hidden:
        """Run the tower up to the last block.

        Args:
            images_B3HW: Normalized pixels; H and W are multiples of the patch.

        Returns:
            Input of the last block.

        Raises:
            ConfigError: As `grid_of`.
        """
        grid = self.grid_of(images_B3HW)
        patches_BPC = self.stem(images_B3HW).flatten(2).transpose(1, 2)
        class_C, learned_TC = self.class_and_positions()
        class_B1C = class_C.to(patches_BPC.dtype).expand(len(patches_BPC), 1, -1)
        positions_TC = resize_positions(learned_TC, native=self.native, grid=grid)
        tokens_BTC = torch.cat([class_B1C, patches_BPC], dim=1) + positions_TC.to(patches_BPC.dtype)
        tokens_BTC = self.norm_pre(tokens_BTC)
        rotary = self._rotary_table(grid, images_B3HW.device)
        options = {} if rotary is None else {"rotary": rotary}
        for block in self.blocks[:-1]:
            tokens_BTC = self._run(self._with_attention, block, tokens_BTC, **options)
        return Hidden(tokens_BTC, grid, rotary)

    def last_without_attention(self, tokens_BTC: Tensor) -> Tensor:
        """Run the last block with each token's value in place of attention; (B, T, C)."""
        return self._run(self._without_attention, self.blocks[-1], tokens_BTC)

    def compile(self) -> None:
        """Compile the blocks with torch.compile, once for each shape, with and without gradient."""
        torch._dynamo.config.recompile_limit = max(MAX_SHAPES, torch._dynamo.config.recompile_limit)
        self._with_attention = torch.compile(self._with_attention, dynamic=False)
        self._without_attention = torch.compile(self._without_attention, dynamic=False)

    def _run(self, forward: Callable[..., Tensor], block: nn.Module, tokens_BTC: Tensor, **options: Any) -> Tensor:
        if not (self.checkpointing and torch.is_grad_enabled()):
            return forward(block, tokens_BTC, **options)
        return checkpoint(forward, block, tokens_BTC, use_reentrant=False, preserve_rng_state=False, **options)

    def _rotary_table(self, grid: tuple[int, int], device: torch.device) -> Tensor | None:
        """Return the table of a grid, which is computed once, or None without rotary positions."""
        if self.rope is None:
            return None
        if (*grid, device) not in self._tables:
            self._tables[*grid, device] = rotary_table(self.rope, grid, device)
        return self._tables[*grid, device]

    def grid_of(self, images_B3HW: Tensor) -> tuple[int, int]:
        """Return the number of patches down and across.

        Args:
            images_B3HW: Only the shape is used.

        Returns:
            h and w.

        Raises:
            ConfigError: The images do not have three channels, or their sides are not multiples of the patch.
        """
        if images_B3HW.ndim != 4 or images_B3HW.shape[1] != 3:
            raise ConfigError(f"images of shape {tuple(images_B3HW.shape)}: expected (B, 3, height, width)")
        height, width = images_B3HW.shape[-2:]
        if min(height, width) == 0 or height % self.patch[0] or width % self.patch[1]:
            raise ConfigError(
                f"images of {height} x {width} px are not multiples of the patch of {self.patch[0]} x {self.patch[1]} px: "
                "choose another image_size or crop_size"
            )
        return height // self.patch[0], width // self.patch[1]


class OpenClipTrunk(Trunk):
    """open_clip's VisionTransformer, the tower of OpenAI's models.

    Args:
        visual: With the class token or the mean of the patches after the norm as its head.

    Raises:
        ConfigError: It has a part that is not supported; the message names it.
    """

    def __init__(self, visual: VisionTransformer) -> None:
        super().__init__()
        _require(visual.attn_pool is None, "attentional pooling")
        _require(visual.pool_type in ("tok", "avg"), f"pool_type {visual.pool_type!r}")
        _require(visual.pool_type == "tok" or not visual.final_ln_after_pool, "pool_type 'avg' before its norm")
        _require(visual.proj is not None, "no projection")
        _require(isinstance(visual.patch_dropout, nn.Identity), "patch_dropout")
        blocks = visual.transformer.resblocks
        _require(all(type(block) is ResidualAttentionBlock for block in blocks), "another block_type than default")
        self.visual, self.blocks = visual, tuple(blocks)
        self._with_attention, self._without_attention = open_clip_block, open_clip_block_without_attention
        self.head = "cls" if visual.pool_type == "tok" else "mean"
        self.width, self.patch, self.native = visual.output_dim, visual.patch_size, visual.grid_size
        self.stem, self.norm_pre, self.norm = visual.conv1, visual.ln_pre, visual.ln_post

    @override
    def class_and_positions(self) -> tuple[Tensor, Tensor]:
        return self.visual.class_embedding, self.visual.positional_embedding

    @override
    def last(self, hidden: Hidden, *, rows: int | None = None) -> Tensor:
        queries = None if rows is None else hidden.tokens_BTC[:, :rows]
        return self._run(self._with_attention, self.blocks[-1], hidden.tokens_BTC, queries_BQC=queries)

    @override
    def project(self, rows_C: Tensor) -> Tensor:
        return as_tensor(rows_C @ self.visual.proj)


class EvaTrunk(Trunk):
    """timm's EVA-02 inside open_clip's TimmModel: class token, SwiGLU with its norm, rotary positions.

    Args:
        visual: Its trunk is an `Eva` with separate query, key and value projections.

    Raises:
        ConfigError: It has a part that is not supported; the message names it.
    """

    head = "cls"

    def __init__(self, visual: TimmModel) -> None:
        super().__init__()
        trunk = visual.trunk
        _require(isinstance(trunk, Eva), f"the trunk {type(trunk).__name__}")
        _require(
            trunk.global_pool == "token", f"the pooling {trunk.global_pool!r} of an EVA trunk; 'token' is supported"
        )
        _require(isinstance(trunk.fc_norm, nn.Identity), "a norm after its pooling")
        _require(len(visual.head) == 0 and isinstance(trunk.head, nn.Linear), "a projection outside the trunk")
        _require(trunk.num_prefix_tokens == 1 and not trunk.no_embed_class, "register tokens")
        _require(trunk.pos_embed is not None and trunk.patch_drop is None, "no learned positions, or patch_dropout")
        _require(isinstance(trunk.patch_embed.norm, nn.Identity), "a norm of its patches")
        _require(trunk.rope is None or type(trunk.rope) is RotaryEmbeddingCat, "rotary positions other than 'cat'")
        _require(trunk.rope is None or not trunk.rope.aug_active, "jittered rotary positions")
        _require(trunk.rope is None or not trunk.rope.rotate_half, "rotary positions of distant channels")
        for block in trunk.blocks:
            _require(type(block) is EvaBlock and type(block.attn) is EvaAttention, f"{type(block).__name__}")
            _require(block.attn.v_proj is not None, "packed query, key and value (EVA-01)")
            _require(block.attn.gate is None, "gated attention")
            _require(isinstance(block.drop_path1, nn.Identity), "stochastic depth")
        self.trunk, self.blocks = trunk, tuple(trunk.blocks)
        self._with_attention, self._without_attention = eva_block, eva_block_without_attention
        stem = trunk.patch_embed
        self.width, self.patch, self.native = trunk.num_classes, stem.patch_size, stem.grid_size
        self.stem, self.norm_pre, self.norm, self.rope = stem.proj, trunk.norm_pre, trunk.norm, trunk.rope

    @override
    def class_and_positions(self) -> tuple[Tensor, Tensor]:
        return self.trunk.cls_token, self.trunk.pos_embed[0]

    @override
    def last(self, hidden: Hidden, *, rows: int | None = None) -> Tensor:
        return self._run(self._with_attention, self.blocks[-1], hidden.tokens_BTC, rotary=hidden.rotary, rows=rows)

    @override
    def project(self, rows_C: Tensor) -> Tensor:
        return as_tensor(self.trunk.head(rows_C))


def build_trunk(visual: nn.Module) -> Trunk:
    """Wrap a vision tower of open_clip.

    Args:
        visual: `model.visual`.

    Returns:
        Wrapper that shares the tower's modules.

    Raises:
        ConfigError: Its class or one of its parts is not supported; the message names it.
    """
    if isinstance(visual, VisionTransformer):
        return OpenClipTrunk(visual)
    if isinstance(visual, TimmModel):
        return EvaTrunk(visual)
    raise ConfigError(_REFUSAL.format(type(visual).__name__))


def resize_positions(position_TC: Tensor, *, native: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Interpolate learned position embeddings to another grid, bicubically; the row of the class token is kept.

    Args:
        position_TC: Class token first, then the patches of the native grid.
        native: Patches down and across.
        grid: Patches down and across of the result.

    Returns:
        (1 + h w, C); `position_TC` itself for the native grid.

    Source:
        The authors' `rescale_positional_embedding`: align_corners False, no antialiasing.
    """
    if tuple(native) == grid:
        return position_TC
    native_1Chw = position_TC[1:].T.reshape(1, -1, *native)
    grid_1Chw = F.interpolate(native_1Chw, size=grid, mode="bicubic", align_corners=False, antialias=False)
    return torch.cat([position_TC[:1], grid_1Chw[0].flatten(1).T])


_REFUSAL = (
    "this vision tower cannot be used: it has or is {}. Supported are open_clip's VisionTransformer (class token, or the mean of "
    "patches after the norm) and timm's EVA-02 trunks (class token)"
)


def _require(fits: bool, what: str) -> None:
    if not fits:
        raise ConfigError(_REFUSAL.format(what))

"""The two kinds of vision tower: open_clip's VisionTransformer and timm's EVA-02, taken apart at the last block.

The modules and their weights are upstream's; what is written here is the order in which they run, because upstream
offers neither a last block without attention nor another grid than the native one.

Legend: B images, T tokens with the class token first, P patches, C width, D embedding, H W pixels, h w patches.

Dense features: the last block of an OpenAI or EVA tower serves the class token, and attention there mixes what the
patches know. So it is taken without attention: each token passes its own value on (value and output projection, the inner
LayerNorm of EVA, residuals and MLP stay). Source: MaskCLIP; CLIPSelf and FineCLIP, eva_vit_model.py
`forward_without_attn`, transformer.py `forward_without_attn`.

Other grids than the native one: positions are interpolated bicubically without antialiasing, as the authors do (timm
and open_clip antialias: 1e-2 off); rotary tables are made again with the positions spread over the reference grid (timm hands
out the native table whatever the size). The authors' code knows square grids only; here any height and width will do.
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
from fineclip.models.blocks import eva_block, eva_block_value_only, open_clip_block, open_clip_block_value_only
from fineclip.models.rotary import turns_for

SHAPES = 64  # that a compiled block may meet before torch gives up on it, silently; its own limit is 8


class Hidden(NamedTuple):
    """What comes into the last block."""

    tokens_BTC: Tensor
    grid: tuple[int, int]
    turns: Tensor | None  # rotary positions, as `turns_for` gives them


class Trunk(ABC):
    """A vision tower up to its last block, the last block in three forms, and the way to the embedding.

    Attributes:
        checkpointing: whether a block keeps only what comes in, and computes the rest again in the backward pass.
    """

    head: str  # cls or mean
    width: int  # D
    patch: tuple[int, int]  # pixels
    blocks: Sequence[nn.Module]  # all of them, in order
    checkpointing: bool = False
    _whole: Callable[..., Tensor]  # a block with attention
    _value_only: Callable[..., Tensor]  # a block without

    def compile(self) -> None:
        """Let torch.compile make the blocks' kernels, once for every shape that comes, with and without a graph."""
        torch._dynamo.config.recompile_limit = max(SHAPES, torch._dynamo.config.recompile_limit)
        self._whole = torch.compile(self._whole, dynamic=False)
        self._value_only = torch.compile(self._value_only, dynamic=False)

    def _through(self, how: Callable[..., Tensor], block: nn.Module, tokens_BTC: Tensor, **options: Any) -> Tensor:
        if not (self.checkpointing and torch.is_grad_enabled()):
            return how(block, tokens_BTC, **options)
        return checkpoint(how, block, tokens_BTC, use_reentrant=False, preserve_rng_state=False, **options)

    @abstractmethod
    def before_last(self, images_B3HW: Tensor) -> Hidden:
        """Everything before the last block."""

    @abstractmethod
    def last(self, hidden: Hidden, *, rows: int | None = None) -> Tensor:
        """(B, rows, C): the last block as it is, for the first `rows` tokens only where that is asked; exact."""

    @abstractmethod
    def last_value_only(self, tokens_BTC: Tensor) -> Tensor:
        """(B, T, C): the last block without attention, each token by itself."""

    @abstractmethod
    def norm(self, tokens_BTC: Tensor) -> Tensor:
        """The final LayerNorm."""

    @abstractmethod
    def project(self, rows_C: Tensor) -> Tensor:
        """(..., D) from (..., C)."""

    def grid_of(self, images_B3HW: Tensor) -> tuple[int, int]:
        """Patches down and across.

        Raises:
            ConfigError: the images are not of three colours, or not whole patches.
        """
        if images_B3HW.ndim != 4 or images_B3HW.shape[1] != 3:
            raise ConfigError(f"images of shape {tuple(images_B3HW.shape)}: expected (B, 3, height, width)")
        height, width = images_B3HW.shape[-2:]
        if min(height, width) == 0 or height % self.patch[0] or width % self.patch[1]:
            raise ConfigError(
                f"images of {height} x {width} px are not whole patches of {self.patch[0]} x {self.patch[1]} px: "
                "choose another image_size or crop_size"
            )
        return height // self.patch[0], width // self.patch[1]


class OpenClipTrunk(Trunk):
    """open_clip's VisionTransformer, as OpenAI's models are."""

    def __init__(self, visual: VisionTransformer) -> None:
        _refuse_unless(visual.attn_pool is None, "attentional pooling")
        _refuse_unless(visual.pool_type in ("tok", "avg"), f"pool_type {visual.pool_type!r}")
        _refuse_unless(visual.pool_type == "tok" or not visual.final_ln_after_pool, "pool_type 'avg' before its norm")
        _refuse_unless(visual.proj is not None, "no projection")
        _refuse_unless(isinstance(visual.patch_dropout, nn.Identity), "patch_dropout")
        blocks = visual.transformer.resblocks
        _refuse_unless(
            all(type(block) is ResidualAttentionBlock for block in blocks), "another block_type than default"
        )
        self.visual, self.blocks = visual, tuple(blocks)
        self._whole, self._value_only = open_clip_block, open_clip_block_value_only
        self.head = "cls" if visual.pool_type == "tok" else "mean"
        self.width, self.patch = visual.output_dim, visual.patch_size

    @override
    def before_last(self, images_B3HW: Tensor) -> Hidden:
        visual, grid = self.visual, self.grid_of(images_B3HW)
        patches_BPC = visual.conv1(images_B3HW).flatten(2).transpose(1, 2)
        class_B1C = visual.class_embedding.to(patches_BPC.dtype).expand(len(patches_BPC), 1, -1)
        positions_TC = positions_for(visual.positional_embedding, native=visual.grid_size, grid=grid)
        tokens_BTC = torch.cat([class_B1C, patches_BPC], dim=1) + positions_TC.to(patches_BPC.dtype)
        tokens_BTC = visual.ln_pre(tokens_BTC)
        for block in self.blocks[:-1]:
            tokens_BTC = self._through(self._whole, block, tokens_BTC)
        return Hidden(tokens_BTC, grid, None)

    @override
    def last(self, hidden: Hidden, *, rows: int | None = None) -> Tensor:
        queries = None if rows is None else hidden.tokens_BTC[:, :rows]
        return self._through(self._whole, self.blocks[-1], hidden.tokens_BTC, queries_BQC=queries)

    @override
    def last_value_only(self, tokens_BTC: Tensor) -> Tensor:
        return self._through(self._value_only, self.blocks[-1], tokens_BTC)

    @override
    def norm(self, tokens_BTC: Tensor) -> Tensor:
        return _tensor(self.visual.ln_post(tokens_BTC))

    @override
    def project(self, rows_C: Tensor) -> Tensor:
        return _tensor(rows_C @ self.visual.proj)


class EvaTrunk(Trunk):
    """timm's EVA-02 inside open_clip's TimmModel: class token, SwiGLU with its norm, rotary positions."""

    head = "cls"

    def __init__(self, visual: TimmModel) -> None:
        trunk = visual.trunk
        _refuse_unless(isinstance(trunk, Eva), f"the trunk {type(trunk).__name__}")
        _refuse_unless(
            trunk.global_pool == "token", f"the pooling {trunk.global_pool!r} of an EVA trunk; 'token' is read"
        )
        _refuse_unless(isinstance(trunk.fc_norm, nn.Identity), "a norm after its pooling")
        _refuse_unless(len(visual.head) == 0 and isinstance(trunk.head, nn.Linear), "a projection outside the trunk")
        _refuse_unless(trunk.num_prefix_tokens == 1 and not trunk.no_embed_class, "register tokens")
        _refuse_unless(
            trunk.pos_embed is not None and trunk.patch_drop is None, "no learned positions, or patch_dropout"
        )
        _refuse_unless(
            trunk.rope is None or type(trunk.rope) is RotaryEmbeddingCat, "rotary positions other than 'cat'"
        )
        _refuse_unless(trunk.rope is None or not trunk.rope.aug_active, "jittered rotary positions")
        _refuse_unless(trunk.rope is None or not trunk.rope.rotate_half, "rotary positions of distant channels")
        for block in trunk.blocks:
            _refuse_unless(type(block) is EvaBlock and type(block.attn) is EvaAttention, f"{type(block).__name__}")
            _refuse_unless(block.attn.v_proj is not None, "packed query, key and value (EVA-01)")
            _refuse_unless(block.attn.gate is None, "gated attention")
            _refuse_unless(isinstance(block.drop_path1, nn.Identity), "stochastic depth")
        self.trunk, self.blocks = trunk, tuple(trunk.blocks)
        self._whole, self._value_only = eva_block, eva_block_value_only
        self.width, self.patch = trunk.num_classes, trunk.patch_embed.patch_size
        self._tables: dict[tuple[int, int, torch.device], Tensor] = {}

    @override
    def before_last(self, images_B3HW: Tensor) -> Hidden:
        trunk, grid = self.trunk, self.grid_of(images_B3HW)
        patches_BPC = trunk.patch_embed.norm(trunk.patch_embed.proj(images_B3HW).flatten(2).transpose(1, 2))
        class_B1C = trunk.cls_token.to(patches_BPC.dtype).expand(len(patches_BPC), -1, -1)
        positions_TC = positions_for(trunk.pos_embed[0], native=trunk.patch_embed.grid_size, grid=grid)
        tokens_BTC = torch.cat([class_B1C, patches_BPC], dim=1) + positions_TC.to(patches_BPC.dtype)
        tokens_BTC = trunk.norm_pre(tokens_BTC)
        turns = self._turns(grid, images_B3HW.device)
        for block in self.blocks[:-1]:
            tokens_BTC = self._through(self._whole, block, tokens_BTC, turns=turns)
        return Hidden(tokens_BTC, grid, turns)

    @override
    def last(self, hidden: Hidden, *, rows: int | None = None) -> Tensor:
        return self._through(self._whole, self.blocks[-1], hidden.tokens_BTC, turns=hidden.turns, rows=rows)

    @override
    def last_value_only(self, tokens_BTC: Tensor) -> Tensor:
        return self._through(self._value_only, self.blocks[-1], tokens_BTC)

    @override
    def norm(self, tokens_BTC: Tensor) -> Tensor:
        return _tensor(self.trunk.norm(tokens_BTC))

    @override
    def project(self, rows_C: Tensor) -> Tensor:
        return _tensor(self.trunk.head(rows_C))

    def _turns(self, grid: tuple[int, int], device: torch.device) -> Tensor | None:
        """Made once for each grid."""
        if self.trunk.rope is None:
            return None
        if (*grid, device) not in self._tables:
            self._tables[*grid, device] = turns_for(self.trunk.rope, grid, device)
        return self._tables[*grid, device]


def trunk_of(visual: nn.Module) -> Trunk:
    """The way through a vision tower of open_clip.

    Raises:
        ConfigError: it is none of the two kinds, or pools in another way; by name.
    """
    if isinstance(visual, VisionTransformer):
        return OpenClipTrunk(visual)
    if isinstance(visual, TimmModel):
        return EvaTrunk(visual)
    raise ConfigError(_REFUSAL.format(type(visual).__name__))


def positions_for(position_TC: Tensor, *, native: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Learned positions for another grid of patches, interpolated bicubically; the class token's row is kept.

    Source: the authors' `rescale_positional_embedding`, align_corners False, no antialiasing.
    """
    if tuple(native) == grid:
        return position_TC
    native_1Chw = position_TC[1:].T.reshape(1, -1, *native)
    grid_1Chw = F.interpolate(native_1Chw, size=grid, mode="bicubic", align_corners=False, antialias=False)
    return torch.cat([position_TC[:1], grid_1Chw[0].flatten(1).T])


_REFUSAL = (
    "this vision tower cannot be used: it has or is {}. Read are open_clip's VisionTransformer (class token, or the mean of "
    "patches after the norm) and timm's EVA-02 trunks (class token)"
)


def _refuse_unless(fits: bool, what: str) -> None:
    if not fits:
        raise ConfigError(_REFUSAL.format(what))


def _tensor(value: Any) -> Tensor:
    """What an upstream module, untyped, returns."""
    return value  # type: ignore[no-any-return]

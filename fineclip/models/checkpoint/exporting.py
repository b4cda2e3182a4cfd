"""Weights out, in the layout that another program reads."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fineclip.errors import CheckpointError, ConfigError
from fineclip.models.checkpoint.files import require_known_ending, write_weights
from fineclip.models.checkpoint.found import FoundEncoder
from fineclip.models.checkpoint.layouts import RotaryTables, as_backbone, as_eva_clip
from fineclip.models.checkpoint.published import publish
from fineclip.models.encoder import RegionEncoder


def export(found: FoundEncoder, output: Path, *, layout: str, replace: bool = False) -> None:
    """Write an encoder in another layout, whole or not at all.

    Args:
        found: which encoder.
        output: for `open_clip` a folder, which holds model.safetensors and open_clip_config.json then, and the encoder's
            own vocabulary if it has one; for `eva_clip` and `backbone` a file that ends in .pt, .pth or .safetensors. A pickle of
            `eva_clip` has its weights under `state_dict`, as those of the authors' trainers do.
        layout: a name of `LAYOUTS`.
        replace: also what lies there already.

    Raises:
        CheckpointError: something lies there already, the weights cannot be read, or have no place in that layout.
        ConfigError: there is no such layout.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"layout {layout!r}: there is none of that name, but {', '.join(LAYOUTS)}")
    if output.exists() and not replace:
        raise CheckpointError(f"{output}: is there already, and is left as it is. Name another, or say --force.")
    LAYOUTS[layout](found, output)


def rotary_tables(encoder: RegionEncoder) -> RotaryTables | None:
    """Those of the native grid, bit for bit what the authors' files carry; None where the trunk has none."""
    trunk: Any = encoder.get_submodule("visual.trunk")  # timm's, untyped
    if trunk.rope is None:
        return None
    sin, cos = trunk.rope.get_embed(list(trunk.patch_embed.grid_size)).chunk(2, dim=-1)
    return RotaryTables(cos, sin)


def official_weights(encoder: RegionEncoder) -> Mapping[str, Tensor]:
    """Every entry that a file of EVA-02-CLIP's authors would have.

    Raises:
        CheckpointError: the vision tower is none of theirs.
    """
    has_trunk = "trunk" in dict(encoder.get_submodule("visual").named_children())
    return as_eva_clip(encoder.state_dict(), tables=rotary_tables(encoder) if has_trunk else None)


def _open_clip(found: FoundEncoder, output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise CheckpointError(f"{output}: is a file; the layout open_clip is a folder")
    publish(found.load(), output, config=found.config, vocabulary=found.vocabulary)


def _eva_clip(found: FoundEncoder, output: Path) -> None:
    require_known_ending(output)
    write_weights(output, official_weights(found.load()), wrapping="state_dict")


def _backbone(found: FoundEncoder, output: Path) -> None:
    require_known_ending(output)
    write_weights(output, as_backbone(found.load().state_dict()))


LAYOUTS: Mapping[str, Callable[[FoundEncoder, Path], None]] = {
    "open_clip": _open_clip,
    "eva_clip": _eva_clip,
    "backbone": _backbone,
}

"""Export an encoder in the layout of another program."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fineclip.errors import CheckpointError, ConfigError
from fineclip.models.checkpoints.weights_files import require_known_ending, write_weights
from fineclip.models.checkpoints.discovery import EncoderSpec
from fineclip.models.checkpoints.layouts import RotaryTables, as_backbone, as_eva_clip
from fineclip.models.checkpoints.encoder_folder import save_encoder
from fineclip.models.encoder import RegionEncoder


def export(found: EncoderSpec, output: Path, *, layout: str, replace: bool = False) -> None:
    """Write an encoder in another layout, atomically.

    Args:
        found: Encoder from `find_encoder`.
        output: For `open_clip` a folder, which gets model.safetensors, open_clip_config.json and the encoder's own vocabulary if
            it has one. For `eva_clip` and `backbone` a file that ends in .pt, .pth or .safetensors; a .pt of `eva_clip` has its
            tensors under `state_dict`, as the authors' checkpoints.
        layout: Name in `LAYOUTS`.
        replace: Replace existing output.

    Raises:
        CheckpointError: The output exists, the weights cannot be read, or do not fit the layout.
        ConfigError: There is no such layout.

    Examples:
        >>> import tempfile
        >>> from fineclip.models.checkpoints import export, find_encoder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export(find_encoder("mini"), Path(folder, "mini"), layout="open_clip")
        ...     print(*sorted(path.name for path in Path(folder, "mini").iterdir()))
        bpe.txt.gz model.safetensors open_clip_config.json
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"layout {layout!r}: unknown name; choose from {', '.join(LAYOUTS)}")
    if output.exists() and not replace:
        raise CheckpointError(f"{output}: already exists. Choose another path, or use --force.")
    LAYOUTS[layout](found, output)


def rotary_tables(encoder: RegionEncoder) -> RotaryTables | None:
    """Compute the rotary tables of the native grid, equal to those in the authors' files; None without rotary positions."""
    trunk: Any = encoder.get_submodule("visual.trunk")  # timm's, untyped
    if trunk.rope is None:
        return None
    sin, cos = trunk.rope.get_embed(list(trunk.patch_embed.grid_size)).chunk(2, dim=-1)
    return RotaryTables(cos, sin)


def official_weights(encoder: RegionEncoder) -> Mapping[str, Tensor]:
    """Return the tensors of a checkpoint of EVA-02-CLIP's authors.

    Args:
        encoder: With an EVA-02 trunk.

    Returns:
        Tensors by the authors' names.

    Raises:
        CheckpointError: The vision tower is another.
    """
    has_trunk = "trunk" in dict(encoder.get_submodule("visual").named_children())
    return as_eva_clip(encoder.state_dict(), tables=rotary_tables(encoder) if has_trunk else None)


def _open_clip(found: EncoderSpec, output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise CheckpointError(f"{output}: is a file; the layout open_clip is a folder")
    save_encoder(found.load(), output, config=found.config, vocabulary=found.vocabulary)


def _eva_clip(found: EncoderSpec, output: Path) -> None:
    require_known_ending(output)
    write_weights(output, official_weights(found.load()), wrapping="state_dict")


def _backbone(found: EncoderSpec, output: Path) -> None:
    require_known_ending(output)
    write_weights(output, as_backbone(found.load().state_dict()))


LAYOUTS: Mapping[str, Callable[[EncoderSpec, Path], None]] = {
    "open_clip": _open_clip,
    "eva_clip": _eva_clip,
    "backbone": _backbone,
}

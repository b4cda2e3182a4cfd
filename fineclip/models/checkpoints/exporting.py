"""Export an encoder in the layout of another program."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from fineclip.config import EncoderConfig
from fineclip.errors import CheckpointError, ConfigError
from fineclip.models.architecture import architecture
from fineclip.models.checkpoints.discovery import ARCHITECTURE, VOCABULARY, EncoderSpec
from fineclip.models.checkpoints.layouts import as_backbone, as_eva_clip
from fineclip.models.checkpoints.weights_files import WEIGHTS, require_known_ending, write_weights
from fineclip.models.encoder import RegionEncoder
from fineclip.models.images import MEAN, STD
from fineclip.shards import atomic, write_text

PREPROCESSING = {"mode": "RGB", "interpolation": "bilinear", "resize_mode": "squash"}


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
    if layout == "open_clip":
        if output.is_file():
            raise CheckpointError(f"{output}: is a file; the layout open_clip is a folder")
        with _removed_if_incomplete(output):
            save_encoder(found.load(), output, config=found.config, vocabulary=found.vocabulary)
        return
    require_known_ending(output)
    tensors_of, wrapping = FILES[layout]
    write_weights(output, tensors_of(found.load()), wrapping=wrapping)


@contextmanager
def _removed_if_incomplete(folder: Path) -> Iterator[None]:
    """Remove a folder that the block makes if the block raises, so that the same command can be repeated."""
    is_new = not folder.exists()
    try:
        yield
    except BaseException:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def save_encoder(
    encoder: RegionEncoder, folder: Path, *, config: EncoderConfig, vocabulary: Path | None = None
) -> None:
    """Write `model.safetensors` and `open_clip_config.json`, each atomically. The same weights give the same bytes.

    open_clip loads the folder as `local-dir:FOLDER`. `find_encoder` reads the `config.yaml` first that training writes there.

    Args:
        encoder: Its weights are written in float32 under open_clip's names.
        folder: Created if absent.
        config: Architecture and image size.
        vocabulary: The encoder's own BPE file, copied to `bpe.txt.gz`.
    """
    preprocessing = {"size": config.image_size, "mean": MEAN, "std": STD, **PREPROCESSING}
    described = {"model_cfg": architecture(config.model), "preprocess_cfg": preprocessing}
    write_text(folder / ARCHITECTURE, json.dumps(described, indent=2, sort_keys=True) + "\n")
    write_weights(folder / WEIGHTS, encoder.state_dict())
    if vocabulary is not None:
        with atomic(folder / VOCABULARY) as temporary:
            shutil.copyfile(vocabulary, temporary)


def rotary_tables(encoder: RegionEncoder) -> Mapping[str, Tensor]:
    """Compute the rotary tables of the native grid, equal to those in the authors' files; none without rotary positions."""
    if encoder.trunk.rope is None:
        return {}
    sin, cos = encoder.trunk.rope.get_embed(list(encoder.trunk.native)).chunk(2, dim=-1)
    return {"cos": cos, "sin": sin}


def official_weights(encoder: RegionEncoder) -> Mapping[str, Tensor]:
    """Return the tensors of a checkpoint of EVA-02-CLIP's authors.

    Args:
        encoder: With an EVA-02 trunk.

    Returns:
        Tensors by the authors' names.

    Raises:
        CheckpointError: The vision tower is another.
    """
    return as_eva_clip(encoder.state_dict(), tables=rotary_tables(encoder))


# Layouts of one file: the tensors of an encoder, and the key of a .pt that holds them.
FILES: Mapping[str, tuple[Callable[[RegionEncoder], Mapping[str, Tensor]], str | None]] = {
    "eva_clip": (official_weights, "state_dict"),
    "backbone": (lambda encoder: as_backbone(encoder.state_dict()), None),
}
LAYOUTS = ("open_clip", *FILES)

"""Load the weights of an encoder whose architecture is known, from a file or from the file of a folder that fits."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fineclip.config import EncoderConfig
from fineclip.errors import CheckpointError
from fineclip.models.architecture import architecture, same_model_at
from fineclip.models.checkpoints.layouts import NOT_WEIGHTS
from fineclip.models.checkpoints.matching import match
from fineclip.models.checkpoints.weights_files import IN_FOLDERS, read_weights, some, weights_files
from fineclip.models.encoder import RegionEncoder, build_encoder
from fineclip.models.model_folders import absent_keys, read_object
from fineclip.models.transformers_config import CONFIG as TRANSFORMERS
from fineclip.models.transformers_config import MODEL, as_model_config, is_transformers

HEAD_WIDTH = 64  # open_clip's default

log = logging.getLogger(__name__)


def load_encoder(config: EncoderConfig, weights: Path) -> RegionEncoder:
    """Build an encoder and load its weights, in float32 on the CPU.

    Args:
        config: Architecture, head and sizes.
        weights: File or folder, in a layout of `layouts`. Of several files in a folder, the one that fits is used.

    Returns:
        The encoder in training mode.

    Raises:
        CheckpointError: The file cannot be read, its keys or shapes are those of another model, or it states a difference from
            the model that keys do not show, such as QuickGELU.
        ConfigError: The architecture is not supported.
    """
    encoder = build_encoder(config)
    _, tensors = matching_weights(encoder, config, weights)
    encoder.load_state_dict(tensors, strict=True)
    return encoder


def matching_file(config: EncoderConfig, weights: Path) -> Path:
    """Return the file of weights that fits a model. A single file is not opened.

    Args:
        config: Architecture, head and sizes.
        weights: File or folder.

    Returns:
        Path of an existing file.

    Raises:
        CheckpointError: There is no file, or none of several fits.
    """
    files = weights_files(weights)
    if len(files) == 1:
        return files[0]
    with torch.device("meta"):
        encoder = build_encoder(config)
    return matching_weights(encoder, config, weights)[0]


def matching_weights(encoder: RegionEncoder, config: EncoderConfig, weights: Path) -> tuple[Path, dict[str, Tensor]]:
    """Read the weights of an encoder from a file or a folder.

    Args:
        encoder: Its names and shapes are used.
        config: Its configuration.
        weights: File or folder.

    Returns:
        The file and its tensors by the encoder's names, in float32.

    Raises:
        CheckpointError: No file fits; the message says of each file why. Or several fit that have no usual name.
    """
    files = weights_files(weights)
    found: dict[Path, dict[str, Tensor]] = {}
    reasons = []
    for path in files:
        try:
            found[path] = _weights_of(encoder, config, path)
        except CheckpointError as error:
            reasons.append(str(error))
        if len(found) > 1 or (path in found and path.name in IN_FOLDERS):
            break  # a usual name comes first, and is enough
    if len(found) > 1 and not any(path.name in IN_FOLDERS for path in found):
        raise CheckpointError(
            f"{weights}: {some(path.name for path in found)} all fit {config.model}. Pass the file that you mean."
        )
    if found:
        path = next(iter(found))
        if len(files) > 1:
            log.info("%s: %s is used, which fits %s", weights, path.name, config.model)
        return path, found[path]
    if len(reasons) == 1:
        raise CheckpointError(reasons[0])
    raise CheckpointError(f"{weights}: none of its {len(files)} files fits {config.model}:\n  " + "\n  ".join(reasons))


def _weights_of(encoder: RegionEncoder, config: EncoderConfig, path: Path) -> dict[str, Tensor]:
    where = f"{path} as {config.model}"
    matched = match(
        read_weights(path),
        encoder.state_dict(),
        where=where,
        other_grid=lambda tokens: _other_grid(encoder, config, tokens),
    )
    model = architecture(config.model)
    if matched.is_openai and not model.get("quick_gelu"):
        raise CheckpointError(
            f"{where}: these weights are OpenAI's own ({some(sorted(NOT_WEIGHTS & matched.names))} are among them), which"
            f" were trained with QuickGELU, but this model has no QuickGELU. Use {config.model}-quickgelu."
        )
    if matched.is_transformers:
        _check_stated_options(path.parent / TRANSFORMERS, model, where=where)
    return matched.tensors


def _check_stated_options(path: Path, model: Mapping[str, Any], *, where: str) -> None:
    """Compare what shapes do not show, the activation and the number of heads, with the `config.json` beside the weights.

    Args:
        path: That file.
        model: open_clip's model config.
        where: Start of the message.

    Raises:
        CheckpointError: They differ.
    """
    if not path.is_file():
        log.warning(
            "%s: has no %s beside it, so it is not known whether it was trained with QuickGELU, as %s",
            where,
            path.name,
            MODEL,
        )
        return
    content = read_object(path, what=f"the configuration of {MODEL}")
    if absent_keys(content, ("vision_config", "text_config")) or not is_transformers(content):
        log.warning("%s: %s does not state its towers, so its activation and heads are not compared", where, path)
        return
    stated = as_model_config(content, path)
    if bool(stated["quick_gelu"]) != bool(model.get("quick_gelu")):
        theirs, ours = ("QuickGELU", "GELU") if stated["quick_gelu"] else ("GELU", "QuickGELU")
        raise CheckpointError(
            f"{where}: {path.name} says that these weights were trained with {theirs}, but the model has {ours}. Use the model of that"
            " activation (names of open_clip with QuickGELU end in -quickgelu), or pass the folder without the name of a model."
        )
    for tower in ("vision_cfg", "text_cfg"):
        theirs_of, ours_of = _heads(stated[tower]), _heads(model[tower])
        if ours_of is not None and theirs_of != ours_of:
            raise CheckpointError(
                f"{where}: {path.name} says {theirs_of} attention heads, but {tower} of the model has {ours_of}. Use the right model."
            )


def _heads(tower: Mapping[str, Any]) -> int | None:
    """Return the number of heads of a tower of open_clip; None for one of timm."""
    if "heads" in tower:
        return int(tower["heads"])
    return tower["width"] // tower.get("head_width", HEAD_WIDTH) if "width" in tower else None


def _other_grid(encoder: RegionEncoder, config: EncoderConfig, tokens: int) -> str:
    """Return the message for position embeddings of another number of tokens.

    Args:
        encoder: Of the model.
        config: Its configuration.
        tokens: Class token and patches of the weights.

    Returns:
        Message with both resolutions.
    """
    (height, width), patch = encoder.trunk.native, encoder.patch
    side = math.isqrt(max(tokens - 1, 0))
    ours = f"{height * patch[0]} x {width * patch[1]} px ({height} x {width} patches)"
    if side * side != tokens - 1:
        return f"these weights have {tokens - 1} positions, and the model {height * width}, for {ours}: they are of another resolution"
    px = side * patch[0]
    names = same_model_at(config.model, px)
    how = f"the model {' or '.join(names)}" if names else f"a model config with vision_cfg.image_size {px}"
    return (
        f"these weights are of {px} x {side * patch[1]} px ({side} x {side} patches), the model is of {ours}. Use {how}; images of other"
        " sizes are set by `image_size` of the encoder, which changes no weights."
    )

"""Find the architecture, the weights and the vocabulary of an encoder by its path or name, and load it strictly.

Missing or unexpected keys and other shapes are errors that name them.

results/coco2017/fineclip-eva02.b16-all-s0    folder of a finished run
exported/                                     folder of open_clip: open_clip_config.json and weights
clip-vit-base-patch16/                        folder of transformers' CLIPModel: config.json and weights
FineCLIP_coco_vitb16.pt and EVA02-B-16        file of weights, and the name of its model
mini                                          encoder that is shipped with the package
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor

from fineclip.config import EncoderConfig, WeightsConfig, parse, read_files
from fineclip.errors import CheckpointError, ConfigError
from fineclip.models.architecture import architecture, description, same_model_at
from fineclip.models.checkpoints.layouts import NOT_WEIGHTS
from fineclip.models.checkpoints.matching import match
from fineclip.models.checkpoints.weights_files import (
    IN_FOLDERS,
    INDEX,
    WEIGHTS,
    parts_of,
    read_weights,
    some,
    weights_files,
)
from fineclip.models.encoder import RegionEncoder, build_encoder
from fineclip.models.file_kinds import container_of
from fineclip.models.images import MEAN, STD
from fineclip.models.model_folders import absent_keys, read_object
from fineclip.models.shipped import ENCODERS, shipped
from fineclip.models.tokenizer import Tokenizer, load_tokenizer
from fineclip.models.transformers_config import CONFIG as TRANSFORMERS
from fineclip.models.transformers_config import MODEL, as_model_config, is_transformers

VOCABULARY = "bpe.txt.gz"
ARCHITECTURE = "open_clip_config.json"
RUN = "config.yaml"
PREPROCESSOR = "preprocessor_config.json"  # of transformers
HEAD_WIDTH = 64  # open_clip's default

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncoderSpec:
    """Files and configuration of an encoder.

    Attributes:
        config: Architecture, head and sizes.
        weights: File of the weights.
        vocabulary: File of its own vocabulary, or None for the one of `config`.
    """

    config: EncoderConfig
    weights: Path
    vocabulary: Path | None

    def files(self) -> list[Path]:
        """Return the files of the weights: one, or an index and the files that it names."""
        return (
            [self.weights, *sorted(set(parts_of(self.weights).values()))]
            if self.weights.name.endswith(INDEX)
            else [self.weights]
        )

    def load(self) -> RegionEncoder:
        """Load the encoder, in float32 on the CPU.

        Returns:
            The encoder in training mode.

        Raises:
            CheckpointError: The file cannot be read, or its weights do not fit the architecture.
        """
        return load_encoder(self.config, self.weights)

    def tokenizer(self) -> Tokenizer:
        """Load the tokenizer with the vocabulary of the folder, of the configuration, or of CLIP, in this order.

        Returns:
            Callable that turns texts into token ids.

        Raises:
            ConfigError: Its size is not that of the model.
        """
        return load_tokenizer(self.config, self.vocabulary)


def find_encoder(
    path_or_name: Path | str, *, encoder: str | None = None, catalog: Mapping[str, EncoderConfig] | None = None
) -> EncoderSpec:
    """Find an encoder by its path or name. The text `mini` is the shipped encoder; `Path("mini")` and `./mini` are a folder.

    Args:
        path_or_name: Folder of a run, of open_clip or of transformers' CLIPModel, file of weights, or `mini`.
        encoder: Model of the weights, required for a file: an entry of `catalog`, the name of an open_clip model such as
            EVA02-B-16, the path of a JSON in open_clip's format, or `mini`.
        catalog: Section `encoders` of a configuration.

    Returns:
        Its files and configuration; nothing is loaded yet.

    Raises:
        CheckpointError: There is no such path, or its model is not known.
        ConfigError: There is no such model, or the configuration of a run cannot be read or is invalid.

    Examples:
        >>> spec = find_encoder("mini")
        >>> spec.config.image_size, spec.weights.name
        (96, 'model.safetensors')
    """
    path = Path(path_or_name)
    if encoder is None and isinstance(path_or_name, str) and path_or_name in ENCODERS:
        config = ENCODERS[path_or_name]
        path = shipped(str(config.weights.shipped))
    elif not path.exists():
        raise CheckpointError(_absent(str(path_or_name)))
    elif encoder is not None:
        config = encoder_by_name(encoder, weights=path, catalog=catalog or {})
    elif (path / RUN).is_file():
        config = _saved_config(path)
        path = path / WEIGHTS
    elif (path / ARCHITECTURE).is_file():
        config = _described(str(path / ARCHITECTURE), weights=path)
    elif (path / TRANSFORMERS).is_file() and is_transformers(read_object(path / TRANSFORMERS, what="a model config")):
        config = _described(str(path / TRANSFORMERS), weights=path)
    else:
        if path.is_file():
            container_of(path)  # a file of another kind has no model that could be set
        raise CheckpointError(_does_not_say(path))
    path = matching_file(config, path)
    beside = path.parent / VOCABULARY
    return EncoderSpec(config, path, beside if beside.is_file() else None)


def encoder_by_name(name: str, *, weights: Path, catalog: Mapping[str, EncoderConfig]) -> EncoderConfig:
    """Return the configuration of an encoder by its name.

    Args:
        name: As `encoder` of `find_encoder`.
        weights: File of the weights.
        catalog: Section `encoders` of a configuration.

    Returns:
        Architecture, head and sizes.

    Raises:
        ConfigError: There is no such model.
    """
    known = {**ENCODERS, **catalog}
    if name in known:
        return known[name]
    try:
        return _described(name, weights=weights)
    except ConfigError as error:
        entries = f"no entry of `encoders` ({', '.join(catalog)}), and " if catalog else ""
        raise ConfigError(f"encoder {name}: {entries}{error}") from None


def _saved_config(folder: Path) -> EncoderConfig:
    """Read the section `encoder` of a run's `config.yaml`. `model` becomes the folder's `open_clip_config.json` if it exists.

    Args:
        folder: Of the run.

    Returns:
        Architecture, head and sizes.

    Raises:
        CheckpointError: The file has no such section.
        ConfigError: The file cannot be read, or the section is not valid.
    """
    path = folder / RUN
    content = read_files([path])
    if "encoder" not in content:
        raise CheckpointError(f"{path}: has no key `encoder`: {folder} is not the folder of a finished run")
    config: EncoderConfig = parse(EncoderConfig, content["encoder"], where=f"{path}: encoder")
    described = folder / ARCHITECTURE
    return config.model_copy(update={"model": str(described)}) if described.is_file() else config


def _described(model: str, *, weights: Path) -> EncoderConfig:
    """Return a configuration from open_clip's model config; a folder's `preprocess_cfg` sets the image size."""
    content = description(model)
    vision, pixels = content["model_cfg"]["vision_cfg"], content.get("preprocess_cfg") or _preprocessing(weights)
    for name, ours in (("mean", MEAN), ("std", STD)):
        if (theirs := pixels.get(name)) is not None and tuple(theirs) != ours:
            raise ConfigError(f"{model}: its preprocess_cfg has {name} {theirs}; only CLIP's {list(ours)} is supported")
    size = pixels.get("size") or vision["image_size"]
    side = min(size) if isinstance(size, list | tuple) else size
    values = {
        "model": model,
        "weights": WeightsConfig(path=str(weights)),
        "head": "mean" if vision.get("pool_type") == "avg" else "cls",
        "image_size": side,
        "crop_size": side,
    }
    found: EncoderConfig = parse(EncoderConfig, values, where=model)
    return found


def _preprocessing(weights: Path) -> dict[str, Any]:
    """Return mean and standard deviation of pixels from the folder of a transformers' model; nothing if it does not state them."""
    path = weights / PREPROCESSOR
    if not path.is_file():
        return {}
    content = read_object(path, what="a configuration of pixels")
    return {name: content.get(f"image_{name}") for name in ("mean", "std")}


def _absent(name: str) -> str:
    if name in open_clip.list_models():
        return (
            f"{name}: is the name of an open_clip architecture, not of weights, and nothing is downloaded here. Pass a file of weights and "
            f"the name of its architecture: encoder {name}."
        )
    return f"{name}: no such file or folder, and not a shipped encoder ({', '.join(ENCODERS)})"


def _does_not_say(path: Path) -> str:
    if path.is_dir():
        return (
            f"{path}: holds neither {RUN} of a finished run nor {ARCHITECTURE}, so the model of its weights is "
            "not known. Set encoder, for example EVA02-B-16."
        )
    folder = f", or pass the folder {path.parent}" if (path.parent / ARCHITECTURE).is_file() else ""
    return f"{path}: the model of these weights is not known. Set encoder, for example EVA02-B-16{folder}."


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

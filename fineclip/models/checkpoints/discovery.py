"""Find the architecture, the weights and the vocabulary of an encoder by its path or name, and load it strictly.

Missing or unexpected keys and other shapes are errors that name them.

results/coco2017/fineclip-eva02.b16-all-s0    folder of a finished run
exported/                                     folder of open_clip: open_clip_config.json and weights
clip-vit-base-patch16/                        folder of transformers' CLIPModel: config.json and weights
FineCLIP_coco_vitb16.pt and EVA02-B-16        file of weights, and the name of its model
mini                                          encoder that is shipped with the package
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip

from fineclip.config import EncoderConfig, WeightsConfig, parse, read_files
from fineclip.errors import CheckpointError, ConfigError
from fineclip.models.architecture import description
from fineclip.models.checkpoints.loading import load_encoder, matching_file
from fineclip.models.checkpoints.weights_files import INDEX, WEIGHTS, parts_of
from fineclip.models.encoder import RegionEncoder
from fineclip.models.file_kinds import container_of
from fineclip.models.images import MEAN, STD
from fineclip.models.model_folders import read_object
from fineclip.models.shipped import ENCODERS, shipped
from fineclip.models.tokenizer import Tokenizer, load_tokenizer
from fineclip.models.transformers_config import CONFIG as TRANSFORMERS
from fineclip.models.transformers_config import is_transformers

VOCABULARY = "bpe.txt.gz"
ARCHITECTURE = "open_clip_config.json"
RUN = "config.yaml"
PREPROCESSOR = "preprocessor_config.json"  # of transformers


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

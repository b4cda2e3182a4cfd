"""The folder of a trained encoder, which open_clip can load: write it and read it."""

import json
import shutil
from pathlib import Path

import yaml

from fineclip.config import EncoderConfig, parse
from fineclip.errors import CheckpointError
from fineclip.models.architecture import architecture
from fineclip.models.checkpoints.weights_files import WEIGHTS, write_weights
from fineclip.models.checkpoints.strict_loading import load_encoder
from fineclip.models.encoder import RegionEncoder
from fineclip.models.images import MEAN, STD
from fineclip.models.tokenizer import Tokenizer, load_tokenizer
from fineclip.shards import atomic, write_text

VOCABULARY = "bpe.txt.gz"
ARCHITECTURE = "open_clip_config.json"
RUN = "config.yaml"
PREPROCESSING = {"mode": "RGB", "interpolation": "bilinear", "resize_mode": "squash"}


def save_encoder(encoder: RegionEncoder, folder: Path, *, config: EncoderConfig, vocabulary: Path | None = None) -> None:
    """Write `model.safetensors` and `open_clip_config.json`, each atomically. The same weights give the same bytes.

    open_clip loads the folder as `local-dir:FOLDER`. `load_saved_encoder` also needs `config.yaml`, which training writes.

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


def load_saved_encoder(folder: Path) -> RegionEncoder:
    """Load the encoder of a run.

    Args:
        folder: With `config.yaml` (key `encoder`), `open_clip_config.json` and `model.safetensors`.

    Returns:
        The encoder in training mode, in float32 on the CPU.

    Raises:
        CheckpointError: A file is absent, or the weights do not fit the architecture.
        ConfigError: The architecture is not supported.
    """
    return load_encoder(saved_config(folder), folder / WEIGHTS)


def saved_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer of a run's encoder, with `bpe.txt.gz` of the folder if it exists."""
    vocabulary = folder / VOCABULARY
    return load_tokenizer(saved_config(folder), vocabulary if vocabulary.is_file() else None)


def saved_config(folder: Path) -> EncoderConfig:
    """Read the section `encoder` of a run's `config.yaml`. `model` becomes the folder's `open_clip_config.json` if it exists.

    Args:
        folder: Of the run.

    Returns:
        Architecture, head and sizes.

    Raises:
        CheckpointError: The file cannot be read or has no such section.
        ConfigError: The section is not valid.
    """
    path = folder / RUN
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from None
    if not isinstance(content, dict) or "encoder" not in content:
        raise CheckpointError(f"{path}: has no key `encoder`: {folder} is not the folder of a finished run")
    config: EncoderConfig = parse(EncoderConfig, content["encoder"], where=f"{path}: encoder")
    described = folder / ARCHITECTURE
    return config.model_copy(update={"model": str(described)}) if described.is_file() else config

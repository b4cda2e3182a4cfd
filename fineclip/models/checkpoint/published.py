"""The folder that a run leaves behind: written so that anybody can load it, and read back."""

import json
import shutil
from pathlib import Path

import yaml

from fineclip.config import EncoderConfig, parse
from fineclip.errors import CheckpointError
from fineclip.models.architecture import architecture
from fineclip.models.checkpoint.files import WEIGHTS, write_weights
from fineclip.models.checkpoint.loading import load_encoder
from fineclip.models.encoder import RegionEncoder
from fineclip.models.images import MEAN, STD
from fineclip.models.tokenizer import Tokenizer, load_tokenizer
from fineclip.shards import atomic, write_text

VOCABULARY = "bpe.txt.gz"
ARCHITECTURE = "open_clip_config.json"
RUN = "config.yaml"
PREPROCESSING = {"mode": "RGB", "interpolation": "bilinear", "resize_mode": "squash"}


def publish(encoder: RegionEncoder, folder: Path, *, config: EncoderConfig, vocabulary: Path | None = None) -> None:
    """Write what makes a folder that anybody can load; the same bytes for the same weights, each file whole or not at all.

    `model.safetensors` in float32 under open_clip's names, and `open_clip_config.json`, by which open_clip itself opens the
    folder (`local-dir:FOLDER`). The run's `config.yaml`, which `load_published` reads, is the training's to write.

    Args:
        encoder: stays as it is.
        folder: made if absent.
        config: of the encoder.
        vocabulary: the encoder's own BPE file, laid beside the weights as `bpe.txt.gz`.
    """
    preprocessing = {"size": config.image_size, "mean": MEAN, "std": STD, **PREPROCESSING}
    described = {"model_cfg": architecture(config.model), "preprocess_cfg": preprocessing}
    write_text(folder / ARCHITECTURE, json.dumps(described, indent=2, sort_keys=True) + "\n")
    write_weights(folder / WEIGHTS, encoder.state_dict())
    if vocabulary is not None:
        with atomic(folder / VOCABULARY) as temporary:
            shutil.copyfile(vocabulary, temporary)


def load_published(folder: Path) -> RegionEncoder:
    """The encoder of a run, from its `config.yaml` (key `encoder`), `open_clip_config.json` and `model.safetensors`.

    Raises:
        CheckpointError: one of them is absent or does not fit the other.
        ConfigError: the architecture cannot be used.
    """
    return load_encoder(published_config(folder), folder / WEIGHTS)


def published_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a run's encoder, with the vocabulary that lies beside the weights, if one does."""
    vocabulary = folder / VOCABULARY
    return load_tokenizer(published_config(folder), vocabulary if vocabulary.is_file() else None)


def published_config(folder: Path) -> EncoderConfig:
    """What a run's `config.yaml` says of its encoder, `model` being the description that lies in the folder, if one does.

    Raises:
        CheckpointError: it is absent or does not say.
        ConfigError: it says something that is not understood.
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

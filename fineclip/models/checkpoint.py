"""Weights in and out of files: strictly, and without ever running what a file says.

Read are the layouts of open_clip and OpenAI, of EVA-02-CLIP, CLIPSelf and FineCLIP as their authors saved them, and our
own, which is open_clip's. A key that is missing, unexpected or of another shape is an error: the authors load with
`strict=False`, and a wrong file then trains silently from random weights.
"""

import json
import pickle
import re
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fineclip.config import EncoderConfig, parse
from fineclip.errors import CheckpointError
from fineclip.models.architecture import architecture
from fineclip.models.encoder import RegionEncoder, build_encoder
from fineclip.models.images import MEAN, STD
from fineclip.models.tokenizer import Tokenizer, load_tokenizer
from fineclip.shards import atomic, write_text

WEIGHTS = "model.safetensors"
VOCABULARY = "bpe.txt.gz"
ARCHITECTURE = "open_clip_config.json"
PREPROCESSING = {"mode": "RGB", "interpolation": "bilinear", "resize_mode": "squash"}
WRAPPINGS = ("state_dict", "module", "model")
IN_FOLDERS = ("open_clip_model.safetensors", WEIGHTS, "open_clip_pytorch_model.bin", "pytorch_model.bin")
NOT_WEIGHTS = frozenset({"input_resolution", "context_length", "vocab_size"})  # numbers that OpenAI's files hold

# EVA-02-CLIP as its authors name it -> open_clip with timm's trunk. `ln` is the inner LayerNorm.
FROM_OFFICIAL = (
    (r"^visual\.", "visual.trunk."),
    (r"\.attn\.([qv])_bias$", r".attn.\1_proj.bias"),
    (r"\.attn\.inner_attn_ln\.", ".attn.norm."),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"\.mlp\.ffn_ln\.", ".mlp.norm."),
)
ROTARY_TABLE = re.compile(r"^visual\.(.+\.)?rope\.freqs_(cos|sin)$")  # computed again for every grid


def read_weights(path: Path) -> dict[str, Tensor]:
    """Every tensor of a file by its name there, unwrapped from what trainers put around it.

    Args:
        path: a .safetensors, or what `torch.save` wrote; or a folder that holds one under a usual name.

    Raises:
        CheckpointError: it is absent, cut short, holds more than tensors and plain values, or no tensors at all.
    """
    path = _file_of(path)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    while inner := next((key for key in WRAPPINGS if isinstance(content.get(key), Mapping)), None):
        content = content[inner]
    if not content or not all(isinstance(name, str) for name in content):
        raise CheckpointError(f"{path}: holds no weights: expected tensors by their names")
    strangers = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if strangers:
        raise CheckpointError(f"{path}: holds no weights: {_some(strangers)} is no tensor")
    if all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): value for name, value in content.items()}
    return dict(content)


def as_open_clip(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under open_clip's names; those of open_clip and OpenAI keep theirs.

    Source of the map: the authors' eva_vit_model.py beside timm's eva.py; checked bit for bit against their code.
    """
    weights = {name: value for name, value in weights.items() if name not in NOT_WEIGHTS}
    if not any(name.startswith("visual.blocks.") for name in weights):
        return weights
    return {_official_name(name): value for name, value in weights.items() if not ROTARY_TABLE.match(name)}


def load_encoder(config: EncoderConfig, weights: Path) -> RegionEncoder:
    """The encoder that `config` describes with the weights of a file or folder, in float32 on the CPU.

    Raises:
        CheckpointError: the file cannot be read, or is not of this architecture: names the first few keys.
        ConfigError: the architecture cannot be used.
    """
    encoder = build_encoder(config)
    fill(encoder, as_open_clip(read_weights(weights)), where=f"{weights} as {config.model}")
    return encoder


def fill(encoder: RegionEncoder, weights: Mapping[str, Tensor], *, where: str) -> None:
    """Set every weight of `encoder`; half precision becomes float32.

    Raises:
        CheckpointError: a key is missing, unexpected, or of another shape or kind.
    """
    wanted = encoder.state_dict()
    weights = _texts_placed(weights, like=wanted)
    complaints = []
    if missing := sorted(wanted.keys() - weights.keys()):
        complaints.append(f"{len(missing)} keys are missing: {_some(missing)}")
    if strange := sorted(weights.keys() - wanted.keys()):
        complaints.append(f"{len(strange)} keys are not expected: {_some(strange)}")
    shapes = [
        f"{name} is {tuple(weights[name].shape)}, not {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in weights and weights[name].shape != value.shape
    ]
    if shapes:
        complaints.append(f"{len(shapes)} have another shape: {_some(shapes)}")
    if whole := [name for name in wanted if name in weights and not weights[name].is_floating_point()]:
        complaints.append(f"{len(whole)} are no floating point numbers: {_some(whole)}")
    if complaints:
        raise CheckpointError(f"{where}: these weights are of another model; {'; '.join(complaints)}")
    encoder.load_state_dict({name: weights[name].float() for name in wanted}, strict=True)


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
    tensors = {
        name: value.detach().to("cpu", torch.float32).clone(memory_format=torch.contiguous_format)
        for name, value in sorted(encoder.state_dict().items())
    }
    with atomic(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
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
    path = folder / "config.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from None
    if not isinstance(content, dict) or "encoder" not in content:
        raise CheckpointError(f"{path}: has no key `encoder`: {folder} is not the folder of a finished run")
    config: EncoderConfig = parse(EncoderConfig, content["encoder"], where=f"{path}: encoder")
    described = folder / ARCHITECTURE
    return config.model_copy(update={"model": str(described)}) if described.is_file() else config


def _file_of(path: Path) -> Path:
    if path.is_dir():
        found = next((path / name for name in IN_FOLDERS if (path / name).is_file()), None)
        if found is None:
            raise CheckpointError(f"{path}: holds none of {', '.join(IN_FOLDERS)}")
        return found
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    return path


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: is no safetensors file, or cut short: {error}") from None


def _read_pickle(path: Path) -> dict[str, Any]:
    if _is_torchscript(path):
        raise CheckpointError(
            f"{path}: is a TorchScript archive, a program as OpenAI publishes its models, and is not run here. Use the "
            "same weights as tensors, as open_clip publishes them on the Hugging Face hub (timm/vit_base_patch16_clip_224.openai)."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors and plain values, or is damaged, and is not opened: {_first_line(error)}. If you trust "
            "who made it, load it yourself and save its state_dict as .safetensors."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: is no checkpoint of torch's, or cut short: {_first_line(error)}") from None
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}; expected tensors by their names")
    return dict(content)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _official_name(name: str) -> str:
    for pattern, replacement in FROM_OFFICIAL:
        name = re.sub(pattern, replacement, name)
    return name


def _texts_placed(weights: Mapping[str, Tensor], *, like: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """OpenAI's layout has the text tower at the top, newer ones under `text.`: as the model has it."""
    is_nested, is_wanted_nested = (any(name.startswith("text.") for name in names) for names in (weights, like))
    if is_nested == is_wanted_nested:
        return weights
    if is_nested:
        return {name.removeprefix("text."): value for name, value in weights.items()}
    keep = ("visual.", "logit_scale", "logit_bias")
    return {name if name.startswith(keep) else f"text.{name}": value for name, value in weights.items()}


def _some(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")

"""Which open_clip model a configuration means, built with weights drawn at random. Never touches the network."""

import difflib
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
from torch import nn

from fineclip.config import EncoderConfig
from fineclip.errors import ConfigError
from fineclip.models.shipped import PREFIX, shipped

WHOLE = ("embed_dim", "vision_cfg", "text_cfg")


def architecture(model: str) -> dict[str, Any]:
    """open_clip's model config: `embed_dim`, `vision_cfg`, `text_cfg` and what else it says.

    Args:
        model: a name that open_clip knows, the path of a JSON file in its format, or `shipped:` and the name of one.

    Raises:
        ConfigError: there is no such model or file, or it is of a kind that needs the network or is not read here.
    """
    if model.startswith(PREFIX):
        found = _read(shipped(model.removeprefix(PREFIX)))
    elif model.endswith(".json"):
        found = _read(Path(model))
    else:
        found = _known(model)
    _refuse(found, model)
    return found


def build_model(config: EncoderConfig) -> nn.Module:
    """Upstream's model, `CLIP` or `CustomTextCLIP`, untrained, drawn from torch's global generator.

    Raises:
        ConfigError: as `architecture`, or open_clip cannot build it.
    """
    found = architecture(config.model)
    kind = open_clip.CustomTextCLIP if found.pop("custom_text", False) else open_clip.CLIP
    if "timm_model_name" in found["vision_cfg"]:
        found["vision_cfg"]["timm_model_pretrained"] = False
    try:
        model: nn.Module = kind(**found)
    except (TypeError, RuntimeError, ValueError, AssertionError) as error:
        raise ConfigError(f"{config.model}: open_clip cannot build this model: {error}") from None
    return model


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read as a model config: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: is no JSON: {error}") from None
    found = content.get("model_cfg", content) if isinstance(content, dict) else {}
    if not (isinstance(found, dict) and all(name in found for name in WHOLE)):
        raise ConfigError(f"{path}: is no model config of open_clip's: expected {', '.join(WHOLE)}")
    return found


def _known(name: str) -> dict[str, Any]:
    names = open_clip.list_models()
    if name not in names:  # a name with a schema (hf-hub:) would make open_clip download
        close = difflib.get_close_matches(name, names, n=3)
        hint = f", did you mean {' or '.join(close)}?" if close else ""
        raise ConfigError(
            f"model {name!r}: not among the {len(names)} models of open_clip, no path of a .json, no {PREFIX}NAME{hint}"
        )
    found: dict[str, Any] = deepcopy(open_clip.get_model_config(name))
    return found


def _refuse(found: dict[str, Any], model: str) -> None:
    text, vision = found["text_cfg"], found["vision_cfg"]
    if "multimodal_cfg" in found:
        raise ConfigError(f"{model}: is a CoCa model, with a text decoder that nothing here trains")
    if text.get("hf_model_name") or text.get("hf_tokenizer_name"):
        raise ConfigError(
            f"{model}: its text tower or tokenizer is Hugging Face's ({text.get('hf_model_name') or text['hf_tokenizer_name']}); "
            "only open_clip's own text tower with CLIP's byte-pair tokenizer is read"
        )
    name = vision.get("timm_model_name") or ""
    if ":" in name or "/" in name:
        raise ConfigError(f"{model}: timm_model_name {name!r} is an address, not a name that timm knows")

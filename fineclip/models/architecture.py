"""Look up open_clip model configs and build models with random weights, without network access."""

import difflib
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
from torch import nn

from fineclip.config import EncoderConfig
from fineclip.errors import ConfigError
from fineclip.models.model_folders import read_object, require_keys
from fineclip.models.shipped import PREFIX, shipped
from fineclip.models.transformers_config import as_model_config, is_transformers

TEXT = tuple(f"text_cfg.{name}" for name in ("context_length", "vocab_size", "width", "heads", "layers"))
WHOLE = ("embed_dim", "vision_cfg.image_size", *TEXT)
VISION = tuple(f"vision_cfg.{name}" for name in ("patch_size", "width", "layers"))  # without timm
POST_NORM = "eva02_enormous"  # EVA-02 E: its blocks have their norms after attention and MLP


def architecture(model: str) -> dict[str, Any]:
    """Return open_clip's model config: `embed_dim`, `vision_cfg`, `text_cfg` and optional keys.

    Args:
        model: Name of an open_clip model, path of a JSON file in its format or of the `config.json` of
            a transformers' CLIPModel, or `shipped:` and a shipped file.

    Returns:
        A copy that may be changed.

    Raises:
        ConfigError: There is no such model or file, or it is of a kind that is not supported or needs the network.
    """
    found: dict[str, Any] = description(model)["model_cfg"]
    return found


def description(model: str) -> dict[str, Any]:
    """Return the content of an `open_clip_config.json`: `model_cfg`, and `preprocess_cfg` if a file has it.

    Args:
        model: As in `architecture`.

    Returns:
        A copy that may be changed.

    Raises:
        ConfigError: As `architecture`.
    """
    if model.startswith(PREFIX):
        content = _read(shipped(model.removeprefix(PREFIX)))
    else:
        content = _read(Path(model)) if model.endswith(".json") else {"model_cfg": _known(model)}
    _refuse(content["model_cfg"], model)
    return content


def same_model_at(model: str, size: int) -> list[str]:
    """Return the models of open_clip that differ from another in their resolution only.

    Args:
        model: As in `architecture`.
        size: Side of their images in pixels.

    Returns:
        Names; empty if there is none.

    Examples:
        >>> same_model_at("EVA02-L-14", 336)
        ['EVA02-L-14-336']
    """
    if model.endswith(".json") or model.startswith(PREFIX):
        return []
    wanted, names = _without_size(architecture(model)), open_clip.list_models()
    configs = {name: open_clip.get_model_config(name) for name in names}
    return [
        name
        for name, config in configs.items()
        if config["vision_cfg"].get("image_size") == size and _without_size(config) == wanted
    ]


def _without_size(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model config without its resolution, which names of timm end in."""
    vision = {name: value for name, value in found["vision_cfg"].items() if name != "image_size"}
    if "timm_model_name" in vision:
        vision["timm_model_name"] = vision["timm_model_name"].rstrip("0123456789")
    return {**found, "vision_cfg": vision}


def build_model(config: EncoderConfig) -> nn.Module:
    """Build open_clip's `CLIP` or `CustomTextCLIP` with random weights from torch's global generator.

    Args:
        config: Only `model` is used.

    Returns:
        The model in training mode, on the CPU.

    Raises:
        ConfigError: As `architecture`, or open_clip cannot build it.
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
    """Read a model config. All that shapes of weights do not show must be stated: open_clip has a default for every key."""
    content = read_object(path, what="a model config", error=ConfigError)
    if is_transformers(content):
        return {"model_cfg": as_model_config(content, path)}
    found = content.get("model_cfg", content)
    found = found if isinstance(found, dict) else {}
    vision = found.get("vision_cfg")
    keys = WHOLE if isinstance(vision, dict) and vision.get("timm_model_name") else (*WHOLE, *VISION)
    require_keys(found, keys, where=str(path), what="a model config of open_clip", error=ConfigError)
    return {**content, "model_cfg": found}


def _known(name: str) -> dict[str, Any]:
    names = open_clip.list_models()
    if name not in names:  # a name with a schema (hf-hub:) would make open_clip download
        close = difflib.get_close_matches(name, names, n=3)
        hint = f", did you mean {' or '.join(close)}?" if close else ""
        raise ConfigError(
            f"model {name!r}: not among the {len(names)} models of open_clip, not the path of a .json and not {PREFIX}NAME{hint}"
        )
    found: dict[str, Any] = deepcopy(open_clip.get_model_config(name))
    return found


def _refuse(found: dict[str, Any], model: str) -> None:
    text, vision = found["text_cfg"], found["vision_cfg"]
    if "multimodal_cfg" in found:
        raise ConfigError(f"{model}: is a CoCa model; its text decoder is not supported")
    if text.get("hf_model_name") or text.get("hf_tokenizer_name"):
        raise ConfigError(
            f"{model}: its text tower or tokenizer is Hugging Face's ({text.get('hf_model_name') or text['hf_tokenizer_name']}); "
            "only open_clip's own text tower with CLIP's byte-pair tokenizer is supported"
        )
    name = vision.get("timm_model_name") or ""
    if name.startswith(POST_NORM):
        raise ConfigError(
            f"{model}: EVA-02 E is not supported. Supported sizes of EVA-02 are B and L, such as EVA02-L-14-336."
        )
    if ":" in name or "/" in name:
        raise ConfigError(f"{model}: timm_model_name {name!r} is a URL, not the name of a timm model")

"""Convert the `config.json` of a transformers' CLIPModel to a model config of open_clip. transformers is not imported.

Source of the defaults: transformers 5, configuration_clip.py. A file states only what differs in some versions.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fineclip.errors import ConfigError
from fineclip.models.model_folders import require_keys

MODEL = "transformers' CLIPModel"
CONFIG = "config.json"
VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
TEXT = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}
ACTIVATIONS = {"quick_gelu": True, "gelu": False}
LARGEST_TOKEN = 2  # this eos_token_id of early files means the largest token


def is_transformers(content: Mapping[str, Any]) -> bool:
    """Tell whether a JSON object is the configuration of a model of transformers."""
    return isinstance(content.get("model_type"), str) and "model_cfg" not in content


def as_model_config(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Convert the configuration of a CLIPModel.

    Args:
        content: Content of its `config.json`.
        path: The file, for messages.

    Returns:
        open_clip's model config, `embed_dim`, `vision_cfg`, `text_cfg` and `quick_gelu`.

    Raises:
        ConfigError: It is of another model, lacks a part, or has an option that open_clip's model does not have.
    """
    if content["model_type"] != "clip":
        raise ConfigError(
            f"{path}: is the configuration of a {content['model_type']!r} model of transformers. Of transformers, only CLIPModel (model_type"
            " 'clip') is read."
        )
    require_keys(
        content,
        ("vision_config", "text_config"),
        where=str(path),
        what=f"a whole configuration of {MODEL}",
        error=ConfigError,
    )
    vision, text = (
        _part(content, name, defaults, path) for name, defaults in (("vision_config", VISION), ("text_config", TEXT))
    )
    for part, name in ((vision, "vision_config"), (text, "text_config")):
        if part["hidden_act"] not in ACTIVATIONS or part["layer_norm_eps"] != VISION["layer_norm_eps"]:
            raise ConfigError(
                f"{path}: {name} has hidden_act {part['hidden_act']!r} and layer_norm_eps {part['layer_norm_eps']}; of {MODEL},"
                f" {' or '.join(ACTIVATIONS)} and {VISION['layer_norm_eps']} are supported"
            )
    if vision["hidden_act"] != text["hidden_act"]:
        raise ConfigError(
            f"{path}: its towers have different activations, {vision['hidden_act']} and {text['hidden_act']}; open_clip's have one"
        )
    if text["eos_token_id"] != LARGEST_TOKEN and text["eos_token_id"] < text["vocab_size"] - 1:
        raise ConfigError(
            f"{path}: text_config.eos_token_id is {text['eos_token_id']}; supported is the largest token, {text['vocab_size'] - 1}"
        )
    return {
        "embed_dim": content.get("projection_dim", 512),
        "quick_gelu": ACTIVATIONS[vision["hidden_act"]],
        "vision_cfg": {
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "layers": vision["num_hidden_layers"],
            "width": vision["hidden_size"],
            "head_width": vision["hidden_size"] // vision["num_attention_heads"],
            "mlp_ratio": vision["intermediate_size"] / vision["hidden_size"],
        },
        "text_cfg": {
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            "width": text["hidden_size"],
            "heads": text["num_attention_heads"],
            "layers": text["num_hidden_layers"],
            "mlp_ratio": text["intermediate_size"] / text["hidden_size"],
        },
    }


def _part(content: Mapping[str, Any], name: str, defaults: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return a tower's options with the defaults of transformers. A width without its number of heads is an error."""
    stated = content[name]
    if not isinstance(stated, Mapping):
        raise ConfigError(f"{path}: {name} is a {type(stated).__name__}, expected an object of keys")
    found = {**defaults, **{key: value for key, value in stated.items() if key in defaults}}
    wrong = [key for key, default in defaults.items() if not _is_like(found[key], default)]
    if wrong:
        raise ConfigError(
            f"{path}: {name}.{wrong[0]} is {found[wrong[0]]!r}, expected a value such as {defaults[wrong[0]]!r}"
        )
    if found["hidden_size"] != defaults["hidden_size"]:
        require_keys(
            content,
            [f"{name}.num_attention_heads"],
            where=str(path),
            what=f"a whole configuration of {MODEL}",
            error=ConfigError,
        )
    if found["hidden_size"] % found["num_attention_heads"]:
        raise ConfigError(
            f"{path}: {name}.hidden_size {found['hidden_size']} is not a multiple of num_attention_heads {found['num_attention_heads']}"
        )
    return found


def _is_like(value: Any, default: Any) -> bool:
    """Tell whether a value has the type of the default; sizes are positive."""
    if isinstance(default, str):
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value > 0 and (isinstance(default, float) or isinstance(value, int))

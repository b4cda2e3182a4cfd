"""The models of the golden vectors, built as their own `model_config.json` says, whatever their sizes."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models import register_model
from timm.models.eva import Eva
from torch import Tensor

from fineclip.config import EncoderConfig, WeightsConfig
from fineclip.models.checkpoints import as_open_clip, load_encoder
from fineclip.models.encoder import RegionEncoder
from fineclip.types import Batch, Counts

GOLDEN = Path(os.environ.get("FINECLIP_GOLDEN", "../shared/golden"))
BY_AUTHORS = "visual.blocks.0."  # the map of names needs to see that they are the authors'
KEYS = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")


@register_model
def golden_eva(pretrained: bool = False, **options: Any) -> Eva:
    """The trunk of `eva_tiny`."""
    assert not pretrained
    described = json.loads((GOLDEN / "eva_tiny/model_config.json").read_text(encoding="utf-8"))
    arguments = described["timm_trunk"]["kwargs"]
    trunk = Eva(**(arguments | {name: value for name, value in options.items() if name in arguments}))
    trunk.default_cfg = {}
    return trunk


def golden_encoder(name: str, folder: Path) -> EncoderConfig:
    """The section of `eva_tiny` or `openai_tiny`; its model config in open_clip's format is written into `folder`."""
    described = json.loads((GOLDEN / name / "model_config.json").read_text(encoding="utf-8"))
    model: dict[str, Any] = {key: described["open_clip"][key] for key in KEYS if key in described["open_clip"]}
    if "timm_trunk" in described:
        size = described["timm_trunk"]["kwargs"]["img_size"]
        tower = {"image_size": size, "timm_model_name": "golden_eva", "timm_pool": "token", "timm_proj": None}
        model |= {"custom_text": True, "vision_cfg": tower}
    size = int(model["vision_cfg"]["image_size"])
    path = folder / f"{name}.json"
    path.write_text(json.dumps(model), encoding="utf-8")
    return EncoderConfig(
        model=str(path), weights=WeightsConfig(path="nowhere.safetensors"), image_size=size, crop_size=size
    )


def loaded_encoder(name: str, folder: Path) -> RegionEncoder:
    """`eva_tiny` or `openai_tiny` with its weights, strictly; nothing trains."""
    return load_encoder(golden_encoder(name, folder), GOLDEN / name / "weights.safetensors").eval()


def arrays(name: str) -> dict[str, Tensor]:
    """Every array of an npz, by its name there."""
    with np.load(GOLDEN / name) as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored.files}


def values(name: str) -> Any:
    """What a JSON holds."""
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


def batch_of_the_authors() -> Batch:
    """The inputs of `eva_tiny` as one process sees them: images, captions, regions, their captions and crops."""
    given = arrays("eva_tiny/inputs.npz")
    images, regions = len(given["images"]), len(given["boxes"])
    return Batch(
        keys=tuple(map(str, range(images))),
        counts=Counts([images], [regions]),
        images=given["images"],
        texts=given["caption_tokens"],
        boxes=given["boxes"],
        box_to_image=given["box_to_image"],
        region_texts=given["region_tokens"],
        crops=given["crops"],
    )


def ours(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the authors' EVA-02-CLIP by the names that they have here."""
    renamed = as_open_clip({BY_AUTHORS: torch.zeros(()), **weights})
    return {name: value for name, value in renamed.items() if not name.endswith(".")}

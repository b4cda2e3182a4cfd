"""A small encoder with fixed weights as an entry of the catalog, for cases that train or evaluate from files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from fineclip.config import WeightsConfig
from fineclip.stages.weights import fetch_weights
from tests.helpers.tiny import ARCHITECTURE, tiny_encoder
from tests.versions.inputs import set_weights

CLIP_VOCABULARY = 49408
WEIGHTS = Path("weights/tiny.json")
ENCODER = {"model": "tiny.json", "weights": {"path": "tiny.safetensors"}, "image_size": 16, "crop_size": 8}


def write_encoder() -> dict[str, Any]:
    """The section of an encoder whose weights lie in the working directory, with their manifest at `WEIGHTS`."""
    text = ARCHITECTURE["text_cfg"] | {"vocab_size": CLIP_VOCABULARY}
    Path("tiny.json").write_text(json.dumps(ARCHITECTURE | {"text_cfg": text}), encoding="utf-8")
    encoder = tiny_encoder(dtype=torch.float32)
    set_weights(encoder)
    weights = encoder.state_dict()
    words = np.random.default_rng(1).uniform(-0.5, 0.5, (CLIP_VOCABULARY, weights["token_embedding.weight"].shape[1]))
    weights["token_embedding.weight"] = torch.from_numpy(words.astype(np.float32))
    save_file({name: value.contiguous() for name, value in weights.items()}, "tiny.safetensors")
    fetch_weights("encoders", "tiny", WEIGHTS, WeightsConfig(path="tiny.safetensors"))
    return ENCODER

"""Folder of the shipped encoder: open_clip's model config, vocabulary and weights."""

import json
import os
from pathlib import Path
from typing import Any

import open_clip
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save

from tools.shipped_models.bpe import write_bpe

NAME = "mini"
CONTEXT_LENGTH = 20
IMAGE_PX = 96
CLOSE_UP_PX = 48


def model_config(vocabulary_size: int) -> dict[str, Any]:
    """Return open_clip's model config."""
    return {
        "embed_dim": 128,
        "vision_cfg": {
            "image_size": IMAGE_PX,
            "patch_size": 12,
            "width": 128,
            "layers": 4,
            "head_width": 32,
            "pool_type": "avg",
            "final_ln_after_pool": False,
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": vocabulary_size,
            "width": 128,
            "heads": 4,
            "layers": 2,
        },
    }


def write_description(folder: Path) -> None:
    """Write `mini.json` and `bpe.txt.gz`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model_config(write_bpe(folder / "bpe.txt.gz"))
    (folder / f"{NAME}.json").write_text(json.dumps(config, indent=2) + "\n")


def new_model(folder: Path) -> CLIP:
    """Build the model of a folder with random weights from torch's global generator."""
    open_clip.add_model_config(folder)
    return open_clip.create_model(NAME)


def tokenizer(folder: Path) -> SimpleTokenizer:
    """Load the tokenizer of a folder."""
    return SimpleTokenizer(bpe_path=str(folder / "bpe.txt.gz"), context_length=CONTEXT_LENGTH)


def write_weights(folder: Path, model: CLIP) -> None:
    """Replace `model.safetensors` atomically, in half precision."""
    half = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    temporary = folder / f".model.safetensors.{os.getpid()}"
    temporary.write_bytes(save(half, metadata={"format": "pt"}))
    temporary.replace(folder / "model.safetensors")

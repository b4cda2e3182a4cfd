"""Folder of the shipped encoder: open_clip's model config, vocabulary and weights."""

import json
from pathlib import Path

import open_clip
from open_clip.model import CLIP
from safetensors.torch import save

from fineclip.miniature import WEIGHTS
from fineclip.shards.atomic import write_bytes, write_text
from tools.shipped_models.bpe import write_bpe

NAME = "mini"
IMAGE_PX = 96
CLOSE_UP_PX = 48


def write_description(folder: Path) -> None:
    """Write `bpe.txt.gz` and `mini.json`: the architecture of the shipped encoder, with the size of this vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((WEIGHTS / "encoder" / f"{NAME}.json").read_text())
    config["text_cfg"]["vocab_size"] = write_bpe(folder / "bpe.txt.gz")
    write_text(folder / f"{NAME}.json", json.dumps(config, indent=2) + "\n")


def new_model(folder: Path) -> CLIP:
    """Build the model of a folder with random weights from torch's global generator."""
    open_clip.add_model_config(folder)
    return open_clip.create_model(NAME)


def write_weights(folder: Path, model: CLIP) -> None:
    """Replace `model.safetensors` atomically, in half precision."""
    half = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    write_bytes(folder / "model.safetensors", save(half, metadata={"format": "pt"}))

"""Read the golden vectors, and build their models as `model_config.json` describes them.

The full set is the folder of the environment variable FINECLIP_GOLDEN, by default ../shared/golden. Without it the
tests read tests/golden/data, which is part of the repository: some large arrays are left out, and tests that need one
skip and name it; weights and random images are drawn from the seeds in `drawn.json`.
"""

import atexit
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.eva import Eva
from torch import Tensor

from fineclip.config import EncoderConfig, WeightsConfig
from fineclip.models.checkpoints import load_encoder
from fineclip.models.checkpoints.layouts import as_open_clip
from fineclip.models.encoder import RegionEncoder
from fineclip.types import Batch, Counts

T = TypeVar("T")
PUBLIC = Path(__file__).parents[1] / "golden" / "data"
FULL = Path(os.environ.get("FINECLIP_GOLDEN") or "../shared/golden")
BY_AUTHORS = "visual.blocks.0."  # the map of names needs to see that they are the authors'
KEYS = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")


def drawn(recipe: dict[str, Any]) -> dict[str, Tensor]:
    """Draw the tensors that a recipe of `drawn.json` describes.

    Args:
        recipe: `streams`, each with a `seed` and its `draws` in order: name, shape, offset and scale of normal
            numbers (a name of null stands for uniform numbers that nobody needs); `constants` by name.

    Returns:
        Float tensors by name.
    """
    found: dict[str, Tensor] = {}
    for stream in recipe["streams"]:
        generator = torch.Generator().manual_seed(stream["seed"])
        for name, shape, offset, scale in stream["draws"]:
            if name is None:
                torch.rand(shape, generator=generator)
            else:
                found[name] = offset + scale * torch.randn(shape, generator=generator)
    return found | {name: torch.tensor(value) for name, value in recipe["constants"].items()}


def complete(public: Path, folder: Path) -> None:
    """Copy the public set into a folder, and add the weights and arrays that are drawn."""
    shutil.copytree(public, folder, dirs_exist_ok=True)
    for name, recipe in json.loads((public / "drawn.json").read_text(encoding="utf-8")).items():
        tensors = drawn(recipe)
        for key, (file, array) in recipe["copies"].items():
            with np.load(public / file) as stored:
                tensors[key] = torch.from_numpy(stored[array])
        if name.endswith(".safetensors"):
            save_file(tensors, folder / name)
        else:
            with np.load(public / name) as stored:
                arrays = dict(stored) | {key: value.numpy() for key, value in tensors.items()}
            np.savez(folder / name, allow_pickle=False, **arrays)


def golden_folder() -> Path:
    """Return the full set, or without one a completed copy of the public set, which is removed at exit."""
    if FULL.is_dir():
        return FULL
    if os.environ.get("FINECLIP_GOLDEN"):
        raise NotADirectoryError(f"FINECLIP_GOLDEN is {FULL}, which is not a folder")
    folder = Path(tempfile.mkdtemp(prefix="fineclip-golden-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    complete(PUBLIC, folder)
    return folder


GOLDEN = golden_folder()


class Stored(dict[str, T]):
    """Arrays by name. Asking for one that is left out of the public set skips the test."""

    def __missing__(self, name: str) -> T:
        if GOLDEN == FULL:
            raise KeyError(name)
        pytest.skip(f"{name} is in the full set of golden vectors only: set FINECLIP_GOLDEN to its folder")


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


def numbers(name: str) -> Stored[np.ndarray]:
    """Return every array of an npz file by its name."""
    with np.load(GOLDEN / name) as stored:
        return Stored(stored)


def arrays(name: str) -> Stored[Tensor]:
    """Return every array of an npz file by its name, as a tensor."""
    return Stored({key: torch.from_numpy(value) for key, value in numbers(name).items()})


def values(name: str) -> Any:
    """Return the content of a JSON file."""
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

"""The authors' own files: read and written again they are the same, entry for entry and bit for bit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fineclip.models.checkpoints import EncoderSpec, export, load_encoder
from fineclip.models.checkpoints.layouts import as_open_clip
from tests.helpers.golden import GOLDEN, golden_encoder


def test_eva_clip(tmp_path: Path) -> None:
    path = GOLDEN / "eva_tiny/weights.safetensors"
    found = EncoderSpec(golden_encoder("eva_tiny", tmp_path), path, None)
    for name in ("again.safetensors", "again.pt"):
        export(found, tmp_path / name, layout="eva_clip")
    theirs, ours = load_file(path), load_file(tmp_path / "again.safetensors")
    pickled = torch.load(tmp_path / "again.pt", weights_only=True)["state_dict"]
    depth = json.loads((GOLDEN / "eva_tiny/model_config.json").read_text())["timm_trunk"]["kwargs"]["depth"]
    assert ours.keys() == theirs.keys() == pickled.keys()
    assert sum("rope" in name for name in ours) == 2 * (depth + 1)
    for name, value in theirs.items():
        assert value.dtype == ours[name].dtype
        assert torch.equal(value, ours[name]), name
        assert torch.equal(value, pickled[name]), name


@pytest.mark.parametrize("name", ["eva_tiny", "openai_tiny"])
def test_open_clip(tmp_path: Path, name: str) -> None:
    path, config = GOLDEN / name / "weights.safetensors", golden_encoder(name, tmp_path)
    export(EncoderSpec(config, path, None), tmp_path / "folder", layout="open_clip")
    theirs, ours = as_open_clip(load_file(path)), load_file(tmp_path / "folder/model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    again = load_encoder(config, tmp_path / "folder")
    assert all(torch.equal(again.state_dict()[name], theirs[name]) for name in theirs)

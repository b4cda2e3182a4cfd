"""Layouts: renaming round trips bit for bit, and loading in other programs."""

from functools import partial
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from fineclip.errors import CheckpointError, ConfigError, SystemRefusalError
from fineclip.models.checkpoints import EncoderSpec, export, find_encoder, load_encoder
from fineclip.models.checkpoints.exporting import official_weights
from fineclip.models.checkpoints.layouts import as_backbone, as_eva_clip, as_open_clip
from fineclip.models.checkpoints.weights_files import read_weights
from fineclip.models.encoder import RegionEncoder
from tests.helpers.encoders import encoder_config, tiny_encoder
from tests.helpers.limits import file_size_limit

TIMM_VIT = {  # timm's own kind of CLIP tower, of the size of the tiny ones
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 64,
    "depth": 3,
    "num_heads": 4,
    "num_classes": 32,
    "pre_norm": True,
    "norm_layer": partial(torch.nn.LayerNorm, eps=1e-5),
}


def saved(folder: Path, kind: str) -> tuple[RegionEncoder, EncoderSpec]:
    """A tiny encoder, and how it is found on disk."""
    encoder = tiny_encoder(folder, kind)
    torch.save(dict(encoder.state_dict()), folder / "weights.pt")
    return encoder, EncoderSpec(encoder_config(folder, kind), folder / "weights.pt", None)


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_authors_layout_round_trip(tmp_path: Path, suffix: str) -> None:
    encoder, found = saved(tmp_path, "eva")
    export(found, tmp_path / f"official{suffix}", layout="eva_clip")
    [official] = read_weights(tmp_path / f"official{suffix}").values()
    assert same(as_open_clip(official), dict(encoder.state_dict()))
    assert same(
        dict(load_encoder(found.config, tmp_path / f"official{suffix}").state_dict()), dict(encoder.state_dict())
    )
    assert "visual.blocks.2.attn.q_bias" in official and "visual.blocks.2.mlp.ffn_ln.weight" in official
    assert not any("trunk" in name or "fc1_g" in name for name in official)


def test_written_files_are_readable_by_others(tmp_path: Path) -> None:
    _, found = saved(tmp_path, "eva")
    (tmp_path / "any").touch()
    for name, layout in (("a.pt", "eva_clip"), ("b.safetensors", "backbone"), ("folder", "open_clip")):
        export(found, tmp_path / name, layout=layout)
    for name in ("a.pt", "b.safetensors", "folder/model.safetensors", "folder/open_clip_config.json"):
        assert (tmp_path / name).stat().st_mode == (tmp_path / "any").stat().st_mode, name


def test_pickle_equals_the_authors_files(tmp_path: Path) -> None:
    encoder, found = saved(tmp_path, "eva")
    for name in ("one.pt", "two.pt"):
        export(found, tmp_path / name, layout="eva_clip")
    content = torch.load(tmp_path / "one.pt", weights_only=True)
    assert list(content) == ["state_dict"]
    assert len(content["state_dict"]) == len(encoder.state_dict()) + 2 * (1 + 3)
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "two.pt").read_bytes()


def test_rotary_tables_equal_the_authors_formula(tmp_path: Path) -> None:
    """Positions spread over [0, 16), rows in the first half of the channels, columns in the second."""
    official = official_weights(tiny_encoder(tmp_path, "eva"))
    frequencies = 10000 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    turns = (torch.arange(4, dtype=torch.float64) / 4 * 16)[:, None] * frequencies
    pairs = turns.repeat_interleave(2, dim=1)
    angles = torch.cat([pairs.repeat_interleave(4, dim=0), pairs.repeat(4, 1)], dim=1)
    for place in ("visual.rope", *(f"visual.blocks.{index}.attn.rope" for index in range(3))):
        torch.testing.assert_close(official[f"{place}.freqs_cos"].double(), angles.cos(), atol=1e-6, rtol=0)
        torch.testing.assert_close(official[f"{place}.freqs_sin"].double(), angles.sin(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["openai", "mean"])
def test_other_towers_do_not_fit_the_authors_layout(tmp_path: Path, kind: str) -> None:
    _, found = saved(tmp_path, kind)
    with pytest.raises(CheckpointError, match="can be exported as open_clip or as backbone"):
        export(found, tmp_path / "official.pt", layout="eva_clip")
    assert not (tmp_path / "official.pt").exists()


def test_other_eva_trunks_do_not_fit_the_authors_layout(tmp_path: Path) -> None:
    weights = dict(tiny_encoder(tmp_path, "eva").state_dict()) | {"visual.trunk.blocks.0.gamma_1": torch.ones(64)}
    with pytest.raises(CheckpointError, match=r"no place for visual\.blocks\.0\.gamma_1"):
        as_eva_clip(weights, tables={})


def test_a_flat_text_tower_moves_under_its_name(tmp_path: Path) -> None:
    weights = dict(tiny_encoder(tmp_path, "eva").state_dict())
    flat = {name.removeprefix("text."): value for name, value in weights.items()}
    assert same(as_eva_clip(flat, tables={}), as_eva_clip(weights, tables={}))


@pytest.mark.parametrize(
    ("kind", "pooling"), [("openai", {"global_pool": "token"}), ("mean", {"global_pool": "avg", "fc_norm": False})]
)
def test_timm_loads_the_backbone_of_openais_tower(tmp_path: Path, kind: str, pooling: dict[str, object]) -> None:
    encoder, found = saved(tmp_path, kind)
    export(found, tmp_path / "backbone.pt", layout="backbone")
    weights = torch.load(tmp_path / "backbone.pt", weights_only=True)
    activation = timm.layers.QuickGELU if kind == "openai" else torch.nn.GELU
    tower = timm.models.VisionTransformer(**TIMM_VIT, **pooling, act_layer=activation).eval()
    tower.load_state_dict(weights, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(tower(images()), encoder.encode_image(images()), atol=2e-5, rtol=1e-5)


def test_timm_loads_the_backbone_of_eva(tmp_path: Path) -> None:
    encoder, found = saved(tmp_path, "eva")
    export(found, tmp_path / "backbone.safetensors", layout="backbone")
    tower = timm.create_model("tiny_eva02", num_classes=32, global_pool="token").eval()
    tower.load_state_dict(load_file(tmp_path / "backbone.safetensors"), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(tower(images()), encoder.encode_image(images()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["vit_base_patch16_clip_quickgelu_224", "vit_large_patch14_clip_quickgelu_336"])
def test_names_equal_timm(name: str) -> None:
    """Names and shapes of real sizes, without a weight in memory."""
    model = {"vit_base_patch16_clip_quickgelu_224": "ViT-B-16-quickgelu"}.get(name, "ViT-L-14-336-quickgelu")
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=open_clip.get_model_config(model)["embed_dim"]).state_dict()
        ours = as_backbone(open_clip.model._build_vision_tower(**_vision(model)).state_dict(prefix="visual."))
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


def _vision(model: str) -> dict[str, object]:
    config = open_clip.get_model_config(model)
    return {"embed_dim": config["embed_dim"], "vision_cfg": config["vision_cfg"], "quick_gelu": True}


@pytest.mark.parametrize("kind", ["openai", "mean", "eva"])
def test_open_clip_alone_loads_the_folder(tmp_path: Path, kind: str) -> None:
    encoder, found = saved(tmp_path, kind)
    export(found, tmp_path / "folder", layout="open_clip")
    model = open_clip.create_model(f"local-dir:{tmp_path / 'folder'}").eval()
    assert same(dict(model.state_dict()), dict(encoder.state_dict()))
    with torch.no_grad():
        torch.testing.assert_close(model.encode_image(images()), encoder.encode_image(images()), atol=2e-5, rtol=1e-5)
    again = find_encoder(tmp_path / "folder")
    assert (again.config.head, again.config.image_size) == (found.config.head, 32)
    assert same(dict(again.load().state_dict()), dict(encoder.state_dict()))


@pytest.mark.parametrize(
    ("layout", "name"), [("open_clip", "folder"), ("eva_clip", "a.pt"), ("backbone", "b.safetensors")]
)
def test_existing_output_is_kept(tmp_path: Path, layout: str, name: str) -> None:
    _, found = saved(tmp_path, "eva")
    export(found, tmp_path / name, layout=layout)
    with pytest.raises(CheckpointError, match=f"{name}: already exists"):
        export(found, tmp_path / name, layout=layout)
    export(found, tmp_path / name, layout=layout, replace=True)


@pytest.mark.parametrize(
    ("layout", "name"), [("open_clip", "folder"), ("backbone", "b.pt"), ("backbone", "b.safetensors")]
)
def test_an_export_on_a_full_disk_can_be_repeated(tmp_path: Path, layout: str, name: str) -> None:
    found, output = find_encoder("mini"), tmp_path / name
    with file_size_limit(16_384), pytest.raises(SystemRefusalError, match=f"{name}.*: cannot be written: .*EFBIG"):
        export(found, output, layout=layout)
    assert list(tmp_path.iterdir()) == []
    export(found, output, layout=layout)
    assert output.exists()


def test_mistakes_are_reported_before_writing(tmp_path: Path) -> None:
    _, found = saved(tmp_path, "eva")
    with pytest.raises(ConfigError, match="unknown name; choose from open_clip, eva_clip, backbone"):
        export(found, tmp_path / "x.pt", layout="evaclip")
    for layout in ("eva_clip", "backbone"):
        with pytest.raises(CheckpointError, match=r"end in \.safetensors, \.pt or \.pth"):
            export(found, tmp_path / "x.bin", layout=layout)
    with pytest.raises(CheckpointError, match="is a file; the layout open_clip is a folder"):
        export(found, tmp_path / "weights.pt", layout="open_clip", replace=True)
    assert not list(tmp_path.glob("x*"))


def test_openai_weights_need_quick_gelu(tmp_path: Path) -> None:
    encoder, found = saved(tmp_path, "mean")
    torch.save({**encoder.state_dict(), "input_resolution": torch.tensor(32)}, tmp_path / "ViT.pt")
    with pytest.raises(CheckpointError, match=r"input_resolution.*trained with QuickGELU"):
        load_encoder(found.config, tmp_path / "ViT.pt")

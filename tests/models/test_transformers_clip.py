"""transformers' CLIPModel gives the same features here as there; an incomplete one is named as such."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fineclip.errors import CheckpointError, ConfigError
from fineclip.models.architecture import architecture
from fineclip.models.checkpoints import find_encoder, load_encoder, save_encoder
from fineclip.models.checkpoints.transformers_clip import origins
from fineclip.models.encoder import RegionEncoder
from fineclip.models.transformers_config import TEXT as TEXT_DEFAULTS
from fineclip.models.transformers_config import VISION as VISION_DEFAULTS
from tests.helpers.encoders import encoder_config, tiny_encoder

transformers = pytest.importorskip("transformers")

VISION = {
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 77,
    "bos_token_id": 510,
    "eos_token_id": 511,
}


def saved_model(
    folder: Path, *, activation: str = "quick_gelu", text: dict[str, Any] | None = None, **options: Any
) -> Any:
    """A CLIPModel of the size of the tiny encoders, with every parameter away from its initial value."""
    config = transformers.CLIPConfig(
        vision_config={**VISION, "hidden_act": activation},
        text_config={**TEXT, "hidden_act": activation, **(text or {})},
        projection_dim=32,
    )
    torch.manual_seed(3)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * (0.2 if parameter.ndim < 2 else parameter.shape[-1] ** -0.5))
    model.save_pretrained(folder, **options)
    return model


def assert_same_features(encoder: RegionEncoder, model: Any) -> None:
    images, tokens = torch.randn(3, 3, 32, 32), torch.randint(1, 500, (4, 77))
    tokens[:, 9] = 511
    tokens[:, 10:] = 0
    with torch.no_grad():
        theirs = model(input_ids=tokens, pixel_values=images)
        ours_image, ours_text = encoder.eval().encode_image(images), encoder.encode_text(tokens)
    normalize = torch.nn.functional.normalize
    torch.testing.assert_close(normalize(ours_image, dim=-1), theirs.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(normalize(ours_text, dim=-1), theirs.text_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.logit_scale, model.logit_scale)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_a_folder_loads_with_equal_features(tmp_path: Path, activation: str) -> None:
    model = saved_model(tmp_path / "clip", activation=activation)
    found = find_encoder(tmp_path / "clip")
    assert (found.config.image_size, found.config.head) == (32, "cls")
    assert architecture(found.config.model)["quick_gelu"] == (activation == "quick_gelu")
    assert_same_features(found.load(), model)


def test_a_named_model_loads_with_equal_features(tmp_path: Path) -> None:
    model = saved_model(tmp_path / "clip")
    name = encoder_config(tmp_path, "openai").model
    assert_same_features(find_encoder(tmp_path / "clip", encoder=name).load(), model)
    assert_same_features(find_encoder(tmp_path / "clip/model.safetensors", encoder=name).load(), model)


def test_weights_in_several_files(tmp_path: Path) -> None:
    model = saved_model(tmp_path / "clip", max_shard_size="100KB")
    index = tmp_path / "clip/model.safetensors.index.json"
    found = find_encoder(tmp_path / "clip")
    assert found.weights == index and len(found.files()) > 3
    assert_same_features(found.load(), model)
    part = found.files()[2]
    part.rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=f"{part.name}: no such file"):
        found.load()


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", 7, "model.safetensors.index.json"]
)
def test_an_index_names_files_beside_it_only(tmp_path: Path, name: object) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"logit_scale": name}}))
    with pytest.raises(CheckpointError, match="expected names of files beside it"):
        load_encoder(encoder_config(tmp_path, "openai"), tmp_path)


def test_an_index_without_a_map_is_named(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="lacks weight_map"):
        load_encoder(encoder_config(tmp_path, "openai"), tmp_path)


def test_early_files_with_position_ids_and_a_wrapper(tmp_path: Path) -> None:
    model = saved_model(tmp_path / "clip")
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    for tower in ("vision_model", "text_model"):
        weights[f"{tower}.embeddings.position_ids"] = torch.arange(77)[None]
    weights["logit_scale"] = weights["logit_scale"].reshape(1)
    torch.save(
        {"epoch": 1, "state_dict": {f"module.clip.{name}": value for name, value in weights.items()}}, tmp_path / "x.pt"
    )
    assert_same_features(
        find_encoder(tmp_path / "x.pt", encoder=encoder_config(tmp_path, "openai").model).load(), model
    )


def test_the_activation_must_be_that_of_the_model(tmp_path: Path) -> None:
    saved_model(tmp_path / "clip")
    with pytest.raises(CheckpointError, match=r"config\.json says .* QuickGELU, but the model has GELU"):
        load_encoder(encoder_config(tmp_path, "mean"), tmp_path / "clip")
    saved_model(tmp_path / "gelu", activation="gelu")
    with pytest.raises(CheckpointError, match=r"config\.json says .* GELU, but the model has QuickGELU"):
        load_encoder(encoder_config(tmp_path, "openai"), tmp_path / "gelu")


def test_the_number_of_heads_must_be_that_of_the_model(tmp_path: Path) -> None:
    saved_model(tmp_path / "clip", text={"num_attention_heads": 4})
    with pytest.raises(CheckpointError, match="says 4 attention heads, but text_cfg of the model has 2"):
        load_encoder(encoder_config(tmp_path, "openai"), tmp_path / "clip")


def test_a_file_without_its_configuration_is_read_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = saved_model(tmp_path / "clip")
    (tmp_path / "clip/config.json").unlink()
    assert_same_features(load_encoder(encoder_config(tmp_path, "openai"), tmp_path / "clip"), model)
    assert "has no config.json beside it" in caplog.text


@pytest.mark.parametrize(
    "absent",
    [
        "text_projection.weight",
        "vision_model.encoder.layers.1.self_attn.k_proj.weight",
        "text_model.final_layer_norm.bias",
    ],
)
def test_an_incomplete_model_is_named(tmp_path: Path, absent: str) -> None:
    saved_model(tmp_path / "clip")
    path = tmp_path / "clip/model.safetensors"
    weights = load_file(path)
    del weights[absent]
    save_file(weights, path, metadata={"format": "pt"})
    for encoder in (None, encoder_config(tmp_path, "openai").model):
        with pytest.raises(CheckpointError, match=f"transformers' CLIPModel.*1 keys are missing: {absent}"):
            find_encoder(tmp_path / "clip", encoder=encoder).load()


def test_a_part_of_another_size_is_named(tmp_path: Path) -> None:
    saved_model(tmp_path / "clip")
    path = tmp_path / "clip/model.safetensors"
    name = "vision_model.encoder.layers.1.self_attn.k_proj.weight"
    save_file(load_file(path) | {name: torch.zeros(60, 64)}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="transformers' CLIPModel.*1 have another shape"):
        find_encoder(tmp_path / "clip").load()


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_one_tower_alone_is_named(tmp_path: Path, tower: str) -> None:
    model = saved_model(tmp_path / "clip")
    part = {name: value.clone() for name, value in model.state_dict().items() if name.startswith(f"{tower}_model")}
    save_file(part, tmp_path / "part.safetensors")
    with pytest.raises(CheckpointError, match=f"transformers' CLIPModel, with its {tower} tower alone"):
        load_encoder(encoder_config(tmp_path, "openai"), tmp_path / "part.safetensors")


def changed_config(folder: Path, change: Any) -> None:
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.pop("vision_config"), "transformers' CLIPModel: it lacks vision_config"),
        (lambda c: c.pop("text_config"), "transformers' CLIPModel: it lacks text_config"),
        (lambda c: c["text_config"].pop("num_attention_heads"), r"it lacks text_config\.num_attention_heads"),
        (lambda c: c.update(vision_config="x"), "vision_config is a str"),
        (lambda c: c["vision_config"].update(patch_size="8"), r"vision_config\.patch_size is '8'"),
        (lambda c: c["vision_config"].update(num_attention_heads=5), "is not a multiple of num_attention_heads 5"),
        (lambda c: c["vision_config"].update(hidden_act="silu"), "has hidden_act 'silu'"),
        (lambda c: c["vision_config"].update(hidden_act="gelu"), "different activations, gelu and quick_gelu"),
        (lambda c: c["text_config"].update(layer_norm_eps=1e-6), "layer_norm_eps 1e-06"),
        (lambda c: c["text_config"].update(eos_token_id=7), r"eos_token_id is 7; supported is the largest token, 511"),
        (lambda c: c.update(model_type="siglip"), "'siglip' model of transformers"),
        (lambda c: c.update(model_type="clip_vision_model"), "'clip_vision_model' model of transformers"),
    ],
)
def test_a_configuration_that_is_not_supported_is_named(tmp_path: Path, change: Any, says: str) -> None:
    saved_model(tmp_path / "clip")
    changed_config(tmp_path / "clip", change)
    with pytest.raises(ConfigError, match=says):
        find_encoder(tmp_path / "clip").load()


def test_the_early_end_token_means_the_largest(tmp_path: Path) -> None:
    saved_model(tmp_path / "clip")
    usual = find_encoder(tmp_path / "clip").load().eval()
    changed_config(tmp_path / "clip", lambda c: c["text_config"].update(eos_token_id=2))
    tokens = torch.randint(1, 500, (4, 77))
    tokens[:, 9] = 511
    with torch.no_grad():
        assert torch.equal(find_encoder(tmp_path / "clip").load().eval().encode_text(tokens), usual.encode_text(tokens))


def test_other_pixels_are_refused(tmp_path: Path) -> None:
    saved_model(tmp_path / "clip")
    (tmp_path / "clip/preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    )
    with pytest.raises(ConfigError, match=r"mean \[0\.5, 0\.5, 0\.5\]; only CLIP's"):
        find_encoder(tmp_path / "clip")


def test_defaults_equal_those_of_transformers() -> None:
    for defaults, config in (
        (VISION_DEFAULTS, transformers.CLIPVisionConfig()),
        (TEXT_DEFAULTS, transformers.CLIPTextConfig()),
    ):
        assert {name: getattr(config, name) for name in defaults} == dict(defaults)
    assert transformers.CLIPConfig().projection_dim == 512


def test_a_loaded_model_is_saved_as_open_clip(tmp_path: Path) -> None:
    model = saved_model(tmp_path / "clip")
    found = find_encoder(tmp_path / "clip")
    save_encoder(found.load(), tmp_path / "saved", config=found.config)
    assert_same_features(find_encoder(tmp_path / "saved").load(), model)


def test_no_place_for_other_towers(tmp_path: Path) -> None:
    names: dict[str, Tensor] = dict(tiny_encoder(tmp_path, "eva").state_dict())
    assert origins(names) is None
    assert origins(["visual.transformer.resblocks.0.ls_1.gamma"]) is None

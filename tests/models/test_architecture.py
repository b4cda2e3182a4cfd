"""Unsupported models are refused by name, and nothing is downloaded."""

import json
import math
import socket
from pathlib import Path
from typing import Any

import pytest

from fineclip.config import EncoderConfig, WeightsConfig
from fineclip.errors import ConfigError
from fineclip.models.encoder import build_encoder
from tests.helpers.encoders import EVA, OPENAI, encoder_config


def changed(folder: Path, base: dict[str, Any], *, text: dict[str, Any] | None = None, **vision: Any) -> EncoderConfig:
    path = folder / "changed.json"
    changes = {"vision_cfg": {**base["vision_cfg"], **vision}, "text_cfg": {**base["text_cfg"], **(text or {})}}
    path.write_text(json.dumps(base | changes), encoding="utf-8")
    return EncoderConfig(model=str(path), weights=WeightsConfig(path="nowhere"), image_size=32, crop_size=32)


@pytest.mark.parametrize(
    ("base", "vision", "says"),
    [
        (OPENAI, {"attentional_pool": True, "attn_pooler_heads": 2}, "attentional pooling"),
        (OPENAI, {"pool_type": "none"}, "pool_type 'none'"),
        (OPENAI, {"pool_type": "avg", "final_ln_after_pool": True}, "pool_type 'avg' before its norm"),
        (OPENAI, {"patch_dropout": 0.5}, "patch_dropout"),
        (OPENAI, {"scale_fc": True}, "another block_type"),
        (OPENAI, {"layers": [1, 1, 1, 1]}, "ModifiedResNet"),
        (OPENAI, {"unheard_of": 1}, "unheard_of"),
        (EVA, {"timm_pool": "avg"}, "the pooling 'avg' of an EVA trunk"),
        (EVA, {"timm_pool": "map"}, "the pooling 'map' of an EVA trunk"),
        (EVA, {"timm_pool": "avgmax"}, "the pooling 'avgmax' of an EVA trunk"),
        (EVA, {"timm_proj": "linear"}, "a projection outside the trunk"),
        (EVA, {"timm_model_name": "vit_tiny_patch16_224"}, "the trunk VisionTransformer"),
        (EVA, {"timm_model_name": "no_such_model"}, "no_such_model"),
        (EVA, {"timm_model_name": "hf-hub:someone/something"}, "is a URL"),
    ],
)
def test_unsupported_vision_towers_are_named(
    tmp_path: Path, base: dict[str, Any], vision: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        build_encoder(changed(tmp_path, base, **vision))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ({"pool_type": "last"}, "read at 'last', not at the end token"),
        ({"no_causal_mask": True}, "not causal"),
        ({"embed_cls": True}, "has a class token"),
        ({"proj_bias": True}, "its projection is not one matrix"),
        ({"block_type": "custom"}, "another block_type"),
    ],
)
def test_unsupported_text_towers_are_named(tmp_path: Path, text: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_encoder(changed(tmp_path, EVA, text=text))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ViT-B-61", "did you mean ViT-B-16"),
        ("hf-hub:timm/eva02_base", "not among the"),
        ("coca_ViT-B-32", "CoCa"),
        ("xlm-roberta-base-ViT-B-32", "Hugging Face's"),
        ("absent.json", "cannot be read"),
        ("shipped:encoder/../../../config/data.py", "is outside"),
        ("shipped:no-such.json", "no such shipped model"),
    ],
)
def test_unknown_models_are_named(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_encoder(EncoderConfig(model=name, weights=WeightsConfig(path="nowhere")))


def test_head_and_sizes_must_match_the_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="head is 'mean', but the model's is 'cls'"):
        build_encoder(encoder_config(tmp_path, "openai", head="mean"))
    with pytest.raises(ConfigError, match="crop_size 50 px is not a multiple of the encoder's patch of 8 x 8 px"):
        build_encoder(encoder_config(tmp_path, "openai", crop_size=50))


def test_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the model config asks for timm's pretrained weights."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    encoder = build_encoder(changed(tmp_path, EVA, timm_model_pretrained=True))
    assert math.isfinite(float(encoder.logit_scale.detach()))

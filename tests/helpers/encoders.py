"""Tiny encoders of every kind that is read, each as a model config in open_clip's JSON format."""

import json
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from timm.models import register_model
from timm.models.eva import Eva
from torch import Tensor

from fineclip.config import EncoderConfig, WeightsConfig
from fineclip.models.encoder import RegionEncoder, build_encoder

TEXT = {"context_length": 77, "vocab_size": 512, "width": 32, "heads": 2, "layers": 2}
OPENAI: dict[str, Any] = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": 32,
        "layers": 3,
        "width": 64,
        "head_width": 16,
        "patch_size": 8,
        "mlp_ratio": 4.0,
    },
    "text_cfg": TEXT,
}
MEAN: dict[str, Any] = {
    **OPENAI,
    "quick_gelu": False,
    "vision_cfg": {**OPENAI["vision_cfg"], "pool_type": "avg", "final_ln_after_pool": False},
}
EVA: dict[str, Any] = {
    "embed_dim": 32,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "timm_model_name": "tiny_eva02", "timm_pool": "token", "timm_proj": None},
    "text_cfg": TEXT,
}
OFFICIAL = (  # open_clip's name, the authors'
    ("visual.trunk.", "visual."),
    (".q_proj.bias", ".q_bias"),
    (".v_proj.bias", ".v_bias"),
    (".attn.norm.", ".attn.inner_attn_ln."),
    (".fc1_g.", ".w1."),
    (".fc1_x.", ".w2."),
    (".fc2.", ".w3."),
    (".mlp.norm.", ".mlp.ffn_ln."),
)
KINDS = {"openai": OPENAI, "mean": MEAN, "eva": EVA}


@register_model
def tiny_eva02(pretrained: bool = False, **options: Any) -> Eva:
    """EVA-02 as EVA02-CLIP-B-16 is built, of the size of the golden vectors."""
    assert not pretrained
    trunk = Eva(
        img_size=options.get("img_size", 32),
        patch_size=8,
        embed_dim=64,
        depth=3,
        num_heads=4,
        qkv_fused=False,
        mlp_ratio=2.6667,
        swiglu_mlp=True,
        scale_mlp=True,
        scale_attn_inner=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(16, 16),
        num_classes=options.get("num_classes", 1000),
        global_pool=options.get("global_pool", "token"),
    )
    trunk.default_cfg = {}
    return trunk


def encoder_config(folder: Path, kind: str, **changes: Any) -> EncoderConfig:
    """The section of a tiny encoder; its model config is written into `folder`."""
    path = folder / f"{kind}.json"
    path.write_text(json.dumps(KINDS[kind]), encoding="utf-8")
    values: dict[str, Any] = {
        "model": str(path),
        "weights": WeightsConfig(path="nowhere.safetensors"),
        "head": "mean" if kind == "mean" else "cls",
        "image_size": 32,
        "crop_size": 32,
    }
    return EncoderConfig(**(values | changes))


def tiny_encoder(folder: Path, kind: str, *, seed: int = 0) -> RegionEncoder:
    """With every parameter away from its initial value, so that no norm or bias is without effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = build_encoder(encoder_config(folder, kind))
    with torch.no_grad():
        for parameter in encoder.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * (0.2 if parameter.ndim < 2 else parameter.shape[-1] ** -0.5))
    return encoder.eval()


def as_official(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The authors' layout, rotary tables and all."""
    renamed = {reduce(lambda name, pair: name.replace(*pair), OFFICIAL, name): value for name, value in weights.items()}
    tables = {
        f"visual.{place}rope.freqs_{what}": torch.zeros(16, 16)
        for place in ("", "blocks.0.attn.")
        for what in ("cos", "sin")
    }
    return renamed | tables

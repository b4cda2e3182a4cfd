"""Optional parts of a tower: each is computed as upstream does, in the global and the dense path, or the tower is refused.

The dense reference is upstream's own forward pass with the attention of the last block replaced by the value projection.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers import RotaryEmbeddingCat
from timm.models import register_model
from timm.models.eva import Eva
from torch import Tensor, nn

from fineclip.errors import ConfigError
from fineclip.models.architecture import build_model
from fineclip.models.encoder import RegionEncoder
from tests.helpers.encoders import EVA, KINDS, MEAN, OPENAI, encoder_config, tiny_encoder

close = {"atol": 1e-5, "rtol": 1e-5}
EVA_OPTIONS: dict[str, Any] = {}  # of the trunk that is built next


@register_model
def tiny_eva02_option(pretrained: bool = False, **options: Any) -> Eva:
    built = {
        "img_size": options.get("img_size", 32),
        "patch_size": 8,
        "embed_dim": 64,
        "depth": 2,
        "num_heads": 4,
        "qkv_fused": False,
        "swiglu_mlp": True,
        "scale_mlp": True,
        "scale_attn_inner": True,
        "use_rot_pos_emb": True,
        "ref_feat_shape": (16, 16),
        "num_classes": options.get("num_classes", 32),
        "global_pool": "token",
    }
    trunk = Eva(**(built | EVA_OPTIONS))
    trunk.default_cfg = {}
    return trunk


def use(monkeypatch: pytest.MonkeyPatch, kind: str, options: dict[str, Any]) -> None:
    """Make `option` the kind of tiny encoder that has these options; a rate of dropout and `text` are open_clip's."""
    base = {"openai": OPENAI, "mean": MEAN, "eva": EVA}[kind]
    text = {**base["text_cfg"], **options.get("text", {})}
    vision = {name: value for name, value in options.items() if name != "text"}
    if kind == "eva":
        for name, value in vision.items():
            monkeypatch.setitem(EVA_OPTIONS, name, value)
        vision = {"timm_model_name": "tiny_eva02_option"}
    changed = {**base, "vision_cfg": {**base["vision_cfg"], **vision}, "text_cfg": text}
    monkeypatch.setitem(KINDS, "option", changed)


def encoder_and_upstream(folder: Path, kind: str) -> tuple[RegionEncoder, nn.Module]:
    """The encoder, and upstream's model with the same weights."""
    with pytest.MonkeyPatch.context() as patch:
        if kind == "mean":
            patch.setitem(KINDS, "mean", KINDS["option"])
        name = "mean" if kind == "mean" else "option"
        encoder = tiny_encoder(folder, name)
        upstream = build_model(encoder_config(folder, name)).eval()
    upstream.load_state_dict(encoder.state_dict(), strict=True)
    return encoder, upstream


class ValueOnly(nn.Module):
    """timm's EVA attention without attention."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, tokens: Tensor, **_: Any) -> Tensor:
        return self.attention.proj(self.attention.norm(self.attention.v_proj(tokens)))


def upstream_dense(upstream: nn.Module, images: Tensor) -> Tensor:
    """(B, P, D) unit vectors: upstream's forward pass, with the value projection in place of the last attention."""
    visual = upstream.visual
    if hasattr(visual, "trunk"):
        visual.trunk.blocks[-1].attn = ValueOnly(visual.trunk.blocks[-1].attn)
        tokens = visual.trunk.head(visual.trunk.forward_features(images)[:, 1:])
    else:
        last = visual.transformer.resblocks[-1]
        weight, bias = last.attn.in_proj_weight.chunk(3)[2], last.attn.in_proj_bias.chunk(3)[2]
        last.attention = lambda q_x, **_: last.attn.out_proj(F.linear(q_x, weight, bias))
        tokens = visual.ln_post(visual.transformer(visual._embeds(images)))[:, 1:] @ visual.proj
    return F.normalize(tokens, dim=-1)


OPTIONS: list[tuple[str, dict[str, Any], tuple[int, int]]] = [
    ("openai", {"ls_init_value": 0.3}, (32, 32)),
    ("openai", {"no_ln_pre": True}, (32, 32)),
    ("openai", {"pos_embed_type": "sin_cos_2d"}, (32, 32)),
    ("openai", {"norm_kwargs": {"eps": 0.1}}, (32, 32)),
    ("openai", {"head_width": 32, "mlp_ratio": 2.0}, (32, 32)),
    ("openai", {"image_size": [16, 48]}, (16, 48)),
    ("openai", {"image_size": [32, 64], "patch_size": [8, 16]}, (32, 64)),
    ("mean", {"ls_init_value": 0.3}, (32, 32)),
    ("mean", {"no_ln_pre": True, "norm_kwargs": {"eps": 0.1}}, (32, 32)),
    ("eva", {"init_values": 0.3}, (32, 32)),
    ("eva", {"init_values": 0.3, "attn_only_layer_scale": True}, (32, 32)),
    ("eva", {"qk_norm": True}, (32, 32)),
    ("eva", {"use_pre_transformer_norm": True}, (32, 32)),
    ("eva", {"use_post_transformer_norm": False}, (32, 32)),
    ("eva", {"use_rot_pos_emb": False}, (32, 32)),
    ("eva", {"ref_feat_shape": None}, (32, 32)),
    ("eva", {"ref_feat_shape": (8, 24)}, (32, 32)),
    ("eva", {"rope_temperature": 20.0}, (32, 32)),
    ("eva", {"rope_grid_offset": 0.5}, (32, 32)),
    ("eva", {"rope_grid_indexing": "xy"}, (32, 32)),
    ("eva", {"scale_attn_inner": False}, (32, 32)),
    ("eva", {"scale_mlp": False}, (32, 32)),
    ("eva", {"swiglu_mlp": False}, (32, 32)),
    ("eva", {"qkv_bias": False, "num_heads": 8}, (32, 32)),
    ("eva", {"img_size": (16, 48)}, (16, 48)),
    ("eva", {"img_size": (32, 64), "patch_size": (8, 16)}, (32, 64)),
]


@pytest.mark.parametrize(("kind", "options", "size"), OPTIONS, ids=str)
def test_optional_parts_are_computed_as_upstream_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, options: dict[str, Any], size: tuple[int, int]
) -> None:
    use(monkeypatch, kind, options)
    encoder, upstream = encoder_and_upstream(tmp_path, kind)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    height, width = size[0] // encoder.patch[0], size[1] // encoder.patch[1]
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode_image(images), upstream.encode_image(images), **close)
        dense = encoder.encode_dense(images)
        assert dense.shape == (2, 32, height, width)
        torch.testing.assert_close(dense.flatten(2).transpose(1, 2), upstream_dense(upstream, images), **close)


@pytest.mark.parametrize("kind", ["openai", "eva"])
@pytest.mark.parametrize("text", [{"ls_init_value": 0.3}, {"norm_kwargs": {"eps": 0.1}}, {"heads": 4, "width": 64}])
def test_optional_parts_of_the_text_tower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, text: dict[str, Any]
) -> None:
    use(monkeypatch, kind, {"text": text})
    encoder, upstream = encoder_and_upstream(tmp_path, kind)
    tokens = torch.randint(1, 511, (3, 77), generator=torch.Generator().manual_seed(0))
    tokens[:, 20:] = 0
    tokens[torch.arange(3), torch.tensor([4, 19, 11])] = 511
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode_text(tokens), upstream.encode_text(tokens), **close)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"qkv_fused": True}, "packed query, key and value"),
        ({"attn_type": "rope"}, "EvaBlock"),
        ({"use_post_norm": True}, "EvaBlockPostNorm"),
        ({"num_reg_tokens": 2}, "register tokens"),
        ({"no_embed_class": True}, "register tokens"),
        ({"class_token": False, "global_pool": "avg"}, "the pooling 'avg'"),
        ({"use_abs_pos_emb": False}, "no learned positions"),
        ({"patch_drop_rate": 0.5}, "patch_dropout"),
        ({"drop_path_rate": 0.1}, "stochastic depth"),
        ({"rope_type": "dinov3"}, "rotary positions other than 'cat'"),
        ({"use_fc_norm": True}, "a norm after its pooling"),
        ({"num_classes": 0}, "a projection outside the trunk"),
    ],
    ids=str,
)
def test_eva_trunks_with_other_parts_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], says: str
) -> None:
    use(monkeypatch, "eva", options)
    with pytest.raises(ConfigError, match=says):
        tiny_encoder(tmp_path, "option")


def test_a_gated_attention_and_turned_halves_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "eva", {"rope_rotate_half": True})
    assert isinstance(tiny_eva02_option().rope, RotaryEmbeddingCat)
    with pytest.raises(ConfigError, match="rotary positions of distant channels"):
        tiny_encoder(tmp_path, "option")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_half_precision_on_the_cpu_is_close_to_float32(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    """Images, dense maps and texts; 64 patches, so that a scale by the number of tokens is no scale by the width of a head."""
    encoder = tiny_encoder(tmp_path, kind)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(1, 511, (3, 60), generator=torch.Generator().manual_seed(0))
    tokens[:, -1] = 511
    encode = (
        lambda: encoder.encode_image(images),
        lambda: encoder.encode_dense(images).flatten(2).transpose(1, 2),
        lambda: encoder.encode_text(tokens),
    )
    with torch.no_grad():
        exact = [run() for run in encode]
        with torch.autocast("cpu", dtype=dtype):
            rounded = [run() for run in encode]
    for found, expected in zip(rounded, exact, strict=True):
        assert found.dtype == torch.float32
        assert float((found - expected).norm() / expected.norm()) < (0.04 if dtype == torch.bfloat16 else 0.005)

"""The encoder is upstream's where upstream has an answer, and the recipe where it has none."""

import copy
import json
import math
import socket
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fineclip.config import EncoderConfig, WeightsConfig
from fineclip.errors import ConfigError
from fineclip.models.architecture import build_model
from fineclip.models.attention import attend
from fineclip.models.encoder import RegionEncoder, build_encoder, pool_regions
from fineclip.models.trunks import positions_for
from tests.helpers.encoders import EVA, KINDS, OPENAI, encoder_config, tiny_encoder

close = {"atol": 1e-5, "rtol": 1e-5}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some_boxes() -> tuple[Tensor, Tensor]:
    boxes = torch.tensor([[0, 0, 1, 1], [0.1, 0.2, 0.15, 0.22], [0.5, 0, 1, 0.4], [0.3, 0.3, 0.9, 0.8]])
    return boxes, torch.tensor([0, 0, 2, 2])


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def test_the_native_size_is_upstream(kind: str, tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path, kind)
    upstream = build_model(encoder_config(tmp_path, kind)).eval()
    upstream.load_state_dict(encoder.state_dict(), strict=True)  # the keys are upstream's own
    images, tokens = random(3, 3, 32, 32), torch.randint(0, 512, (4, 77))
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode_image(images), upstream.encode_image(images), **close)
        torch.testing.assert_close(encoder.encode_text(tokens), upstream.encode_text(tokens), **close)


def test_dense_openai_recipe(tmp_path: Path) -> None:
    """Value and output projection of the last block in place of its attention, everything else as it is."""
    encoder = tiny_encoder(tmp_path, "openai")
    visual, seen = encoder.visual, {}
    last = visual.transformer.resblocks[-1]
    last.register_forward_pre_hook(lambda _, given: seen.update(tokens=given[0]))
    images = random(2, 3, 32, 32)
    with torch.no_grad():
        visual(images)
        x = seen["tokens"]
        value = last.ln_1(x) @ last.attn.in_proj_weight[128:].T + last.attn.in_proj_bias[128:]
        x = x + value @ last.attn.out_proj.weight.T + last.attn.out_proj.bias
        x = x + last.mlp(last.ln_2(x))
        tokens = F.normalize(visual.ln_post(x[:, 1:]) @ visual.proj, dim=-1)
        torch.testing.assert_close(encoder.encode_dense(images), tokens.transpose(1, 2).reshape(2, 32, 4, 4), **close)


def test_dense_eva_recipe(tmp_path: Path) -> None:
    """As above, with the LayerNorm inside the attention kept."""
    encoder = tiny_encoder(tmp_path, "eva")
    trunk, seen = encoder.visual.trunk, {}
    last = trunk.blocks[-1]
    last.register_forward_pre_hook(lambda _, given: seen.update(tokens=given[0]))
    images = random(2, 3, 32, 32)
    with torch.no_grad():
        trunk(images)
        x = seen["tokens"]
        x = x + last.attn.proj(last.attn.norm(last.attn.v_proj(last.norm1(x))))
        x = x + last.mlp(last.norm2(x))
        tokens = F.normalize(trunk.head(trunk.norm(x[:, 1:])), dim=-1)
        torch.testing.assert_close(encoder.encode_dense(images), tokens.transpose(1, 2).reshape(2, 32, 4, 4), **close)


def test_dense_tokens_are_unit_vectors_on_any_grid(kind: str, tmp_path: Path) -> None:
    dense = tiny_encoder(tmp_path, kind).encode_dense(random(2, 3, 24, 56))
    assert dense.shape == (2, 32, 3, 7)
    torch.testing.assert_close(dense.norm(dim=1), torch.ones(2, 3, 7))


def test_rotary_positions_spread_over_the_reference_grid(tmp_path: Path) -> None:
    """Row r of h lies at 16 r / h, column c of w at 16 c / w, on rectangles too."""
    encoder = tiny_encoder(tmp_path, "eva")
    table = encoder.trunk._rope((2, 8), torch.device("cpu"))  # perfect square of 16 tokens, but no square grid
    frequency = 10000 ** (-torch.arange(4) / 4)
    sines = table[:, :16].reshape(2, 8, 16)
    for row, column in ((0, 0), (1, 5), (1, 7)):
        down, across = 16 * row / 2 * frequency, 16 * column / 8 * frequency
        expected = torch.cat([down, across]).repeat_interleave(2).sin()
        torch.testing.assert_close(sines[row, column], expected, **close)


def test_positions_keep_the_class_row_and_do_not_smooth(tmp_path: Path) -> None:
    learned = random(17, 8)
    smaller = positions_for(learned, native=(4, 4), grid=(2, 6))
    assert smaller.shape == (13, 8)
    assert torch.equal(smaller[0], learned[0])
    grid = F.interpolate(learned[1:].T.reshape(1, 8, 4, 4), (2, 6), mode="bicubic", align_corners=False)
    torch.testing.assert_close(smaller[1:], grid[0].reshape(8, 12).T)
    assert positions_for(learned, native=(4, 4), grid=(4, 4)) is learned


def test_a_wide_image_is_its_transpose_turned(tmp_path: Path) -> None:
    """Height and width are not taken for one another: with symmetric weights, transposing in transposes out."""
    encoder = tiny_encoder(tmp_path, "openai")
    visual = encoder.visual
    with torch.no_grad():
        visual.conv1.weight.copy_(visual.conv1.weight + visual.conv1.weight.transpose(2, 3))
        grid = visual.positional_embedding[1:].reshape(4, 4, -1)
        visual.positional_embedding[1:] = (grid + grid.transpose(0, 1)).reshape(16, -1)
        images = random(1, 3, 24, 48)
        torch.testing.assert_close(
            encoder.encode_dense(images).transpose(2, 3), encoder.encode_dense(images.transpose(2, 3)), **close
        )


def test_one_pass_equals_two(kind: str, tmp_path: Path) -> None:
    encoder, images, (boxes, owners) = tiny_encoder(tmp_path, kind), random(3, 3, 40, 24), some_boxes()
    image, region = encoder.encode_image_and_regions(images, boxes, owners)
    assert torch.equal(image, encoder.encode_image(images))
    assert torch.equal(region, encoder.encode_regions(images, boxes, owners))
    assert region.shape == (4, 32)


def test_the_mean_head_is_the_mean_of_projected_patches(tmp_path: Path) -> None:
    encoder, images = tiny_encoder(tmp_path, "mean"), random(2, 3, 32, 32)
    with torch.no_grad():
        tokens = encoder.trunk.last(encoder.trunk.before_last(images))[:, 1:]
        per_patch = encoder.trunk.project(encoder.trunk.norm(tokens))
        torch.testing.assert_close(encoder.encode_image(images), per_patch.mean(dim=1), **close)


def test_regions_of_a_known_map() -> None:
    """A box over whole cells is their mean; half a pixel is not lost (aligned)."""
    dense = torch.arange(16.0).reshape(1, 1, 4, 4)
    boxes = torch.tensor([[0, 0, 1, 1], [0.5, 0.25, 0.75, 0.5], [0.25, 0, 0.75, 0.5]])
    region = pool_regions(dense, boxes, torch.zeros(3, dtype=torch.long))
    assert region.flatten().tolist() == pytest.approx([7.5, 6.0, 3.5])


def test_regions_of_a_wide_map() -> None:
    """x counts across, y down, each in its own number of cells; each box is of its own image."""
    dense = torch.stack([torch.arange(8.0).reshape(1, 2, 4), torch.full((1, 2, 4), 9.0)])
    boxes = torch.tensor([[0.5, 0, 0.75, 0.5], [0.75, 0.5, 1, 1], [0, 0, 0.5, 1]])
    region = pool_regions(dense, boxes, torch.tensor([0, 0, 1]))
    assert region.flatten().tolist() == pytest.approx([2, 7, 9])


def test_regions_stay_float32_under_autocast(tmp_path: Path) -> None:
    encoder, images, (boxes, owners) = tiny_encoder(tmp_path, "mean"), random(3, 3, 32, 32), some_boxes()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        image, region = encoder.encode_image_and_regions(images, boxes, owners)
        dense = encoder.encode_dense(images)
        pooled = pool_regions(dense, boxes, owners)
    assert {image.dtype, region.dtype, dense.dtype} == {torch.float32}
    assert torch.equal(pooled, pool_regions(dense, boxes, owners))
    with torch.no_grad():
        exact = encoder.encode_regions(images, boxes, owners)
    assert F.cosine_similarity(region, exact).min() > 0.99


def used(encoder: RegionEncoder) -> set[str]:
    return {name for name, parameter in encoder.named_parameters() if parameter.grad is not None}


def test_nothing_in_nothing_out_but_connected(kind: str, tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path, kind)
    no_images, no_boxes, no_owners = torch.zeros(0, 3, 32, 32), torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    paths = {
        "image": (lambda images, *_: encoder.encode_image(images), 0),
        "text": (lambda *_: encoder.encode_text(torch.zeros(0, 77, dtype=torch.long)), 0),
        "regions": (encoder.encode_regions, 0),
        "regions of images": (lambda *_: encoder.encode_regions(random(2, 3, 32, 32), no_boxes, no_owners), 0),
    }
    boxes, owners = some_boxes()
    full = {
        "image": lambda: encoder.encode_image(random(3, 3, 32, 32)),
        "text": lambda: encoder.encode_text(torch.randint(1, 512, (2, 77))),
        "regions": lambda: encoder.encode_regions(random(3, 3, 32, 32), boxes, owners),
    }
    full["regions of images"] = full["regions"]
    for name, (path, rows) in paths.items():
        encoder.zero_grad(set_to_none=True)
        empty = path(no_images, no_boxes, no_owners)
        assert empty.shape == (rows, 32), name
        empty.sum().backward()
        connected = used(encoder)
        assert all(not parameter.grad.any() for parameter in encoder.parameters() if parameter.grad is not None)
        encoder.zero_grad(set_to_none=True)
        full[name]().sum().backward()
        assert connected == used(encoder), name


def test_parameters_by_tower(kind: str, tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path, kind)
    vision, text = (dict(named) for named in (encoder.vision_parameters(), encoder.text_parameters()))
    assert not vision.keys() & text.keys()
    assert vision.keys() | text.keys() | {"logit_scale"} == dict(encoder.named_parameters()).keys()
    assert all("visual" not in name for name in text)
    prefix = "text." if kind == "eva" else ""
    assert {
        f"{prefix}{name}" for name in ("token_embedding.weight", "positional_embedding", "text_projection")
    } < text.keys()


def test_a_copy_is_independent(kind: str, tmp_path: Path) -> None:
    encoder, images = tiny_encoder(tmp_path, kind), random(1, 3, 32, 32)
    twin, before = copy.deepcopy(encoder), encoder.encode_dense(images)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
    assert torch.equal(twin.encode_dense(images), before)


def test_short_texts_are_long_texts_with_padding(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path, "openai")
    tokens = torch.zeros(2, 77, dtype=torch.long)
    tokens[:, :5] = torch.tensor([[510, 3, 4, 511, 0], [510, 9, 8, 7, 511]])
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode_text(tokens[:, :5]), encoder.encode_text(tokens), **close)
    with pytest.raises(ConfigError, match="78 tokens"):
        encoder.encode_text(torch.zeros(1, 78, dtype=torch.long))


@pytest.mark.parametrize("causal", [False, True])
def test_both_ways_to_attend_are_one(causal: bool) -> None:
    query, key, value = (random(2, 3, 9, 8, seed=seed).bfloat16() for seed in range(3))
    exact = F.scaled_dot_product_attention(query.double(), key.double(), value.double(), is_causal=causal)
    torch.testing.assert_close(attend(query, key, value, causal=causal).double(), exact, atol=0.03, rtol=0.03)


def changed(tmp_path: Path, base: dict, **vision) -> EncoderConfig:
    path = tmp_path / "changed.json"
    path.write_text(json.dumps({**base, "vision_cfg": {**base["vision_cfg"], **vision}}))
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
        (EVA, {"timm_proj": "linear"}, "a projection outside the trunk"),
        (EVA, {"timm_model_name": "vit_tiny_patch16_224"}, "the trunk VisionTransformer"),
        (EVA, {"timm_model_name": "no_such_model"}, "no_such_model"),
        (EVA, {"timm_model_name": "hf-hub:someone/something"}, "is an address"),
    ],
)
def test_other_towers_are_refused_by_name(tmp_path: Path, base: dict, vision: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_encoder(changed(tmp_path, base, **vision))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ViT-B-61", "did you mean ViT-B-16"),
        ("hf-hub:timm/eva02_base", "not among the"),
        ("coca_ViT-B-32", "CoCa"),
        ("xlm-roberta-base-ViT-B-32", "Hugging Face's"),
        ("absent.json", "cannot be read"),
        ("shipped:encoder/../../../config/data.py", "leads out"),
        ("shipped:no-such.json", "ships no such model"),
    ],
)
def test_models_that_cannot_be_had_are_refused_by_name(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_encoder(EncoderConfig(model=name, weights=WeightsConfig(path="nowhere")))


def test_the_head_and_the_sizes_must_fit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="head is 'mean', but the model's is 'cls'"):
        build_encoder(encoder_config(tmp_path, "openai", head="mean"))
    with pytest.raises(ConfigError, match="crop_size 50 px is not whole patches of 8 px"):
        build_encoder(encoder_config(tmp_path, "openai", crop_size=50))
    with pytest.raises(ConfigError, match="not whole patches"):
        tiny_encoder(tmp_path, "openai").encode_image(random(1, 3, 36, 32))


def test_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the model config asks for timm's pretrained weights."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    encoder = build_encoder(changed(tmp_path, EVA, timm_model_pretrained=True))
    assert math.isfinite(float(encoder.logit_scale.detach()))

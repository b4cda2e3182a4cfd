"""Counted FLOPs against torch's counter and numbers computed by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fineclip.config import EncoderConfig, WeightsConfig
from fineclip.models.encoder import RegionEncoder, build_encoder
from fineclip.models.flops import count_flops, image_flops, peak_flops, text_flops
from tests.helpers.encoders import tiny_encoder

SIZE = (48, 32)
OWNERS = torch.zeros(1, dtype=torch.int64)
BOX = torch.tensor([[0.1, 0.1, 0.6, 0.8]])


def near(value: float, expected: float) -> bool:
    return abs(value / expected - 1) < 0.03


@pytest.fixture(scope="module")
def b16() -> RegionEncoder:
    """EVA02-CLIP B/16 without memory for its weights: shapes are all that is counted."""
    with torch.device("meta"):
        return build_encoder(EncoderConfig(model="EVA02-B-16", weights=WeightsConfig(path="nowhere.pt")))


@pytest.mark.parametrize(("path", "giga"), [("dense", 34.70), ("global", 32.70), ("shared", 34.93)])
def test_b16_equals_the_hand_count(b16: RegionEncoder, path: Any, giga: float) -> None:
    assert image_flops(b16, 224, 224, path=path) / 1e9 == pytest.approx(giga, rel=1e-3)


def test_the_counter_equals_the_hand_count_of_upstream(b16: RegionEncoder) -> None:
    image, text = torch.empty(1, 3, 224, 224, device="meta"), torch.ones(1, 77, dtype=torch.int64, device="meta")
    visual, tower = b16.get_submodule("visual"), b16.text_tower
    assert near(count_flops(lambda: visual(image)) / 1e9, 35.13)
    assert near(count_flops(lambda: tower(text)) / 1e9, 5.96)


def test_b16_texts_and_sizes(b16: RegionEncoder) -> None:
    assert text_flops(b16, 77) / 1e9 == pytest.approx(5.549, rel=1e-3)
    assert image_flops(b16, 160, 160) / 1e9 == pytest.approx(16.4, rel=3e-3)
    assert image_flops(b16, 112, 112) / 1e9 == pytest.approx(8.06, rel=3e-3)


def test_b16_equals_the_counter(b16: RegionEncoder) -> None:
    image, text = torch.empty(1, 3, 224, 224, device="meta"), torch.ones(1, 24, dtype=torch.int64, device="meta")
    assert near(count_flops(lambda: b16.encode_image(image)), image_flops(b16, 224, 224))
    assert near(count_flops(lambda: b16.encode_dense(image)), image_flops(b16, 224, 224, path="dense"))
    assert near(count_flops(lambda: b16.encode_text(text)), text_flops(b16, 24))
    learnt = count_flops(lambda: b16.encode_image(image).sum().backward())
    assert near(learnt, image_flops(b16, 224, 224, gradient="kept"))


@pytest.mark.parametrize("path", ["global", "dense"])
@pytest.mark.parametrize("kind", ["openai", "mean", "eva"])
def test_every_kind_of_tower_forward_and_backward(tmp_path: Path, kind: str, path: Any) -> None:
    encoder, image = tiny_encoder(tmp_path, kind), torch.randn(2, 3, *SIZE)
    run = {"global": encoder.encode_image, "dense": encoder.encode_dense}[path]
    assert count_flops(lambda: run(image)) == 2 * image_flops(encoder, *SIZE, path=path)
    learnt = count_flops(
        lambda: run(image).sum().backward()
    )  # fused attention makes its logits once more on the way back
    assert learnt == pytest.approx(2 * image_flops(encoder, *SIZE, path=path, gradient="kept"), rel=0.06)


@pytest.mark.parametrize("kind", ["openai", "mean", "eva"])
def test_one_pass_for_both(tmp_path: Path, kind: str) -> None:
    encoder, image = tiny_encoder(tmp_path, kind), torch.randn(1, 3, *SIZE)
    found = count_flops(lambda: encoder.encode_image_and_regions(image, BOX, OWNERS))
    parts = [image_flops(encoder, *SIZE, path=path) for path in ("shared", "global", "dense")]
    assert found < parts[1] + parts[2]
    assert found == pytest.approx(parts[0], rel=0.06)  # a value of the last block more, of three blocks


@pytest.mark.parametrize("kind", ["openai", "eva"])
def test_texts_of_every_kind(tmp_path: Path, kind: str) -> None:
    encoder, texts = tiny_encoder(tmp_path, kind), torch.ones(3, 20, dtype=torch.int64)
    assert count_flops(lambda: encoder.encode_text(texts)) == 3 * text_flops(encoder, 20)
    learnt = count_flops(lambda: encoder.encode_text(texts).sum().backward())
    assert near(learnt, 3 * text_flops(encoder, 20, gradient="kept"))
    for _, parameter in encoder.text_parameters():
        parameter.requires_grad_(False)
    assert text_flops(encoder, 20, gradient="kept") == text_flops(encoder, 20)


@pytest.mark.parametrize("kind", ["openai", "eva"])
def test_frozen_blocks_have_no_backward_pass(tmp_path: Path, kind: str) -> None:
    encoder, image = tiny_encoder(tmp_path, kind), torch.randn(1, 3, *SIZE)
    whole = image_flops(encoder, *SIZE, gradient="kept")
    for _, parameter in encoder.vision_parameters():
        parameter.requires_grad_(False)
    assert image_flops(encoder, *SIZE, gradient="kept") == image_flops(encoder, *SIZE)
    encoder.trunk.blocks[-1].requires_grad_(True)
    last = image_flops(encoder, *SIZE, gradient="kept")
    assert image_flops(encoder, *SIZE) < last < whole
    assert count_flops(lambda: encoder.encode_image(image).sum().backward()) == pytest.approx(last, rel=0.03)


@pytest.mark.parametrize(
    ("name", "precision", "tera"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA A800-SXM4-80GB", "bf16", 312),
        ("NVIDIA H100 80GB HBM3", "bf16", 989),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA H200", "tf32", 494),
        ("NVIDIA L40S", "bf16", 362),
        ("NVIDIA L4", "fp32", 30.3),
        ("NVIDIA A10G", "bf16", 70),
        ("NVIDIA GeForce RTX 4090", "fp16", 165.2),
        ("Tesla V100-SXM2-32GB", "fp16", 125),
        ("Tesla T4", "fp16", 65),
        ("NVIDIA B200", "bf16", 2250),
    ],
)
def test_peak_by_device_name(name: str, precision: Any, tera: float) -> None:
    assert peak_flops(name, precision) == pytest.approx(tera * 1e12)


def test_an_unknown_peak_is_none() -> None:
    assert peak_flops("Tesla V100-SXM2-32GB", "bf16") is None  # it can, but not in hardware
    assert peak_flops("AMD EPYC", "fp32") is None

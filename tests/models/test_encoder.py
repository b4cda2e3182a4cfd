"""The region encoder: one pass for images and regions, zero rows, precision, parameters of each tower."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fineclip.errors import ConfigError
from fineclip.models.architecture import build_model
from fineclip.models.encoder import RegionEncoder, pool_masks, pool_regions
from tests.helpers.encoders import KINDS, encoder_config, tiny_encoder

close = {"atol": 1e-5, "rtol": 1e-5}
OWNERS = torch.tensor([0, 0, 2, 2])
BOXES = torch.tensor([[0, 0, 1, 1], [0.1, 0.2, 0.15, 0.22], [0.5, 0, 1, 0.4], [0.3, 0.3, 0.9, 0.8]])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some_masks() -> Tensor:
    return (random(4, 4, 4, seed=3) > 0).float()


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def test_native_size_equals_upstream(kind: str, tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path, kind)
    upstream = build_model(encoder_config(tmp_path, kind)).eval()
    upstream.load_state_dict(encoder.state_dict(), strict=True)  # the keys are upstream's own
    images, tokens = random(3, 3, 32, 32), torch.randint(0, 512, (4, 77))
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode_image(images), upstream.encode_image(images), **close)
        torch.testing.assert_close(encoder.encode_text(tokens), upstream.encode_text(tokens), **close)


def test_dense_tokens_are_unit_vectors_on_any_grid(kind: str, tmp_path: Path) -> None:
    dense = tiny_encoder(tmp_path, kind).encode_dense(random(2, 3, 24, 56))
    assert dense.shape == (2, 32, 3, 7)
    torch.testing.assert_close(dense.norm(dim=1), torch.ones(2, 3, 7))


def test_one_pass_equals_two(kind: str, tmp_path: Path) -> None:
    encoder, images = tiny_encoder(tmp_path, kind), random(3, 3, 40, 24)
    image, region = encoder.encode_image_and_regions(images, BOXES, OWNERS)
    assert torch.equal(image, encoder.encode_image(images))
    assert torch.equal(region, encoder.encode_regions(images, BOXES, OWNERS))
    assert region.shape == (4, 32)


def test_one_pass_runs_every_block_but_the_last_once(kind: str, tmp_path: Path) -> None:
    encoder, runs = tiny_encoder(tmp_path, kind), []
    for number, block in enumerate(encoder.trunk.blocks):
        block.mlp.register_forward_pre_hook(lambda _, given, at=number: runs.append((at, given[0].shape[1])))
    encoder.encode_image_and_regions(random(3, 3, 32, 32), BOXES, OWNERS)
    rows = 1 if encoder.head == "cls" else 17
    assert sorted(runs) == [(0, 17), (1, 17), *sorted([(2, rows), (2, 16)])]


def test_the_mean_head_is_the_mean_of_projected_patches(tmp_path: Path) -> None:
    """As open_clip's own, which takes the mean of the patches after the norm and projects that."""
    encoder, images = tiny_encoder(tmp_path, "mean"), random(2, 3, 24, 40)
    with torch.no_grad():
        tokens = encoder.trunk.last(encoder.trunk.forward_before_last(images))[:, 1:]
        per_patch = encoder.trunk.project(encoder.trunk.norm(tokens))
        found = encoder.encode_image(images)
        torch.testing.assert_close(found, per_patch.mean(dim=1), **close)
        class_row = encoder.trunk.last(encoder.trunk.forward_before_last(images), rows=1)
        assert (found - encoder.trunk.project(encoder.trunk.norm(class_row))[:, 0]).abs().max() > 0.1


@pytest.mark.parametrize("size", [(32, 32), (16, 40)])
def test_one_image_and_one_region(kind: str, tmp_path: Path, size: tuple[int, int]) -> None:
    """B = 1 and R = 1 are rows of larger batches."""
    encoder, images = tiny_encoder(tmp_path, kind), random(3, 3, *size)
    with torch.no_grad():
        image_BD, region_RD = encoder.encode_image_and_regions(images, BOXES, OWNERS)
        image_1D, region_1D = encoder.encode_image_and_regions(images[2:], BOXES[3:], OWNERS[:1])
    torch.testing.assert_close(image_1D, image_BD[2:], **close)
    torch.testing.assert_close(region_1D, region_RD[3:], **close)


@pytest.mark.parametrize("kind", ["mean", "eva"])
def test_features_stay_float32_under_autocast(tmp_path: Path, kind: str) -> None:
    encoder, images, masks = tiny_encoder(tmp_path, kind), random(3, 3, 32, 32), some_masks()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        image, region = encoder.encode_image_and_regions(images, BOXES, OWNERS)
        masked = encoder.encode_masks(images, masks, OWNERS)
        dense = encoder.encode_dense(images)
        pooled = pool_regions(dense, BOXES, OWNERS), pool_masks(dense, masks, OWNERS)
    assert {found.dtype for found in (image, region, masked, dense)} == {torch.float32}
    assert torch.equal(pooled[0], pool_regions(dense, BOXES, OWNERS))
    assert torch.equal(pooled[1], pool_masks(dense, masks, OWNERS))
    with torch.no_grad():
        exact = encoder.encode_regions(images, BOXES, OWNERS)
    assert F.cosine_similarity(region, exact).min() > 0.99


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_bytes_become_normalized_numbers_of_the_type_of_the_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    encoder = tiny_encoder(tmp_path, "openai").to(dtype)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    expected = ((pixels / 255 - mean[:, None, None]) / std[:, None, None]).to(dtype)
    torch.testing.assert_close(
        encoder.preprocess(pixels), expected, atol=1e-6, rtol=1e-6 if dtype == torch.float64 else 0.01
    )
    assert encoder.preprocess(pixels).dtype == dtype
    assert encoder.encode_image(pixels).shape == (2, 32)


Made = Callable[[RegionEncoder, int, int], Tensor]  # of so many images or texts, and regions
PATHS: dict[str, Made] = {
    "images": lambda encoder, images, _: encoder.encode_image(random(images, 3, 32, 32)),
    "texts": lambda encoder, texts, _: encoder.encode_text(torch.arange(1, 1 + texts)[:, None].expand(texts, 5)),
    "dense": lambda encoder, images, _: encoder.encode_dense(random(images, 3, 32, 32)),
    "boxes": lambda encoder, images, regions: encoder.encode_regions(
        random(images, 3, 32, 32), BOXES[:regions], OWNERS[:regions]
    ),
    "masks": lambda encoder, images, regions: encoder.encode_masks(
        random(images, 3, 32, 32), some_masks()[:regions], OWNERS[:regions]
    ),
    "images of one pass": lambda encoder, images, regions: encoder.encode_image_and_regions(
        random(images, 3, 32, 32), BOXES[:regions], OWNERS[:regions]
    )[0],
    "boxes of one pass": lambda encoder, images, regions: encoder.encode_image_and_regions(
        random(images, 3, 32, 32), BOXES[:regions], OWNERS[:regions]
    )[1],
}


def gradients(encoder: RegionEncoder, found: Tensor) -> dict[str, Tensor]:
    encoder.zero_grad(set_to_none=True)
    found.sum().backward()
    return {name: value.grad for name, value in encoder.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("path", PATHS)
def test_zero_rows_stay_connected(kind: str, tmp_path: Path, path: str) -> None:
    """The same parameters have a gradient as where there are rows, and it is zero."""
    encoder = tiny_encoder(tmp_path, kind)
    expected = gradients(encoder, PATHS[path](encoder, 3, 4))
    assert len(expected) > 10
    of_images = [(0, 0)] if path in ("images", "texts", "dense", "images of one pass") else [(0, 0), (2, 0)]
    for images, regions in of_images:
        found = PATHS[path](encoder, images, regions)
        assert found.shape == (0, 32, *((4, 4) if path == "dense" else ()))
        connected = gradients(encoder, found)
        assert connected.keys() == expected.keys()
        assert not any(gradient.any() for gradient in connected.values())


@pytest.mark.parametrize("path", ["boxes", "masks", "boxes of one pass"])
def test_regions_without_images_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError, match="but no images"):
        PATHS[path](tiny_encoder(tmp_path, "openai"), 0, 1)


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

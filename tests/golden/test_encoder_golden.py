"""The numbers of the authors' own code, on small random inputs."""

import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fineclip.config import EncoderConfig, WeightsConfig
from fineclip.models.checkpoint import as_open_clip, fill, load_encoder
from fineclip.models.encoder import RegionEncoder, build_encoder
from fineclip.models.images import normalise, squash
from fineclip.models.tokenizer import Tokenizer
from fineclip.shards.images import crop
from fineclip.types import Box
from tests.helpers.encoders import as_official, encoder_config

GOLDEN = Path(os.environ.get("FINECLIP_GOLDEN", "../shared/golden"))
pytestmark = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason=f"no golden vectors at {GOLDEN} (FINECLIP_GOLDEN says where)"
)

MODELS = {"eva": "eva_tiny", "openai": "openai_tiny"}
close = {"atol": 1e-5, "rtol": 1e-5}


def arrays(name: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / name) as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored.files}


@pytest.fixture(params=["eva", "openai"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[RegionEncoder, dict[str, Tensor], dict[str, Tensor]]:
    """The encoder, loaded strictly from the authors' key layout, with inputs and outputs."""
    folder = MODELS[request.param]
    encoder = load_encoder(encoder_config(tmp_path, request.param), GOLDEN / folder / "weights.safetensors").eval()
    return encoder, arrays(f"{folder}/inputs.npz"), arrays(f"{folder}/outputs.npz")


@pytest.mark.parametrize("size", ["", "48"])
def test_images_and_regions(case, size: str) -> None:
    encoder, given, expected = case
    images, boxes, owners = given[f"images{size}"], given["boxes"], given["box_to_image"]
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode_image(images), expected[f"image_embed{size}"], **close)
        torch.testing.assert_close(encoder.encode_dense(images), expected[f"dense{size}"], **close)
        torch.testing.assert_close(encoder.encode_regions(images, boxes, owners), expected[f"roi{size}"], **close)
        both = encoder.encode_image_and_regions(images, boxes, owners)
    torch.testing.assert_close(both[0], expected[f"image_embed{size}"], **close)
    torch.testing.assert_close(both[1], expected[f"roi{size}"], **close)


def test_crops_and_texts(case) -> None:
    encoder, given, expected = case
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode_image(given["crops"]), expected["crop_embed"], **close)
        torch.testing.assert_close(encoder.encode_text(given["caption_tokens"]), expected["caption_embed"], **close)
        torch.testing.assert_close(encoder.encode_text(given["region_tokens"]), expected["region_text_embed"], **close)
        nothing = torch.zeros(1, 77, dtype=torch.long)
        torch.testing.assert_close(encoder.encode_text(nothing), expected["zero_tokens_embed"], **close)


@pytest.mark.slow
def test_a_model_of_real_size() -> None:
    """EVA02-CLIP-B-16 under the authors' names, its weights drawn by the recipe of the golden vectors."""
    meta, expected = json.loads((GOLDEN / "eva_b16/meta.json").read_text()), arrays("eva_b16/outputs.npz")
    encoder = build_encoder(EncoderConfig(model="EVA02-B-16", weights=WeightsConfig(path="nowhere")))
    official = {name: drawn(name, value.shape, meta) for name, value in as_official(encoder.state_dict()).items()}
    fill(encoder, as_open_clip(official), where="recipe")
    small, large = (
        torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(meta["input_seed"] + more))
        for more, (count, size) in enumerate(((2, 224), (1, 336)))
    )
    assert torch.equal(small.flatten()[:8], expected["images224_head"])
    boxes, owners = expected["boxes"], expected["box_to_image"]
    with torch.no_grad():
        for images, owner, size in ((small, owners, 224), (large, torch.zeros_like(owners), 336)):
            image, region = encoder.encode_image_and_regions(images, boxes, owner)
            torch.testing.assert_close(image, expected[f"image_embed{size}"], atol=1e-4, rtol=1e-4)
            region = torch.nn.functional.normalize(region, dim=-1)
            torch.testing.assert_close(region, expected[f"roi_norm{size}"], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            encoder.encode_text(expected["tokens"]), expected["text_embed"], atol=1e-4, rtol=1e-4
        )


def drawn(name: str, shape: torch.Size, meta: dict[str, int]) -> Tensor:
    if name == "logit_scale":
        return torch.tensor(4.6052)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + meta["weight_seed_offset"])
    value = torch.randn(shape, generator=generator) * 0.02
    return 1 + value if len(shape) == 1 and name.endswith(".weight") else value


@pytest.mark.parametrize("index", range(4))
def test_squashed_images(index: int) -> None:
    stored = arrays("transforms/fineclip_squash.npz")
    image = Image.fromarray(stored[f"image{index}"].numpy())
    torch.testing.assert_close(normalise(squash(image, 32)), stored[f"tensor{index}"], **close)


@pytest.mark.parametrize("index", range(3))  # the fourth has no box that is large enough
def test_squashed_crops_of_enlarged_boxes(index: int) -> None:
    stored = arrays("transforms/fineclip_squash.npz")
    image = Image.fromarray(stored[f"image{index}"].numpy())
    rows = (stored[f"box_rows{index}"][:, 4] > 0.5).nonzero().flatten().tolist()
    assert len(rows) == 5
    for row in rows:
        x, y, width, height = stored[f"boxes_xywh{index}"][row].tolist()
        box = Box(x, y, x + width, y + height).enlarged(1.5)
        theirs = stored[f"crop_rect_float{index}"][row].tolist()
        assert box.clipped(image.width, image.height) == pytest.approx(theirs, abs=1e-6)
        x1, y1, x2, y2 = stored[f"crop_rect_int{index}"][row].tolist()
        cut = crop(image, box)
        assert cut.size == (x2 - x1, y2 - y1)
        torch.testing.assert_close(normalise(squash(cut, 32)), stored[f"crops{index}"][row], **close)


def test_token_ids() -> None:
    meta = json.loads((GOLDEN / "transforms/meta_fineclip.json").read_text(encoding="utf-8"))
    stored = arrays("transforms/fineclip_squash.npz")
    tokenizer = Tokenizer(context_length=77)
    for index in range(3):
        assert torch.equal(tokenizer([meta["captions"][index]]), stored[f"caption_tokens{index}"])
        is_valid = stored[f"box_rows{index}"][:, 4] > 0.5
        ids = tokenizer(meta["region_captions"][index])
        assert torch.equal(ids[is_valid], stored[f"region_tokens{index}"][is_valid])

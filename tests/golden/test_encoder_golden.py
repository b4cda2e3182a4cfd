"""What the authors' own code makes of small random inputs, quantity by quantity; shapes and sizes are those of the files."""

import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fineclip.config import EncoderConfig, WeightsConfig
from fineclip.models.checkpoints.layouts import as_open_clip
from fineclip.models.encoder import RegionEncoder, build_encoder, pool_masks, pool_regions
from fineclip.models.tokenizer import trim_padding
from fineclip.models.trunks import EvaTrunk, Hidden, resize_positions
from tests.helpers.encoders import as_official
from tests.helpers.golden import arrays, loaded_encoder, values

close = {"atol": 1e-5, "rtol": 1e-5}
MODELS = ("eva_tiny", "openai_tiny")
NOT_OFFERED = "roi_v1_norm"  # region features by mask attention: no method uses them
Case = tuple[RegionEncoder, dict[str, Tensor], dict[str, Tensor]]
Quantity = Callable[[RegionEncoder, dict[str, Tensor], str], Tensor]


def regions(encoder: RegionEncoder, given: dict[str, Tensor], size: str) -> Tensor:
    return encoder.encode_regions(given[f"images{size}"], given["boxes"], given["box_to_image"])


def masked(encoder: RegionEncoder, given: dict[str, Tensor], size: str) -> Tensor:
    return encoder.encode_masks(given[f"images{size}"], given[f"masks{size}"], given["mask_to_image"])


def image_of_one_pass(encoder: RegionEncoder, given: dict[str, Tensor], size: str) -> Tensor:
    return encoder.encode_image_and_regions(given[f"images{size}"], given["boxes"], given["box_to_image"])[0]


def regions_of_one_pass(encoder: RegionEncoder, given: dict[str, Tensor], size: str) -> Tensor:
    return encoder.encode_image_and_regions(given[f"images{size}"], given["boxes"], given["box_to_image"])[1]


AT_EVERY_SIZE: dict[str, tuple[str, Quantity]] = {  # the stored quantity, and how we make it
    "image": ("image_embed", lambda encoder, given, size: encoder.encode_image(given[f"images{size}"])),
    "image, unit": (
        "image_embed_norm",
        lambda encoder, given, size: normalize(encoder.encode_image(given[f"images{size}"]), dim=-1),
    ),
    "dense": ("dense", lambda encoder, given, size: encoder.encode_dense(given[f"images{size}"])),
    "regions": ("roi", regions),
    "regions, unit": ("roi_norm", lambda *case: normalize(regions(*case), dim=-1)),
    "masks, unit": ("maskpool_norm", lambda *case: normalize(masked(*case), dim=-1)),
    "image of one pass": ("image_embed", image_of_one_pass),
    "regions of one pass": ("roi", regions_of_one_pass),
}
ONCE: dict[str, tuple[str, Quantity]] = {
    "crops": ("crop_embed", lambda encoder, given, _: encoder.encode_image(given["crops"])),
    "captions": ("caption_embed", lambda encoder, given, _: encoder.encode_text(given["caption_tokens"])),
    "captions, unit": (
        "caption_embed_norm",
        lambda encoder, given, _: normalize(encoder.encode_text(given["caption_tokens"]), dim=-1),
    ),
    "region texts": ("region_text_embed", lambda encoder, given, _: encoder.encode_text(given["region_tokens"])),
    "region texts, unit": (
        "region_text_embed_norm",
        lambda encoder, given, _: normalize(encoder.encode_text(given["region_tokens"]), dim=-1),
    ),
    "region texts, cut": (
        "region_text_embed",
        lambda encoder, given, _: encoder.encode_text(trim_padding(given["region_tokens"])),
    ),
    "no token": (
        "zero_tokens_embed",
        lambda encoder, *_: encoder.encode_text(torch.zeros(1, encoder.context_length, dtype=torch.long)),
    ),
    "no token, cut": ("zero_tokens_embed", lambda encoder, *_: encoder.encode_text(torch.zeros(1, 1).long())),
}


def sizes(given: dict[str, Tensor]) -> list[str]:
    """What the names of arrays end with: nothing for the native size, 48 for images of 48 pixels."""
    return sorted(name.removeprefix("images") for name in given if name.startswith("images"))


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    """The encoder, loaded strictly from the authors' key layout, with inputs and outputs."""
    name = request.param
    return loaded_encoder(name, tmp_path), arrays(f"{name}/inputs.npz"), arrays(f"{name}/outputs.npz")


@pytest.mark.parametrize("quantity", AT_EVERY_SIZE)
def test_at_every_size(case: Case, quantity: str) -> None:
    encoder, given, expected = case
    name, make = AT_EVERY_SIZE[quantity]
    assert len(sizes(given)) > 1
    for size in sizes(given):
        with torch.no_grad():
            torch.testing.assert_close(make(encoder, given, size), expected[f"{name}{size}"], **close)


@pytest.mark.parametrize("quantity", ONCE)
def test_crops_and_texts(case: Case, quantity: str) -> None:
    encoder, given, expected = case
    name, make = ONCE[quantity]
    with torch.no_grad():
        torch.testing.assert_close(make(encoder, given, ""), expected[name], **close)


def test_positions_of_every_size(case: Case) -> None:
    encoder, given, expected = case
    trunk = encoder.trunk
    for size in sizes(given):
        with torch.no_grad():
            hidden = trunk.forward_before_last(given[f"images{size}"])
        if isinstance(trunk, EvaTrunk):
            learned, native = trunk.trunk.pos_embed[0], trunk.trunk.patch_embed.grid_size
            for name, part in (("cos", hidden.rotary[..., 0]), ("sin", hidden.rotary[..., 1])):
                table = part[1:].repeat_interleave(2, dim=-1)
                torch.testing.assert_close(table, expected[f"rope_{name}{size}"], **close)
        else:
            learned, native = trunk.visual.positional_embedding, trunk.visual.grid_size
            assert hidden.rotary is None
        if size:
            found = resize_positions(learned, native=native, grid=hidden.grid)
            torch.testing.assert_close(found, expected[f"pos_embed{size}"].flatten(0, -2), **close)


def test_the_last_block(case: Case) -> None:
    """As it is, for all rows and for the first alone, and without attention."""
    encoder, given, expected = case
    with torch.no_grad():
        rotary = encoder.trunk.forward_before_last(given["images"]).rotary
    order = "" if isinstance(encoder.trunk, EvaTrunk) else "_lnd"  # tokens before the batch
    given_BTC, whole_BTC, value_only_BTC = (
        stored.transpose(0, 1) if order else stored
        for stored in (
            given[f"block_tokens{order}"],
            expected[f"block_last{order}"],
            expected[f"block_last_value_only{order}"],
        )
    )
    hidden = Hidden(given_BTC, (0, 0), rotary)
    with torch.no_grad():
        torch.testing.assert_close(encoder.trunk.last(hidden), whole_BTC, **close)
        torch.testing.assert_close(encoder.trunk.last(hidden, rows=1), whole_BTC[:, :1], **close)
        torch.testing.assert_close(encoder.trunk.last_without_attention(given_BTC), value_only_BTC, **close)


def test_nothing_stored_is_left_out(case: Case) -> None:
    _, given, expected = case
    compared = {name for name, _ in ONCE.values()}
    compared |= {f"{name}{size}" for name, _ in AT_EVERY_SIZE.values() for size in sizes(given)}
    compared |= {f"{name}{size}" for name in ("rope_cos", "rope_sin", "pos_embed") for size in sizes(given)}
    compared |= {f"{name}{order}" for name in ("block_last", "block_last_value_only") for order in ("", "_lnd")}
    assert {name for name in expected if name not in compared and not name.startswith(NOT_OFFERED)} == set()


def test_boxes_and_masks_on_the_stored_maps(case: Case) -> None:
    """Pooling by itself; the last mask is empty and gives zeros."""
    _, given, expected = case
    for size in sizes(given):
        dense, masks = expected[f"dense{size}"], given[f"masks{size}"]
        region = pool_regions(dense, given["boxes"], given["box_to_image"])
        torch.testing.assert_close(region, expected[f"roi{size}"], **close)
        under = pool_masks(dense, masks, given["mask_to_image"])
        torch.testing.assert_close(normalize(under, dim=-1), expected[f"maskpool_norm{size}"], **close)
        is_empty = masks.flatten(1).sum(dim=1) == 0
        assert is_empty.any() and not under[is_empty].any()


SAMPLED = {
    224: (6, 7),
    336: (10, 9),
}  # the cell in the middle whose dense feature is stored; the other four are the corners


@pytest.mark.slow
def test_a_model_of_real_size() -> None:
    """EVA02-CLIP-B-16 under the authors' names, its weights drawn by the recipe of the golden vectors."""
    meta, expected = values("eva_b16/meta.json"), arrays("eva_b16/outputs.npz")
    encoder = build_encoder(EncoderConfig(model="EVA02-B-16", weights=WeightsConfig(path="nowhere"))).eval()
    official = {
        name: drawn(name, value.shape, offset=meta["weight_seed_offset"])
        for name, value in as_official(encoder.state_dict()).items()
    }
    for place, first in meta["check_values"].items():
        assert official[place.partition("[")[0]].flatten()[: len(first)].tolist() == pytest.approx(first, abs=1e-7)
    encoder.load_state_dict(as_open_clip(official), strict=True)
    sides = sorted(int(name.removeprefix("image_embed")) for name in expected if name.startswith("image_embed"))
    for more, side in enumerate(sides):
        images = noise(len(expected[f"image_embed{side}"]), 3, side, side, seed=meta["input_seed"] + more)
        assert torch.equal(images.flatten()[:8], expected[f"images{side}_head"])
        owner_R = expected["box_to_image"] if more == 0 else torch.zeros_like(expected["box_to_image"])
        with torch.no_grad():
            image, region = encoder.encode_image_and_regions(images, expected["boxes"], owner_R)
            dense = encoder.encode_dense(images)
        last = dense.shape[-1] - 1
        rows, columns = zip((0, 0), (0, last), SAMPLED[side], (last, 0), (last, last), strict=True)
        for found, name in ((image, "image_embed"), (normalize(region, dim=-1), "roi_norm")):
            torch.testing.assert_close(found, expected[f"{name}{side}"], atol=1e-4, rtol=1e-4)
        sample = dense[:, :, list(rows), list(columns)]
        torch.testing.assert_close(sample, expected[f"dense{side}_sample"], atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        for tokens in (expected["tokens"], trim_padding(expected["tokens"])):
            torch.testing.assert_close(encoder.encode_text(tokens), expected["text_embed"], **close)


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def drawn(name: str, shape: torch.Size, *, offset: int) -> Tensor:
    if name == "logit_scale":
        return torch.tensor(4.6052)
    value = noise(*shape, seed=zlib.crc32(name.encode()) + offset) * 0.02
    return 1 + value if len(shape) == 1 and name.endswith(".weight") else value

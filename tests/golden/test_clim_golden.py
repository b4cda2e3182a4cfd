"""CLIM's mosaics, features, loss and gradients as the authors' own code gives them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fineclip.config import CLIMConfig
from fineclip.methods.clim import CLIM, make_mosaics, mosaic_sides, tile_boxes
from fineclip.models.checkpoints import load_encoder
from fineclip.train.grad_cache import GradCache
from fineclip.types import Batch, Counts
from tests.helpers.golden import GOLDEN, arrays, golden_encoder, values

close = {"atol": 1e-5, "rtol": 1e-5}
SIDES = (2, 3, 4)
SIZES = values("losses/meta_clim.json")["resize_to"]


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    return arrays("losses/clim.npz")


def test_the_plan_of_a_batch(stored: dict[str, Tensor]) -> None:
    images = len(stored["caption_tokens"])
    sides = mosaic_sides(images, SIDES)
    layout = [
        (number, row, column, side)
        for number, side in enumerate(sides)
        for row in range(side)
        for column in range(side)
    ]
    layout += [(-1, single, 0, 0) for single in range(images - len(layout))]
    assert layout == [tuple(row) for row in stored["caption_layout"].tolist()]
    boxes, owners = tile_boxes(sides, device=torch.device("cpu"))
    torch.testing.assert_close(boxes, stored["boxes"], atol=1e-6, rtol=0)
    assert torch.equal(owners, stored["box_to_mosaic"])


def test_mosaics(stored: dict[str, Tensor]) -> None:
    sides = mosaic_sides(len(stored["images"]), SIDES)
    names = [name for name in stored if name.startswith("mosaics_")]
    assert names
    for name in names:
        used = stored["images"][: sum(side * side for side in sides)]
        found = make_mosaics(used, sides, size=int(name.removeprefix("mosaics_")))
        torch.testing.assert_close(found, stored[name], **close)


@pytest.mark.parametrize("size", SIZES)
def test_features_loss_and_gradients(stored: dict[str, Tensor], tmp_path: Path, size: int) -> None:
    encoder = load_encoder(golden_encoder("openai_tiny", tmp_path), GOLDEN / "openai_tiny/weights.safetensors")
    method = CLIM(encoder, CLIMConfig(mosaic_size=size))
    images = len(stored["images"])
    assert sum(method.image_groups(images)) == images
    batch = Batch(
        keys=tuple(map(str, range(images))),
        counts=Counts([images], [0]),
        images=stored["images"],
        texts=stored["caption_tokens"],
    )
    found = method.encode(batch)
    torch.testing.assert_close(normalize(found.visual, dim=-1), stored[f"visual_features_{size}"], **close)
    torch.testing.assert_close(normalize(found.caption, dim=-1), stored["text_features"], **close)
    losses = GradCache(method)(batch)
    assert losses.total.item() == pytest.approx(stored[f"loss_{size}"].item(), rel=1e-5)
    losses.total.backward()
    parameters = dict(method.encoder.named_parameters())
    meta = values("losses/meta_clim.json")
    without = {name for name, value in parameters.items() if value.requires_grad and value.grad is None}
    assert without == set(meta[f"gradient_absent_{size}"])
    for name, gradient in stored.items():
        if name.startswith(f"grad_{size}/"):
            own = parameters[name.removeprefix(f"grad_{size}/")].grad
            torch.testing.assert_close(own, gradient, **close, msg=name)

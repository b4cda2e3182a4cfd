"""Letterboxed images, crops of proposals and of patches, and the grids of patches, as CLIPSelf's own code gives them."""

from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from fineclip.boxes import clip, enlarge
from fineclip.methods.clipself import grids
from fineclip.methods.transforms import RESIZES, grid_boxes, stack_boxes
from fineclip.models.images import normalize_pixels
from fineclip.shards.images import crop
from fineclip.types import Box, Sample
from tests.helpers.golden import arrays

close = {"atol": 1e-5, "rtol": 1e-5}
LETTERBOX = RESIZES["letterbox"]


def transforms(name: str) -> dict[str, Tensor]:
    return arrays(f"transforms/{name}.npz")


def cases() -> int:
    return sum(name.startswith("image") for name in transforms("clipself_letterbox"))


def case(index: int) -> tuple[Image.Image, Sample, dict[str, Any]]:
    """The image, as a sample, and what is stored of it."""
    stored = transforms("clipself_letterbox")
    image = Image.fromarray(stored[f"image{index}"].numpy())
    of_image = {name.removesuffix(str(index)): value for name, value in stored.items() if name.endswith(str(index))}
    return image, Sample("k", b"", image.width, image.height, ()), of_image


@pytest.mark.parametrize("index", range(cases()))
def test_images(index: int) -> None:
    image, _, stored = case(index)
    size = stored["tensor"].shape[-1]
    torch.testing.assert_close(normalize_pixels(LETTERBOX.image(image, size)), stored["tensor"], **close)
    whole = normalize_pixels(LETTERBOX.crop(image, size))
    torch.testing.assert_close(whole, stored["crop_transform_of_whole_image"], **close)


@pytest.mark.parametrize("index", range(cases()))
def test_boxes_and_crops_of_proposals(index: int) -> None:
    image, sample, stored = case(index)
    crop_size = stored["crops"].shape[-1]
    given = stored["boxes_xywh"]
    rows = [row for row in range(len(given)) if given[row, 2] * given[row, 3] >= 64]  # theirs leave out the smaller
    for row in rows:
        x, y, width, height = given[row].tolist()
        box = Box(x, y, x + width, y + height)
        found = torch.tensor([*LETTERBOX.fractions(box, sample), 1.0])
        torch.testing.assert_close(found, stored["box_rows"][row], atol=1e-6, rtol=0)
        enlarged = enlarge(box, 1.5)
        theirs = stored["crop_rect_float"][row].tolist()
        assert clip(enlarged, image.width, image.height) == pytest.approx(theirs, abs=1e-6)
        x1, y1, x2, y2 = stored["crop_rect_int"][row].tolist()
        cut = crop(image, enlarged)
        assert cut.tobytes() == image.crop((x1, y1, x2, y2)).tobytes()
        torch.testing.assert_close(normalize_pixels(LETTERBOX.crop(cut, crop_size)), stored["crops"][row], **close)
    valid = (stored["box_rows"][:, 4] > 0.5).sum().item()
    assert valid == max(len(rows), 1)  # theirs make a box up where there is none, and ours do not


def test_the_choice_of_grids() -> None:
    choices = transforms("grid")["choices"]
    assert grids(int(choices.max())) == [tuple(choice) for choice in choices.tolist()]


def test_the_cells_of_grids() -> None:
    stored = {name: value for name, value in transforms("grid").items() if name.startswith("grid_")}
    assert stored
    for name, boxes in stored.items():
        rows, columns = map(int, name.removeprefix("grid_").split("_"))
        torch.testing.assert_close(stack_boxes(grid_boxes(rows, columns)), boxes, atol=1e-6, rtol=0)


def test_patches_of_an_image() -> None:
    stored = transforms("grid")
    [name] = [name for name in stored if name.startswith("item_") and name.endswith("_tensor")]
    _, rows, columns, number, _ = name.split("_")
    image, sample, _ = case(int(number.removeprefix("image")))
    prefix = name.removesuffix("tensor")
    size = stored[name].shape[-1]
    torch.testing.assert_close(normalize_pixels(LETTERBOX.image(image, size)), stored[name], **close)
    cells = grid_boxes(int(rows), int(columns), width=sample.width, height=sample.height)
    expected = stored[f"{prefix}box_rows"]
    expected = expected[expected[:, 4] > 0.5]
    found = stack_boxes([LETTERBOX.fractions(cell, sample) for cell in cells])
    torch.testing.assert_close(found, expected[:, :4], atol=1e-6, rtol=0)
    crops = stored[f"{prefix}crops"]
    assert len(crops) == len(cells)
    for cell, theirs in zip(cells, crops, strict=True):
        ours = LETTERBOX.crop(crop(image, cell), theirs.shape[-1])
        torch.testing.assert_close(normalize_pixels(ours), theirs, **close)

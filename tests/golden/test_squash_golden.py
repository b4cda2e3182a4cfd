"""Squashed images, crops of enlarged boxes and tokens, as FineCLIP's own data set gives them."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from fineclip.boxes import clip, enlarge
from fineclip.config import FineCLIPConfig, LoaderConfig
from fineclip.methods.fineclip import FineCLIP
from fineclip.methods.transforms import DataSpec
from fineclip.models.images import SQUASH, normalize_pixels
from fineclip.models.pixels import stack_squares
from fineclip.models.tokenizer import Tokenizer
from fineclip.shards.images import crop
from fineclip.types import Box, Region, Sample
from tests.helpers.golden import arrays, values

close = {"atol": 1e-5, "rtol": 1e-5}
ENLARGED = 1.5
STORED = "transforms/fineclip_squash.npz"
IMAGES = range(len(values("transforms/meta_fineclip.json")["captions"]))


def stored_of(index: int) -> dict[str, torch.Tensor]:
    numbered = re.compile(rf"(.*\D){index}")
    return {match[1]: value for name, value in arrays(STORED).items() if (match := numbered.fullmatch(name))}


def valid_rows(stored: dict[str, torch.Tensor]) -> list[int]:
    """Rows of real regions: an image without one has a made-up box there, which alone is valid and without a text."""
    is_real = (stored["box_rows"][:, 4] > 0.5) & stored["region_tokens"].any(dim=1)
    return is_real.nonzero().flatten().tolist()


def test_there_are_images_with_regions_and_without() -> None:
    assert {bool(valid_rows(stored_of(index))) for index in IMAGES} == {True, False}


@pytest.mark.parametrize("index", IMAGES)
def test_a_sample_as_the_authors_prepare_it(index: int) -> None:
    """Image, boxes, crops and tokens of one visit. Where they make a box up, we have none."""
    meta, stored = values("transforms/meta_fineclip.json"), stored_of(index)
    rows = valid_rows(stored)
    content = io.BytesIO()
    Image.fromarray(stored["image"].numpy()).save(content, "PNG")
    height, width = stored["image"].shape[:2]
    regions = tuple(
        Region(Box(x, y, x + w, y + h), 1.0, "thing", meta["region_captions"][index][row])
        for row in rows
        for x, y, w, h in [stored["boxes_xywh"][row].tolist()]
    )
    sample = Sample("k", content.getvalue(), width, height, (meta["captions"][index],), regions=regions)
    context_length, size = stored["caption_tokens"].shape[-1], stored["tensor"].shape[-1]
    inputs = DataSpec(
        Tokenizer(context_length=context_length),
        image_size=size,
        crop_size=stored["crops"].shape[-1],
        loader=LoaderConfig(image_backend="pillow"),
    )
    options = FineCLIPConfig(crop_scale=ENLARGED)
    item = FineCLIP.build_transform(inputs, options, max_regions=meta["max_boxes"])(sample, np.random.default_rng(0))
    torch.testing.assert_close(normalize_pixels(item.image), stored["tensor"], **close)
    assert torch.equal(item.text, stored["caption_tokens"][0])
    torch.testing.assert_close(item.boxes, stored["box_rows"][rows, :4], atol=1e-6, rtol=0)
    assert torch.equal(item.region_texts, stored["region_tokens"][rows])
    crops = stack_squares(item.crops, inputs.crop_size)
    torch.testing.assert_close(normalize_pixels(crops), stored["crops"][rows], **close)


@pytest.mark.parametrize("index", IMAGES)
def test_rectangles_of_enlarged_boxes(index: int) -> None:
    stored = stored_of(index)
    image = Image.fromarray(stored["image"].numpy())
    for row in valid_rows(stored):
        x, y, width, height = stored["boxes_xywh"][row].tolist()
        box = enlarge(Box(x, y, x + width, y + height), ENLARGED)
        theirs = stored["crop_rect_float"][row].tolist()
        assert clip(box, image.width, image.height) == pytest.approx(theirs, abs=1e-6)
        x1, y1, x2, y2 = stored["crop_rect_int"][row].tolist()
        assert np.array_equal(np.asarray(crop(image, box)), stored["image"][y1:y2, x1:x2])


@pytest.mark.parametrize("index", IMAGES)
def test_pixels_of_squashed_images(index: int) -> None:
    stored = stored_of(index)
    size = stored["tensor"].shape[-1]
    found = normalize_pixels(SQUASH(Image.fromarray(stored["image"].numpy()), size))
    torch.testing.assert_close(found, stored["tensor"], **close)
    assert stored["scale"].tolist() == pytest.approx([size / side for side in stored["image"].shape[:2]])

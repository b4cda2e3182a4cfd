"""What each method says that it encodes, from which memory is estimated: every option that changes it."""

from typing import Any

import pytest

from fineclip.methods.base import Passes
from tests.helpers.methods import made
from tests.helpers.training import INPUTS

IMAGE, CROP = 16, 8


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("clip", {}, Passes(IMAGE)),
        ("clipself", {}, Passes(IMAGE, crop_px=CROP, keeps_crops=False)),
        ("clim", {"mosaics": [3, 2], "mosaic_size": 32}, Passes(32, images=4)),
        ("clim", {"mosaics": [3], "mosaic_size": 24}, Passes(24, images=9)),
        ("fineclip", {}, Passes(IMAGE, crop_px=CROP, keeps_crops=True)),
        ("fineclip", {"weights": {"distill": 0}}, Passes(IMAGE)),
        ("fineclip", {"relaxed": {"crop_size": 4}}, Passes(IMAGE, crop_px=4, keeps_crops=True)),
        ("fineclip", {"relaxed": {"detach_crops": True}}, Passes(IMAGE, crop_px=CROP, keeps_crops=False)),
        ("fineclip", {"relaxed": {"detach_crops": True, "crop_size": 12}}, Passes(IMAGE, crop_px=12)),
    ],
)
def test_images_and_crops_are_those_that_are_encoded(name: str, options: dict[str, Any], expected: Passes) -> None:
    assert (INPUTS.image_size, INPUTS.crop_size) == (IMAGE, CROP)
    assert made(name, options).passes(INPUTS) == expected

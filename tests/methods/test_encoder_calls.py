"""Uses of an encoder that each method declares, from which memory and FLOPs are estimated: every option that changes them."""

from typing import Any

import pytest

from fineclip.methods.base import EncoderCall
from tests.helpers.methods import made
from tests.helpers.training import INPUTS

IMAGE, CROP = 16, 8
TEXTS, REGION_TEXTS = EncoderCall("texts", gradient=False), EncoderCall("region_texts", gradient=False)
SHARED, DENSE = EncoderCall("images", IMAGE, "shared"), EncoderCall("images", IMAGE, "dense")


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("clip", {}, [EncoderCall("images", IMAGE), TEXTS]),
        ("clip", {"train_text": True}, [EncoderCall("images", IMAGE), EncoderCall("texts")]),
        ("clipself", {}, [DENSE, EncoderCall("crops", CROP, gradient=False)]),
        (
            "clim",
            {"mosaics": [3, 2], "mosaic_size": 32},
            [
                EncoderCall("images", 32, "dense", images=4),
                EncoderCall("images", 32, "dense", images=9),
                EncoderCall("images", IMAGE),
                TEXTS,
            ],
        ),
        ("fineclip", {}, [SHARED, TEXTS, REGION_TEXTS, EncoderCall("crops", CROP)]),
        ("fineclip", {"weights": {"distill": 0}}, [SHARED, TEXTS, REGION_TEXTS]),
        ("fineclip", {"weights": {"region": 0, "distill": 0}}, [EncoderCall("images", IMAGE), TEXTS]),
        ("fineclip", {"weights": {"region": 0, "global": 0}}, [DENSE, EncoderCall("crops", CROP)]),
        ("fineclip", {"weights": {"global": 0, "distill": 0}}, [DENSE, REGION_TEXTS]),
        ("fineclip", {"relaxed": {"crop_size": 4}}, [SHARED, TEXTS, REGION_TEXTS, EncoderCall("crops", 4)]),
        (
            "fineclip",
            {"relaxed": {"detach_crops": True, "crop_size": 12}, "train_text": True},
            [
                SHARED,
                EncoderCall("texts"),
                EncoderCall("region_texts"),
                EncoderCall("crops", 12, gradient=False),
            ],
        ),
    ],
)
def test_calls_are_those_of_the_terms(name: str, config: dict[str, Any], expected: list[EncoderCall]) -> None:
    assert (INPUTS.image_size, INPUTS.crop_size) == (IMAGE, CROP)
    assert made(name, config).encoder_calls(INPUTS) == expected

"""A text that many images or regions share is encoded once, and neither loss nor any gradient is another for it."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fineclip.config import parse
from fineclip.methods import METHODS
from fineclip.methods.transforms import DataSpec, sample_rng
from fineclip.train.data import Collate, to_device
from fineclip.types import Batch, Counts, Region
from tests.helpers.methods import outcome_of
from tests.helpers.packs import sample
from tests.helpers.tiny import TinyTokenizer, tiny_encoder

INPUTS = DataSpec(TinyTokenizer(), image_size=16, crop_size=8, concepts=("thing", "other", "third"))
IMAGES = 6
TAUGHT = {"targets": "pseudo", "min_confidence": 0.0}
CASES: list[tuple[str, Mapping[str, Any]]] = [
    ("clip", {}),
    ("clip", {"train_text": True}),
    ("fineclip", {}),
    ("fineclip", {"train_text": True}),
    ("clim", {"mosaics": [2], "mosaic_size": 24, "train_text": True}),
    ("regionclip", TAUGHT | {"train_text": True}),
    ("regionclip", {}),
    ("clipself", {}),
]


def merged_batch(name: str, options: Mapping[str, Any]) -> Batch:
    """Of six images with two captions between them, their eight regions with three, as the loader makes it; in float64."""
    section = parse(METHODS[name].config_type, options, where="test")
    prepare = METHODS[name].build_transform(INPUTS, section, max_regions=2)
    items = []
    for number in range(IMAGES):
        one = sample(f"k-{number}", regions=number % 3)
        regions = [
            Region(region.box, 0.5, "thing", f"is {(number + place) % 3}") for place, region in enumerate(one.regions)
        ]
        shared = replace(one, captions=(f"say {number % 2}",), regions=tuple(regions))
        items.append(prepare(shared, sample_rng(0, 0, one.key)))
    host = Collate(INPUTS)(items)
    batch = to_device(host, Counts([IMAGES], [host.regions]), torch.device("cpu"), seed=1)
    floating = {
        one.name: value.double()
        for one in fields(batch)
        if isinstance(value := getattr(batch, one.name), Tensor) and value.is_floating_point()
    }
    return replace(batch, **floating)


def repeated(texts: Tensor | None, rows: Tensor | None) -> Tensor | None:
    return None if texts is None or rows is None else texts[rows]


@pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{name} {options}" for name, options in CASES])
def test_loss_and_gradients_are_those_of_every_row_encoded_by_itself(name: str, options: Mapping[str, Any]) -> None:
    merged = merged_batch(name, options)
    plain = replace(
        merged,
        texts=repeated(merged.texts, merged.text_rows),
        text_rows=None,
        region_texts=repeated(merged.region_texts, merged.region_text_rows),
        region_text_rows=None,
    )
    if merged.texts is not None:
        assert len(merged.texts) == 2 and len(plain.texts) == IMAGES
    if merged.region_texts is not None:
        assert len(merged.region_texts) == 3 and len(plain.region_texts) == 6
    section = parse(METHODS[name].config_type, options, where="test")
    (losses, gradients), (expected_losses, expected) = (
        outcome_of(METHODS[name].build(tiny_encoder(), section, INPUTS), batch) for batch in (merged, plain)
    )
    assert losses == pytest.approx(expected_losses, rel=1e-12, abs=1e-12)
    learns_text = False
    for parameter, gradient in expected.items():
        if gradient is None:
            assert gradients[parameter] is None
        else:
            torch.testing.assert_close(gradients[parameter], gradient, rtol=1e-12, atol=1e-12, msg=parameter)
            learns_text |= "token_embedding" in parameter
    assert learns_text == bool(options.get("train_text"))

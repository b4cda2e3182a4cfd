"""FLOPs of a step of each method, compared with the counter of torch."""

from typing import Any

import pytest
import torch

from fineclip.config import parse
from fineclip.methods import METHODS, Method
from fineclip.models.flops import count_flops, image_flops, text_flops
from fineclip.train.grad_cache import GradCache
from fineclip.train.metrics import step_flops
from fineclip.types import Batch
from tests.helpers.methods import made
from tests.helpers.tiny import IMAGE_PX, batch_of, tiny_encoder
from tests.helpers.training import INPUTS

CONCEPTS = torch.eye(12, dtype=torch.float64)[:5]


def method_of(name: str, options: dict[str, Any]) -> Method[Any]:
    if name != "regionclip":
        return made(name, options)
    section = METHODS[name].config_type
    return METHODS[name](tiny_encoder(), parse(section, options, where="test"), CONCEPTS)  # type: ignore[call-arg]


def batch_for(name: str) -> Batch:
    batch = batch_of([1] * 30 if name == "clim" else [2, 0, 3])
    if name == "regionclip":
        batch.region_labels = torch.tensor([0, 1, 2, 0, 4])
    return batch


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("clip", {}),
        ("clip", {"train_text": True}),
        ("clipself", {}),
        ("clipself", {"unlocked_blocks": 1}),
        ("clim", {"mosaic_size": 32}),
        ("regionclip", {"targets": "labels"}),
        ("regionclip", {"targets": "pseudo"}),
        ("regionclip", {"targets": "pseudo", "weights": {"global": 0}}),
        ("regionclip", {"targets": "pseudo", "weights": {"distill": 0}}),
        ("regionclip", {"targets": "pseudo", "weights": {"distill": 0, "contrast": 0}, "train_text": True}),
        ("fineclip", {}),
        ("fineclip", {"train_text": True}),
        ("fineclip", {"unlocked_blocks": 1}),
        ("fineclip", {"weights": {"distill": 0}}),
        ("fineclip", {"weights": {"region": 0}}),
        ("fineclip", {"relaxed": {"detach_crops": True}}),
        ("fineclip", {"weights": {"global": 0}}),
        ("fineclip", {"weights": {"region": 0, "distill": 0}}),
    ],
)
def test_step_flops_equal_the_counter(name: str, options: dict[str, Any]) -> None:
    method, batch = method_of(name, options), batch_for(name)

    def step() -> None:
        GradCache(method)(batch).total.backward()

    found = count_flops(step)
    assert step_flops(method, batch, INPUTS) == pytest.approx(found, rel=0.1)


def test_fineclip_is_the_sum_of_its_calls() -> None:
    method, batch = made("fineclip", {}), batch_of([2, 1])
    encoder, side = method.encoder, IMAGE_PX
    expected = (
        2 * image_flops(encoder, side, side, path="shared", gradient="kept")
        + 3 * image_flops(encoder, 8, 8, gradient="kept")
        + 5 * text_flops(encoder, 8)
    )
    assert step_flops(method, batch, INPUTS) == expected


def test_embedded_texts_have_no_flops() -> None:
    method, batch = made("clip", {}), batch_of([0, 0])
    tokens = step_flops(method, batch, INPUTS)
    batch.texts = torch.randn(2, 12, dtype=torch.float64)
    assert tokens - step_flops(method, batch, INPUTS) == 2 * text_flops(method.encoder, 8)


def test_mosaic_flops_depend_on_its_size() -> None:
    small, large = (step_flops(made("clim", {"mosaic_size": size}), batch_for("clim"), INPUTS) for size in (16, 32))
    assert large > 2 * small


def test_term_of_weight_zero_has_no_flops() -> None:
    batch = batch_of([2, 1])

    def cost(**weights: float) -> float:
        method = made("fineclip", {"weights": weights})
        return step_flops(method, batch, INPUTS)

    encoder = made("fineclip", {}).encoder
    assert cost() - cost(region=0) == pytest.approx(3 * text_flops(encoder, 8))
    assert cost() - cost(distill=0) == pytest.approx(3 * image_flops(encoder, 8, 8, gradient="kept"))
    shared, dense = (
        image_flops(encoder, IMAGE_PX, IMAGE_PX, path=path, gradient="kept") for path in ("shared", "dense")
    )
    assert cost() - cost(**{"global": 0}) == pytest.approx(2 * (shared - dense) + 2 * text_flops(encoder, 8))

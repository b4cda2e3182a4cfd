"""Ours and the plain formulation are one function, whatever order ours computes it in; and the check would see if not."""

from pathlib import Path

import pytest
import torch

from benchmarks.equality import difference, differences, outcome, require_equal
from benchmarks.inputs import Step, build_method, packed, padded, random_encoder, random_step
from benchmarks.plain import OurKernels, dropped, plain_loss
from fineclip.methods.fineclip import FineCLIP
from fineclip.train.grad_cache import GradCache, MicroBatchSizes
from tests.helpers.encoders import encoder_config

SIDE = 32


@pytest.fixture
def method(tmp_path: Path) -> FineCLIP:
    return build_method(random_encoder(encoder_config(tmp_path, "eva").model, size=SIDE))


def step_for(method: FineCLIP) -> Step:
    return random_step(method.encoder, [3, 0, 2], size=SIDE)


@pytest.mark.parametrize(
    ("sizes", "checkpointing"),
    [
        (MicroBatchSizes(), False),
        (MicroBatchSizes(crops=2), False),
        (MicroBatchSizes(crops=2, images=1), True),
        (MicroBatchSizes(crops=4, pad_crops=True), False),
    ],
)
def test_loss_and_gradients_are_those_of_the_official_formulation(
    method: FineCLIP, sizes: MicroBatchSizes, checkpointing: bool
) -> None:
    method.encoder.trunk.checkpointing = checkpointing
    found = differences(method, step_for(method), sizes)
    assert set(found) == {"our kernels", "upstream's trunk"}
    for each in found.values():
        assert each.is_rounding, found


def test_without_gradient_through_the_crops(method: FineCLIP) -> None:
    relaxed = build_method(method.encoder, {"relaxed": {"detach_crops": True}})
    step = step_for(method)
    assert all(each.is_rounding for each in differences(relaxed, step).values())
    attached, detached = (
        outcome(each, lambda each=each: GradCache(each)(packed(step)).total) for each in (method, relaxed)
    )
    assert difference(detached, attached).gradients > 0.01


def test_another_objective_is_refused(method: FineCLIP) -> None:
    method.weights["region"] = 0.9
    with pytest.raises(SystemExit, match="differ"):
        require_equal(method, step_for(method))


def test_rows_of_zeros_are_dropped_with_their_gradient() -> None:
    rows = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 0.0]], requires_grad=True)
    kept = dropped(rows)
    kept.sum().backward()
    assert kept.tolist() == [[1.0, 2.0], [3.0, 0.0]]
    assert rows.grad is not None and rows.grad.tolist() == [[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]


def test_the_template_does_not_change_the_plain_loss(method: FineCLIP) -> None:
    step, kernels = step_for(method), OurKernels(method.encoder)
    few, many = (plain_loss(method.encoder, kernels, padded(step, slots=slots)).item() for slots in (3, 20))
    assert few == pytest.approx(many, rel=1e-6)

"""Losses, gradients, schedule and parameter groups as the authors' own code gives them."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fineclip.config import FineCLIPConfig, parse
from fineclip.methods import FineCLIP
from fineclip.methods.contrastive import contrastive_loss
from fineclip.models.checkpoint import as_open_clip, load_encoder
from fineclip.train.optim import learning_rate
from fineclip.types import Batch, Counts
from tests.helpers.encoders import encoder_config
from tests.helpers.processes import run_processes
from tests.helpers.tiny import parts_of

GOLDEN = Path(os.environ.get("FINECLIP_GOLDEN", "../shared/golden")).absolute()
pytestmark = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason=f"no golden vectors at {GOLDEN} (FINECLIP_GOLDEN says where)"
)

TERMS = {"distill": "distill", "global_itc": "global", "region_itc": "region", "total": "total"}
REGIONS_PER_IMAGE = (3, 1, 0, 5)


def arrays(name: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / name) as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored.files}


def values(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


def batch_of_the_authors() -> Batch:
    given = arrays("eva_tiny/inputs.npz")
    return Batch(
        keys=tuple("abcd"),
        counts=Counts([4], [9]),
        images=given["images"],
        texts=given["caption_tokens"],
        boxes=given["boxes"],
        box_to_image=given["box_to_image"],
        region_texts=given["region_tokens"],
        crops=given["crops"],
    )


def method_of(folder: Path, **options: Any) -> FineCLIP:
    encoder = load_encoder(encoder_config(folder, "eva"), GOLDEN / "eva_tiny/weights.safetensors")
    return FineCLIP(encoder, parse(FineCLIPConfig, options, where="test"))


def gradients_of(method: FineCLIP) -> dict[str, Tensor]:
    return {name: value.grad for name, value in method.encoder.named_parameters() if value.grad is not None}


def expected_gradients(stored: dict[str, Tensor], case: str) -> dict[str, Tensor]:
    official = {name.rpartition("/")[2]: value for name, value in stored.items() if name.rpartition("/")[0] == case}
    # the map of names needs to see that they are the authors'
    return as_open_clip({"visual.blocks.0.": torch.zeros(()), **official})


def assert_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    names = [name for name in expected if not name.endswith(".")]
    assert len(names) >= 8
    for name in names:
        tolerance = 1e-5 + 1e-4 * expected[name].abs().max().item()
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("branch", ["attached", "detached"])
def test_fineclip_values_and_gradients(tmp_path: Path, branch: str) -> None:
    method = method_of(tmp_path, crop_gradient=branch == "attached")
    losses = method(batch_of_the_authors())
    found = {"total": losses.total.item(), **{name: term.item() for name, term in losses.terms.items()}}
    expected = values("losses/meta_eva.json")["fineclip_w1"][f"unpadded_{branch}"]
    for theirs, ours in TERMS.items():
        assert found[ours] == pytest.approx(expected[theirs], rel=1e-5)
    losses.total.backward()
    assert_gradients(
        gradients_of(method), expected_gradients(arrays("losses/fineclip_w1_grads.npz"), f"{branch}/total")
    )


@pytest.mark.parametrize(
    ("case", "weights"),
    [
        ("attached/distill", {"global": 0, "region": 0}),
        ("attached/global_itc", {"region": 0, "distill": 0}),
        ("attached/region_itc", {"global": 0, "distill": 0}),
        ("detached/distill", {"global": 0, "region": 0}),
    ],
)
def test_fineclip_gradients_of_each_term(tmp_path: Path, case: str, weights: dict[str, float]) -> None:
    method = method_of(tmp_path, weights=weights, crop_gradient=case.startswith("attached"))
    method(batch_of_the_authors()).total.backward()
    found = gradients_of(method)
    assert_gradients(found, expected_gradients(arrays("losses/fineclip_w1_grads.npz"), case))
    for name in values("losses/meta_eva.json")["gradient_absent"][case]:
        renamed = as_open_clip({"visual.blocks.0.": torch.zeros(()), name: torch.zeros(())})
        assert not renamed.keys() & found.keys(), name


def test_two_processes_give_the_exact_gradient_of_the_full_batch(tmp_path: Path) -> None:
    results = run_processes(one_of_two, range(2), [tmp_path] * 2)
    expected = expected_gradients(arrays("losses/fineclip_w1_grads.npz"), "attached/total")
    total = values("losses/meta_eva.json")["fineclip_w1"]["unpadded_attached"]["total"]
    assert sum(value for value, _ in results) / 2 == pytest.approx(total, rel=1e-5)
    mean = {name: (results[0][1][name] + results[1][1][name]) / 2 for name in results[0][1]}
    assert_gradients(mean, expected)


def one_of_two(rank: int, folder: Path) -> tuple[float, dict[str, Tensor]]:
    method = method_of(folder)
    losses = method(parts_of(batch_of_the_authors(), REGIONS_PER_IMAGE, (2, 2))[rank])
    losses.total.backward()
    return losses.total.item(), gradients_of(method)


@pytest.mark.parametrize("scale", [1, 10, 100])
def test_contrastive_loss_is_cliploss(scale: int) -> None:
    stored = arrays("losses/cliploss.npz")
    left, right = (stored[f"{side}_features"].clone().requires_grad_() for side in ("image", "text"))
    factor = torch.tensor(float(scale), requires_grad=True)
    loss = contrastive_loss(left, right, scale=factor, counts=[16])
    loss.backward()
    assert loss.item() == pytest.approx(stored[f"loss_s{scale}"].item(), rel=1e-5)
    assert factor.grad.item() == pytest.approx(stored[f"grad_scale_s{scale}"].item(), abs=1e-5)
    # ours normalises its rows: of their gradient, taken with unit rows, it keeps what turns a row
    for rows, side in ((left, "image"), (right, "text")):
        gradient, unit = stored[f"grad_{side}_s{scale}"], stored[f"{side}_features"]
        turning = gradient - (gradient * unit).sum(dim=1, keepdim=True) * unit
        torch.testing.assert_close(rows.grad, turning, rtol=1e-5, atol=1e-5)


def test_learning_rates() -> None:
    for schedule in values("schedule/lr.json")["schedules"]:
        for step, expected in zip(schedule["steps"], schedule["lr"], strict=True):
            rate = learning_rate(step, of=schedule["total"], peak=schedule["base_lr"], warmup=schedule["warmup"])
            assert rate == pytest.approx(expected, rel=1e-9)


def test_parameter_groups(tmp_path: Path) -> None:
    method = method_of(tmp_path)
    expected = values("schedule/param_groups_eva_tiny.json")["fineclip_no_lock"]
    names = {id(parameter): name for name, parameter in method.encoder.named_parameters()}
    for group in method.parameter_groups():
        official = expected["trainable_decay" if group.decays else "trainable_no_decay"]
        renamed = as_open_clip({name: torch.zeros(()) for name in official})
        assert {names[id(parameter)] for parameter in group.parameters} == set(renamed)

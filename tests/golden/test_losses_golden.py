"""FineCLIP's and CLIP's losses and gradients as the authors' own code gives them, on one process and on two.

Where ours differ on purpose the difference is what is tested: our gradient on several processes is that of the whole batch,
and it is also rebuilt here into what each of the authors' GPUs computes.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from fineclip.config import FineCLIPConfig, parse
from fineclip.losses.contrastive import contrastive_loss
from fineclip.methods.fineclip import FineCLIP
from fineclip.train.grad_cache import GradCache
from fineclip.types import Batch, Counts
from tests.helpers.golden import arrays, batch_of_the_authors, loaded_encoder, ours, values
from tests.helpers.processes import run_processes
from tests.helpers.tiny import part_of, parts_of

TERMS = {"distill": "distill", "global_itc": "global", "region_itc": "region"}  # theirs, ours
W1, W2 = "losses/fineclip_w1_grads.npz", "losses/fineclip_w2_grads.npz"
BRANCHES = ("attached", "detached")


def regions_per_image(batch: Batch) -> list[int]:
    return torch.bincount(batch.box_to_image, minlength=len(batch.images)).tolist()


def method_of(folder: Path, branch: str, *, terms: str = "total") -> FineCLIP:
    """FineCLIP on the golden weights, with one of its terms or all, by the authors' names."""
    wanted = TERMS.values() if terms == "total" else [TERMS[name] for name in terms.split("+")]
    options = {
        "weights": {name: float(name in wanted) for name in TERMS.values()},
        "relaxed": {"detach_crops": branch == "detached"},
    }
    return FineCLIP(loaded_encoder("eva_tiny", folder), parse(FineCLIPConfig, options, where="test"))


class Outcome(NamedTuple):
    """The terms of a loss by the authors' names, with their total, and every gradient."""

    values: dict[str, float]
    gradients: dict[str, Tensor]


def outcome_of(method: FineCLIP, batch: Batch) -> Outcome:
    losses = GradCache(method)(batch)
    losses.total.backward()
    found = {"total": losses.total.item()}
    found |= {theirs: losses.terms[name].item() for theirs, name in TERMS.items() if name in losses.terms}
    return Outcome(
        found,
        {name: value.grad for name, value in method.encoder.named_parameters() if value.grad is not None},
    )


@cache
def stored_gradients(name: str) -> dict[str, dict[str, Tensor]]:
    """Gradients by case, each by the name of its parameter here."""
    official: dict[str, dict[str, Tensor]] = {}
    for place, value in arrays(name).items():
        case, _, parameter = place.rpartition("/")
        official.setdefault(case, {})[parameter] = value
    return {case: ours(gradients) for case, gradients in official.items()}


def assert_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert expected
    for name, gradient in expected.items():
        tolerance = 1e-5 + 1e-4 * gradient.abs().max().item()
        torch.testing.assert_close(
            found[name], gradient, rtol=0, atol=tolerance, msg=lambda text, at=name: f"{at}: {text}"
        )


def absent(case: str) -> set[str]:
    return set(ours({name: torch.zeros(()) for name in values("losses/meta_eva.json")["gradient_absent"][case]}))


@pytest.mark.parametrize("branch", BRANCHES)
def test_values(tmp_path: Path, branch: str) -> None:
    expected = values("losses/meta_eva.json")["fineclip_w1"][f"unpadded_{branch}"]
    assert outcome_of(method_of(tmp_path, branch), batch_of_the_authors()).values == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("term", ["total", *TERMS])
@pytest.mark.parametrize("branch", BRANCHES)
def test_gradients_of_each_term(tmp_path: Path, branch: str, term: str) -> None:
    """A detached crop branch changes the gradient of the distillation and nothing else."""
    case = f"{branch}/{term}" if term in ("total", "distill") else f"attached/{term}"
    found = outcome_of(method_of(tmp_path, branch, terms=term), batch_of_the_authors()).gradients
    expected = stored_gradients(W1)[case]
    assert_gradients(found, expected)
    assert not absent(case) & found.keys()
    assert not absent(case) & expected.keys()


@pytest.mark.parametrize("branch", BRANCHES)
def test_padding_is_all_that_their_single_gpu_differs_in(tmp_path: Path, branch: str) -> None:
    """There zero rows fill the regional contrast up to `max_boxes` for each image; here they do not exist."""
    meta, batch = values("losses/meta_eva.json"), batch_of_the_authors()
    expected = meta["fineclip_w1"][f"padded_{branch}"]
    method = method_of(tmp_path, branch)
    rows = method.encode(batch)
    more = expected["rows"] - len(rows.region)
    assert more == len(batch.images) * meta["max_boxes"] - meta["rows"] > 0
    scale = method.encoder.logit_scale.exp()
    region, text = (pad(values_RD, (0, 0, 0, more)) for values_RD in (rows.region, rows.region_caption))
    padded = contrastive_loss(region, text, logit_scale=scale, counts=[expected["rows"]])
    losses = GradCache(method)(batch)
    others = losses.terms
    total = (
        losses.total
        + padded
        - contrastive_loss(rows.region, rows.region_caption, logit_scale=scale, counts=batch.counts.regions)
    )
    assert padded.item() == pytest.approx(expected["region_itc"], rel=1e-5)
    assert total.item() == pytest.approx(expected["total"], rel=1e-5)
    assert {name: others[TERMS[name]].item() for name in ("distill", "global_itc")} == pytest.approx(
        {name: expected[name] for name in ("distill", "global_itc")}, rel=1e-5
    )
    total.backward()
    found = {name: value.grad for name, value in method.encoder.named_parameters() if value.grad is not None}
    assert_gradients(found, stored_gradients(W1)[f"padded_{branch}/total"])


class Share(NamedTuple):
    """What one of our processes finds: everything together, the contrastive terms, the distillation of its own rows."""

    whole: Outcome
    contrastive: Outcome
    each: dict[str, Outcome]
    local: Outcome


def shares(folder: Path, branch: str) -> list[Share]:
    folders = [folder / str(rank) for rank in range(2)]
    for own in folders:
        own.mkdir()
    return run_processes(share_of, range(2), folders, [branch] * 2)


def share_of(rank: int, folder: Path, branch: str) -> Share:
    batch = batch_of_the_authors()
    images = len(batch.images) // 2
    part = parts_of(batch, regions_per_image(batch), (images, images))[rank]
    alone = part_of(batch, range(rank * images, (rank + 1) * images), Counts([images], [part.counts.regions[rank]]))
    return Share(
        outcome_of(method_of(folder, branch), part),
        outcome_of(method_of(folder, branch, terms="global_itc+region_itc"), part),
        {term: outcome_of(method_of(folder, branch, terms=term), part) for term in ("global_itc", "region_itc")},
        outcome_of(method_of(folder, branch, terms="distill"), alone),
    )


def mean_of(outcomes: list[Outcome]) -> Outcome:
    return Outcome(
        {name: sum(found.values[name] for found in outcomes) / len(outcomes) for name in outcomes[0].values},
        {
            name: torch.stack([found.gradients[name] for found in outcomes]).mean(dim=0)
            for name in outcomes[0].gradients
        },
    )


@pytest.mark.parametrize("branch", BRANCHES)
def test_two_processes(tmp_path: Path, branch: str) -> None:
    """Together they give value and gradient of the whole batch; taken apart, those of the authors' two GPUs.

    There a process sees the gradient of the whole contrastive loss through its own rows only, and that of the inverse
    temperature in full; the distillation is a mean over its own rows.
    """
    found = shares(tmp_path, branch)
    meta, stored = values("losses/meta_eva.json"), stored_gradients(W2)
    whole = mean_of([share.whole for share in found])
    assert whole.values == pytest.approx(meta["fineclip_w1"][f"unpadded_{branch}"], rel=1e-5)
    assert_gradients(whole.gradients, stored_gradients(W1)[f"{branch}/total"])

    contrastive = mean_of([share.contrastive for share in found])
    theirs = [as_on_their_gpu(share, contrastive, processes=len(found)) for share in found]
    for rank, (share, gradients) in enumerate(zip(found, theirs, strict=True)):
        expected = meta["fineclip_w2"][branch][f"rank{rank}"]
        assert share.local.values["distill"] == pytest.approx(expected["distill"], rel=1e-5)
        assert contrastive.values["total"] + share.local.values["distill"] == pytest.approx(expected["total"], rel=1e-5)
        for term in ("global_itc", "region_itc"):
            assert contrastive.values[term] == pytest.approx(expected[term], rel=1e-5)
        if f"{branch}/rank{rank}/total" in stored:
            assert_gradients(gradients, stored[f"{branch}/rank{rank}/total"])
    assert_gradients(summed(theirs), stored[f"{branch}/sum/total"])
    if f"{branch}/sum/distill" in stored:
        assert_gradients(summed([share.local.gradients for share in found]), stored[f"{branch}/sum/distill"])
    for term in ("global_itc", "region_itc"):
        if f"{branch}/sum/{term}" in stored:
            gradient = mean_of([share.each[term] for share in found]).gradients["logit_scale"]
            assert_gradients({"logit_scale": len(found) * gradient}, stored[f"{branch}/sum/{term}"])


def as_on_their_gpu(share: Share, contrastive: Outcome, *, processes: int) -> dict[str, Tensor]:
    own = {name: gradient / processes for name, gradient in share.contrastive.gradients.items()}
    return summed([own | {"logit_scale": contrastive.gradients["logit_scale"]}, share.local.gradients])


def summed(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A gradient that only some have counts as 0 in the others."""
    names = {name for part in parts for name in part}
    return {name: torch.stack([part[name] for part in parts if name in part]).sum(dim=0) for name in names}


def scales() -> list[str]:
    names = arrays("losses/cliploss.npz")
    return sorted(name.removeprefix("loss_s") for name in names if name.startswith("loss_s"))


@pytest.mark.parametrize("scale", scales())
def test_contrastive_loss_is_cliploss(scale: str) -> None:
    stored = arrays("losses/cliploss.npz")
    left, right = (stored[f"{side}_features"].clone().requires_grad_() for side in ("image", "text"))
    factor = torch.tensor(float(scale), requires_grad=True)
    loss = contrastive_loss(left, right, logit_scale=factor, counts=[len(left)])
    loss.backward()
    assert loss.item() == pytest.approx(stored[f"loss_s{scale}"].item(), rel=1e-5)
    assert factor.grad.item() == pytest.approx(stored[f"grad_scale_s{scale}"].item(), abs=1e-5)
    # ours normalizes its rows: of their gradient, taken with unit rows, it keeps what turns a row
    for rows, side in ((left, "image"), (right, "text")):
        gradient, unit = stored[f"grad_{side}_s{scale}"], stored[f"{side}_features"]
        turning = gradient - (gradient * unit).sum(dim=1, keepdim=True) * unit
        torch.testing.assert_close(rows.grad, turning, rtol=1e-5, atol=1e-5)

"""What the methods compute, what they leave alone, and that several processes are one."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fineclip.config import CLIPConfig, FineCLIPConfig, TrainConfig, parse
from fineclip.errors import ConfigError
from fineclip.losses.contrastive import contrastive_loss
from fineclip.losses.distillation import distillation_loss
from fineclip.methods import METHODS
from fineclip.methods.clip import CLIP
from fineclip.methods.fineclip import Features, FineCLIP
from fineclip.train.distributed import DistributedContext
from fineclip.train.grad_cache import GradCache, MicroBatchSizes
from fineclip.train.optim import build_optimizer
from tests.helpers.methods import assert_processes_equal_one, made, outcome_of, outcome_of_part
from tests.helpers.processes import run_processes
from tests.helpers.tiny import batch_of, parts_of, tiny_encoder


def fineclip(**options: Any) -> FineCLIP:
    return FineCLIP(tiny_encoder(), parse(FineCLIPConfig, options, where="test"))


def test_distillation_by_hand() -> None:
    region = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    crop = torch.tensor([[3.0, 0.0], [1.0, 1.0]])
    expected = (0 + 1 - math.sqrt(0.5)) / 2
    assert distillation_loss(region, crop, counts=[2]).item() == pytest.approx(expected)


def test_clip_is_the_contrast_of_images_and_captions() -> None:
    method, batch = CLIP(tiny_encoder(), CLIPConfig()), batch_of([1, 0, 2])
    encoder = method.encoder
    expected = contrastive_loss(
        encoder.encode_image(batch.images),
        encoder.encode_text(batch.texts),
        logit_scale=encoder.logit_scale.exp(),
        counts=[3],
    )
    losses = GradCache(method)(batch)
    torch.testing.assert_close(losses.total, expected)
    assert set(losses.terms) == {"global"}


def test_fineclip_is_the_weighted_sum_of_its_terms() -> None:
    method, batch = fineclip(weights={"global": 2.0, "region": 0.5, "distill": 3.0}), batch_of([1, 0, 2])
    encoder, scale = method.encoder, method.encoder.logit_scale.exp()
    region = encoder.encode_regions(batch.images, batch.boxes, batch.box_to_image)
    crop = encoder.encode_image(batch.crops)
    expected = {
        "global": contrastive_loss(
            encoder.encode_image(batch.images), encoder.encode_text(batch.texts), logit_scale=scale, counts=[3]
        ),
        "region": contrastive_loss(region, encoder.encode_text(batch.region_texts), logit_scale=scale, counts=[3]),
        "distill": (1 - torch.cosine_similarity(region, crop)).mean(),
    }
    losses = GradCache(method)(batch)
    for name, value in expected.items():
        torch.testing.assert_close(losses.terms[name], value.detach())
    torch.testing.assert_close(
        losses.total, 2 * expected["global"] + 0.5 * expected["region"] + 3 * expected["distill"]
    )


def test_a_batch_without_regions_has_two_terms_of_zero() -> None:
    losses = GradCache(fineclip())(batch_of([0, 0]))
    assert losses.terms["region"].item() == losses.terms["distill"].item() == 0
    losses.total.backward()
    assert losses.terms["global"].item() > 0


@pytest.mark.parametrize("absent", ["global", "region", "distill"])
def test_a_term_of_weight_0_is_not_computed(absent: str) -> None:
    method, batch = fineclip(weights={absent: 0}), batch_of([1, 2])
    unneeded = {"global": "texts", "region": "region_texts", "distill": "crops"}[absent]
    setattr(batch, unneeded, None)
    losses = GradCache(method)(batch)
    assert set(losses.terms) == {"global", "region", "distill"} - {absent}


def test_without_region_and_distill_fineclip_is_clip() -> None:
    batch = batch_of([1, 2])
    losses = GradCache(fineclip(weights={"region": 0, "distill": 0}))(batch)
    assert torch.equal(losses.total, GradCache(CLIP(tiny_encoder(), CLIPConfig()))(batch).total)


def test_nothing_to_learn_is_refused() -> None:
    with pytest.raises(ConfigError, match="weights: all are 0"):
        fineclip(weights={"global": 0, "region": 0, "distill": 0})


def test_detached_crops_switch_the_gradient_and_not_the_value() -> None:
    batch, only_distill = batch_of([2, 1]), {"global": 0, "region": 0}
    attached = fineclip(weights=only_distill)
    detached = fineclip(weights=only_distill, relaxed={"detach_crops": True})
    losses = [GradCache(method)(batch) for method in (attached, detached)]
    assert torch.equal(losses[0].total, losses[1].total)
    for one in losses:
        one.total.backward()
    # the last block's attention serves crops alone: regions take the block without it
    name = "encoder.visual.transformer.resblocks.1.attn.out_proj.weight"
    gradients = [dict(method.named_parameters())[name].grad for method in (attached, detached)]
    assert not torch.allclose(gradients[0], gradients[1], rtol=1e-2)
    position = [
        dict(method.named_parameters())["encoder.visual.class_embedding"].grad for method in (attached, detached)
    ]
    assert position[0].abs().sum() > 0


@pytest.mark.parametrize("name", ["clip", "clim", "fineclip"])  # in which texts may learn
def test_text_is_frozen_unless_asked(name: str) -> None:
    batch, method_class = batch_of([1, 2]), METHODS[name]
    for train_text in (False, True):
        method = method_class(tiny_encoder(), method_class.config_type(train_text=train_text))
        GradCache(method)(batch).total.backward()
        gradients = [parameter.grad for _, parameter in method.encoder.text_parameters()]
        assert all((gradient is not None) == train_text for gradient in gradients)
        assert method.encoder.transformer.training == train_text
        assert method.encoder.visual.training
        trained = {id(p) for group in method.parameter_groups() for p in group.parameters}
        assert any(id(p) in trained for _, p in method.encoder.text_parameters()) == train_text


def test_weight_decay_is_for_matrices_alone() -> None:
    method = CLIP(tiny_encoder(), CLIPConfig(train_text=True))
    names = {id(parameter): name for name, parameter in method.encoder.named_parameters()}
    groups = {group.decays: {names[id(p)] for p in group.parameters} for group in method.parameter_groups()}
    assert set().union(*groups.values()) == set(names.values())
    assert {"visual.proj", "visual.conv1.weight", "visual.positional_embedding", "text_projection"} <= groups[True]
    assert {"logit_scale", "visual.class_embedding", "visual.ln_pre.weight", "ln_final.bias"} <= groups[False]
    optimizer = build_optimizer(method.parameter_groups(), TrainConfig(weight_decay=0.3))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]


@pytest.mark.parametrize(("before", "after"), [(-1.0, 0.0), (3.0, 3.0), (9.0, math.log(100))])
def test_inverse_temperature_stays_within_1_and_100(before: float, after: float) -> None:
    method = CLIP(tiny_encoder(), CLIPConfig())
    method.encoder.logit_scale.data.fill_(before)
    method.on_step_end(0, 10)
    assert method.encoder.logit_scale.item() == pytest.approx(after)


def test_a_parameter_that_takes_no_part_stays_as_it_is() -> None:
    method = fineclip(weights={"global": 0, "region": 0}, relaxed={"detach_crops": True})
    optimizer = build_optimizer(method.parameter_groups(), TrainConfig(weight_decay=0.5, learning_rate=0.1))
    before = method.encoder.logit_scale.item()
    GradCache(method)(batch_of([1])).total.backward()
    assert method.encoder.logit_scale.grad is None
    optimizer.step()
    assert method.encoder.logit_scale.item() == before


REGIONS = (2, 0, 1, 3, 0, 0)
SPLITS: Mapping[int, tuple[tuple[int, ...], ...]] = {
    2: ((4, 2), (5, 1), (0, 6)),  # images of each process: in all three the other has no region, or no image
    3: ((1, 1, 4), (3, 1, 2)),
}
VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("clip", {}),
    ("fineclip", {"train_text": True}),
    ("fineclip", {"relaxed": {"detach_crops": True}, "weights": {"global": 0}}),
    ("clipself", {}),
    ("clipself", {"unlocked_blocks": 1}),
)


@pytest.mark.parametrize("world_size", SPLITS)
def test_processes_equal_one(world_size: int) -> None:
    cases = [
        (name, options, regions, split)
        for split in SPLITS[world_size]
        for name, options in VARIANTS
        for regions in (REGIONS, (0,) * 6)
        if any(regions) or options.get("weights") is None
    ]
    everywhere = run_processes(each_case, range(world_size), [cases] * world_size)
    for number, case in enumerate(cases):
        name, options, regions, _ = case
        whole = outcome_of(made(name, options), batch_of(regions))
        assert_processes_equal_one([outcomes[number] for outcomes in everywhere], whole, case)


def each_case(rank: int, cases: list[Any]) -> list[Any]:
    return [
        outcome_of_part(made(name, options), parts_of(batch_of(regions), regions, split)[rank])
        for name, options, regions, split in cases
    ]


@pytest.mark.parametrize("world_size", [2, 3])
def test_weights_are_equal_on_all_processes_after_five_steps(world_size: int) -> None:
    everywhere = run_processes(five_steps, range(world_size), [world_size] * world_size)
    for weights in everywhere[1:]:
        assert all(torch.equal(weights[name], value) for name, value in everywhere[0].items())
    alone = five_steps(0, 1)
    for name, value in alone.items():
        torch.testing.assert_close(everywhere[0][name], value, rtol=1e-9, atol=1e-11, msg=name)
    untouched = tiny_encoder().state_dict()
    assert not torch.equal(alone["visual.proj"], untouched["visual.proj"])


def five_steps(rank: int, world_size: int) -> dict[str, Tensor]:
    method = made("fineclip", {})
    processes = DistributedContext(rank, world_size, torch.device("cpu"))
    wrapped = processes.wrap(GradCache(method))
    optimizer = torch.optim.SGD([p for g in method.parameter_groups() for p in g.parameters], lr=0.1)
    split = {1: (6,), 2: (4, 2), 3: (1, 1, 4)}[world_size]
    for step in range(5):
        optimizer.zero_grad()
        losses = wrapped(parts_of(batch_of(REGIONS, seed=step), REGIONS, split)[rank])
        losses.total.backward()
        processes.require_equal_gradients(method)
        optimizer.step()
        method.on_step_end(step, 5)
    return method.encoder.state_dict()


def test_the_weight_of_crops_multiplies_their_finished_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """In every bit, if crops are back-propagated in micro-batches; dense features are constants here."""
    batch, gradients = batch_of([2, 0, 3]), []
    batch = replace(batch, **{name: getattr(batch, name).float() for name in ("images", "boxes", "crops")})
    for weight in (1, 0.3):
        options = {"weights": {"global": 0, "region": 0, "distill": weight}}
        method = made("fineclip", options).float()
        region_RD = method.encode(batch).region.detach()
        features = Features(None, None, region_RD, None)
        monkeypatch.setattr(method, "encode", lambda _, features=features: features)
        GradCache(method, MicroBatchSizes(crops=2))(batch).total.backward()
        gradients.append([value.grad for value in method.parameters() if value.grad is not None])
    assert len(gradients[0]) > 10
    assert all(torch.equal(0.3 * one, other) for one, other in zip(*gradients, strict=True))

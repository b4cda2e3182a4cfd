"""Trained parameters and exported weights."""

from typing import Any

import pytest
import torch

from fineclip.config import CLIPConfig, FineCLIPConfig, TrainConfig
from fineclip.methods.base import frozen_copy, interpolate_weights
from fineclip.methods.clip import CLIP
from fineclip.methods.fineclip import FineCLIP
from fineclip.models.encoder import RegionEncoder
from fineclip.train.grad_cache import GradCache
from fineclip.train.optim import build_optimizer
from tests.helpers.tiny import batch_of, tiny_encoder

BLOCK = "visual.transformer.resblocks."


def trained_names(method: CLIP | FineCLIP) -> set[str]:
    return {name for name, value in method.encoder.named_parameters() if value.requires_grad}


def test_vision_tower_and_logit_scale_are_trained() -> None:
    method = CLIP(tiny_encoder(), CLIPConfig())
    expected = {name for name, _ in method.encoder.vision_parameters()} | {"logit_scale"}
    assert trained_names(method) == expected


@pytest.mark.parametrize(("trained", "blocks"), [(1, "1"), (2, "01"), (7, "01")])
def test_only_last_blocks_are_trained(trained: int, blocks: str) -> None:
    method = CLIP(tiny_encoder(), CLIPConfig(unlocked_blocks=trained))
    names = [name for name, _ in method.encoder.vision_parameters()]
    assert len([name for name in names if name.startswith(BLOCK)]) == 24
    expected = {name for name in names if name.startswith(BLOCK) and name.removeprefix(BLOCK)[0] in blocks}
    assert trained_names(method) == expected | {"logit_scale"}


def test_frozen_modules_stay_unchanged_and_in_evaluation_mode() -> None:
    method = CLIP(tiny_encoder(), CLIPConfig(unlocked_blocks=1))
    before = {name: value.clone() for name, value in method.encoder.state_dict().items()}
    optimizer = build_optimizer(method.parameter_groups(), TrainConfig(weight_decay=0.5, learning_rate=0.1))
    GradCache(method)(batch_of([1, 1])).total.backward()
    optimizer.step()
    changed = {name for name, value in method.encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == trained_names(method)
    blocks = method.encoder.trunk.blocks
    assert [block.training for block in blocks] == [False, True]
    assert not method.encoder.transformer.training


@pytest.mark.parametrize(
    ("options", "keeps"), [({}, False), ({"wise_ft_alpha": 0.7}, True), ({"wise_ft_alpha": 0.0}, True)]
)
def test_teacher_is_kept_only_for_a_mixture(options: dict[str, Any], keeps: bool) -> None:
    method = FineCLIP(tiny_encoder(), FineCLIPConfig(**options))
    assert (method.teacher is not None) == keeps
    names = [name for name, _ in method.named_parameters()]
    assert any(name.startswith("teacher.") for name in names) == keeps
    trained = {id(parameter) for group in method.parameter_groups() for parameter in group.parameters}
    assert trained == {id(p) for p in method.encoder.parameters() if p.requires_grad}


def test_a_frozen_copy_shares_nothing() -> None:
    encoder = tiny_encoder().train()
    copy = frozen_copy(encoder)
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    assert not any(module.training for module in copy.modules())
    encoder.logit_scale.data.fill_(1.5)
    assert copy.logit_scale.item() != 1.5
    assert encoder.training and encoder.logit_scale.requires_grad


def assert_mixed(found: RegionEncoder, trained: RegionEncoder, initial: RegionEncoder, alpha: float) -> None:
    one, other = trained.state_dict(), initial.state_dict()
    for name, value in found.state_dict().items():
        expected = (alpha * one[name].double() + (1 - alpha) * other[name].double()).to(value.dtype)
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7, msg=name)


def test_a_mixture_by_hand() -> None:
    trained, initial = tiny_encoder(0, torch.float32), tiny_encoder(1, torch.float32)
    trained.logit_scale.data.fill_(2.0)
    initial.logit_scale.data.fill_(1.0)
    mixed = interpolate_weights(trained, initial, alpha=0.75)
    assert mixed.logit_scale.item() == 1.75
    assert trained.logit_scale.item() == 2.0
    assert initial.logit_scale.item() == 1.0
    assert_mixed(mixed, trained, initial, 0.75)


@pytest.mark.parametrize("alpha", [1.0, 0.7, 0.0])
def test_export_is_a_mixture_and_training_continues_from_trained_weights(alpha: float) -> None:
    method = FineCLIP(tiny_encoder(dtype=torch.float32), FineCLIPConfig(wise_ft_alpha=alpha))
    first = tiny_encoder(dtype=torch.float32)
    with torch.no_grad():
        for parameter in method.encoder.parameters():
            parameter.add_(0.1)
    trained = {name: value.clone() for name, value in method.encoder.state_dict().items()}
    published = method.export_encoder()
    assert_mixed(published, method.encoder, first, alpha)
    assert all(torch.equal(value, trained[name]) for name, value in method.encoder.state_dict().items())
    if alpha == 0:
        assert all(torch.equal(value, first.state_dict()[name]) for name, value in published.state_dict().items())


def test_mixture_of_half_precision_is_computed_in_float32() -> None:
    trained, initial = tiny_encoder(0, torch.bfloat16), tiny_encoder(1, torch.bfloat16)
    trained.logit_scale.data.fill_(4.0)
    initial.logit_scale.data.fill_(2.0)
    # in bfloat16 0.7 is 0.69921875 and 0.3 is 0.30078125; the sum of the two products would be 3.39
    assert interpolate_weights(trained, initial, alpha=0.7).logit_scale.item() == torch.tensor(3.4).bfloat16().item()

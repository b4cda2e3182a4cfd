"""CLIPSelf's loss, gradients, mixture and frozen sets as the authors' own code gives them."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from fineclip.config import CLIPSelfConfig, parse
from fineclip.methods.base import interpolate_weights
from fineclip.methods.clipself import CLIPSelf
from fineclip.models.checkpoints import load_encoder
from fineclip.train.grad_cache import GradCache
from tests.helpers.golden import GOLDEN, arrays, batch_of_the_authors, golden_encoder, ours, values

close = {"atol": 1e-5, "rtol": 1e-5}


def names_here(names: list[str]) -> set[str]:
    return set(ours({name: torch.zeros(()) for name in names}))


def blocks() -> int:
    return int(values("eva_tiny/model_config.json")["timm_trunk"]["kwargs"]["depth"])


def method_of(folder: Path, **options: Any) -> CLIPSelf:
    """The student with the golden weights, and the teacher with its own."""
    config = golden_encoder("eva_tiny", folder)
    method = CLIPSelf(
        load_encoder(config, GOLDEN / "eva_tiny/weights.safetensors"), parse(CLIPSelfConfig, options, where="test")
    )
    teacher = load_encoder(config, GOLDEN / "losses/clipself_teacher.safetensors")
    method.teacher.load_state_dict(teacher.state_dict())
    return method


@pytest.mark.parametrize("case", ["unlocked", "locked"])
def test_loss_gradients_and_what_learns(tmp_path: Path, case: str) -> None:
    stored, expected = arrays("losses/clipself.npz"), values("losses/meta_eva.json")["clipself"][case]
    method = method_of(tmp_path, unlocked_blocks=blocks() if case == "locked" else None)
    batch = batch_of_the_authors()
    torch.testing.assert_close(method.encode_crops(batch.crops), stored["teacher_crop_embed"], **close)
    losses = GradCache(method)(batch)
    assert losses.total.item() == pytest.approx(stored["loss"].item(), rel=1e-5)
    losses.total.backward()

    parameters = dict(method.encoder.named_parameters())
    frozen = {name for name, value in parameters.items() if not value.requires_grad}
    without = {name for name, value in parameters.items() if value.requires_grad and value.grad is None}
    assert frozen == names_here(expected["not_trainable"])
    assert without == names_here(expected["no_gradient_but_trainable"])
    norms = ours({name: torch.tensor(norm) for name, norm in expected["gradient_norms"].items()})
    assert norms.keys() == parameters.keys() - frozen - without
    for name, norm in norms.items():
        assert parameters[name].grad.norm().item() == pytest.approx(norm.item(), rel=1e-4, abs=1e-6), name
    prefix = "clipself/" if case == "unlocked" else "clipself_locked/"
    gradients = ours({k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)})
    assert len(gradients) >= 4
    for name, gradient in gradients.items():
        torch.testing.assert_close(parameters[name].grad, gradient, **close, msg=name)
    assert all(value.grad is None for value in method.teacher.parameters())


def test_what_is_published_is_the_mixture(tmp_path: Path) -> None:
    method = method_of(tmp_path, wise_ft_alpha=0.7)
    expected = ours(arrays("losses/ensemble_alpha07.npz"))
    assert len(expected) >= 5
    for published in (method.export_encoder(), interpolate_weights(method.encoder, method.teacher, alpha=0.7)):
        found = published.state_dict()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, **close, msg=name)


@pytest.mark.parametrize("model", ["eva_tiny", "openai_tiny"])
def test_parameter_groups_of_a_tower_of_which_blocks_train(tmp_path: Path, model: str) -> None:
    settings = {
        name: sets for name, sets in values(f"schedule/param_groups_{model}.json").items() if name != "fineclip_no_lock"
    }
    assert settings
    for setting, expected in settings.items():
        encoder = load_encoder(golden_encoder(model, tmp_path), GOLDEN / model / "weights.safetensors")
        last = re.fullmatch(r"clim_lock_last_(\d+)_groups", setting)
        trained = int(last[1]) if last else len(encoder.trunk.blocks)
        method = CLIPSelf(encoder, CLIPSelfConfig(unlocked_blocks=trained))
        sets = {kind: names_here(names) if model == "eva_tiny" else set(names) for kind, names in expected.items()}
        names = {id(parameter): name for name, parameter in method.encoder.named_parameters()}
        groups = {group.decays: {names[id(p)] for p in group.parameters} for group in method.parameter_groups()}
        assert groups[True] == sets["trainable_decay"], setting
        assert groups[False] == sets["trainable_no_decay"], setting
        assert set(names.values()) - groups[True] - groups[False] == sets["frozen"], setting

"""Learning rates, and which parameters train and decay, as the authors' own code has them."""

from pathlib import Path

import pytest
import torch

from fineclip.config import FineCLIPConfig
from fineclip.methods.fineclip import FineCLIP
from fineclip.train.optim import learning_rate
from tests.helpers.golden import loaded_encoder, ours, values


def test_learning_rates() -> None:
    schedules = values("schedule/lr.json")["schedules"]
    assert schedules
    for schedule in schedules:
        for step, expected in zip(schedule["steps"], schedule["lr"], strict=True):
            rate = learning_rate(step, total=schedule["total"], peak=schedule["base_lr"], warmup=schedule["warmup"])
            assert rate == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize("name", ["eva_tiny", "openai_tiny"])
def test_what_trains_and_decays_where_nothing_is_locked(tmp_path: Path, name: str) -> None:
    method = FineCLIP(loaded_encoder(name, tmp_path), FineCLIPConfig())
    expected = {
        kind: set(ours({parameter: torch.zeros(()) for parameter in names})) if name == "eva_tiny" else set(names)
        for kind, names in values(f"schedule/param_groups_{name}.json")["fineclip_no_lock"].items()
        if isinstance(names, list)
    }
    names = {id(parameter): found for found, parameter in method.encoder.named_parameters()}
    found = {
        "trainable_decay" if group.decays else "trainable_no_decay": {names[id(value)] for value in group.parameters}
        for group in method.parameter_groups()
    }
    found["frozen"] = {found for found, value in method.encoder.named_parameters() if not value.requires_grad}
    assert found == expected

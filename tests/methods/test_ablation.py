"""The rows of the ablation, as the overlay has them: which parameters each leaves without a gradient, and so untouched.

On an EVA-02 tower, where query and key of the last block are parameters of their own.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fineclip.config import FineCLIPConfig, TrainConfig, load, read_files
from fineclip.config.methods import FineCLIPRelaxed
from fineclip.methods.fineclip import FineCLIP
from fineclip.train.grad_cache import GradCache
from fineclip.train.optim import build_optimizer
from fineclip.types import Batch, Counts
from tests.helpers.encoders import TEXT, tiny_encoder

ROOT = Path(__file__).parents[2]
OVERLAY = ROOT / "workflow/presets/studies/table1.yaml"
ATTENTION_OF_LAST_BLOCK = {
    f"visual.trunk.blocks.2.attn.{name}" for name in ("q_proj.weight", "q_proj.bias", "k_proj.weight")
}
WITHOUT_GRADIENT = {  # the dense path takes the last block without attention; no contrast, no temperature
    "distill": {"logit_scale"},
    "global": set(),
    "global.distill": set(),
    "region": ATTENTION_OF_LAST_BLOCK,
    "global.region": set(),
    "all": set(),
}
DETACHED = {**WITHOUT_GRADIENT, "distill": {"logit_scale"} | ATTENTION_OF_LAST_BLOCK}  # crops taught nothing


def options(variant: str, **changes: Any) -> FineCLIPConfig:
    config = load(read_files([ROOT / "config.yaml", OVERLAY]))
    run = next(run for run in config.runs().values() if run.variant == variant)
    section = config.options(run)
    assert isinstance(section, FineCLIPConfig)
    return section.model_copy(update={"train_text": False, **changes})


def batch() -> Batch:
    rng = torch.Generator().manual_seed(0)
    images, regions = 3, 4

    def texts(count: int) -> torch.Tensor:
        tokens = torch.randint(1, 500, (count, TEXT["context_length"]), generator=rng)
        tokens[:, -1] = 511
        return tokens

    corners = torch.rand(regions, 2, 2, generator=rng).sort(dim=1).values.reshape(regions, 4)
    return Batch(
        keys=("a", "b", "c"),
        counts=Counts([images], [regions]),
        images=torch.randn(images, 3, 32, 32, generator=rng),
        texts=texts(images),
        boxes=corners * 0.7 + torch.tensor([0, 0, 0.3, 0.3]),
        box_to_image=torch.tensor([0, 0, 2, 2]),
        region_texts=texts(regions),
        crops=torch.randn(regions, 3, 32, 32, generator=rng),
    )


def test_the_overlay_has_the_rows_of_the_table() -> None:
    assert set(yaml.safe_load(OVERLAY.read_text())["plan"]["variants"]) == set(WITHOUT_GRADIENT)


@pytest.mark.parametrize("detach_crops", [False, True])
@pytest.mark.parametrize("variant", WITHOUT_GRADIENT)
def test_unused_parameters_have_no_gradient_and_no_decay(tmp_path: Path, variant: str, detach_crops: bool) -> None:
    encoder = tiny_encoder(tmp_path, "eva")
    method = FineCLIP(encoder, options(variant, relaxed=FineCLIPRelaxed(detach_crops=detach_crops)))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    optimizer = build_optimizer(method.parameter_groups(), TrainConfig(learning_rate=1e-2, weight_decay=0.5))
    GradCache(method)(batch()).total.backward()
    optimizer.step()
    learning = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    without = {name for name, parameter in encoder.named_parameters() if name in learning and parameter.grad is None}
    assert without == (DETACHED if detach_crops else WITHOUT_GRADIENT)[variant]
    untouched = {name for name, parameter in encoder.named_parameters() if torch.equal(parameter, before[name])}
    assert untouched & learning == without

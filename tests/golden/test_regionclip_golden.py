"""RegionCLIP with labels: loss and gradients as the re-implementation in CLIPSelf's code gives them, on its own subsets."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fineclip.config import RegionCLIPConfig
from fineclip.losses.concepts import federated_loss
from fineclip.methods.regionclip import RegionCLIP
from fineclip.train.grad_cache import GradCache
from fineclip.types import Batch
from tests.helpers.golden import arrays, batch_of_the_authors, loaded_encoder, ours


def subsets() -> list[str]:
    """Names of the stored subsets: a100, a20."""
    stored = arrays("losses/regionclip.npz")
    return sorted(key.removeprefix("subset_") for key in stored if key.startswith("subset_"))


def method_of(folder: Path, stored: dict[str, Tensor], **options: int) -> RegionCLIP:
    return RegionCLIP(loaded_encoder("eva_tiny", folder), RegionCLIPConfig(**options), stored["noun_embeddings_raw"])


def batch_of(stored: dict[str, Tensor], *, seed: int = 0) -> Batch:
    return replace(batch_of_the_authors(), region_labels=stored["labels"], seed=seed)


@pytest.mark.parametrize("name", subsets())
def test_loss_and_gradients_on_the_stored_subset(tmp_path: Path, name: str) -> None:
    stored = arrays("losses/regionclip.npz")
    method, batch = method_of(tmp_path, stored), batch_of(stored)
    drawn_K = torch.zeros(len(method.concept_KD), dtype=torch.bool)
    drawn_K[stored[f"subset_{name}"]] = True
    rows, scale = method.encode(batch), method.encoder.logit_scale.detach().exp()
    assert rows.region is not None and rows.label is not None
    assert scale.item() == pytest.approx(stored["temperature"].item(), rel=1e-6)
    loss = federated_loss(
        rows.region, rows.label, method.concept_KD, drawn_K, logit_scale=scale, counts=batch.counts.regions
    )
    assert loss.item() == pytest.approx(stored[f"loss_{name}"].item(), rel=1e-5)
    loss.backward()
    official = {
        key.removeprefix(f"grad_{name}/"): value for key, value in stored.items() if key.startswith(f"grad_{name}/")
    }
    expected = ours(official)
    found = {key: value.grad for key, value in method.encoder.named_parameters() if value.grad is not None}
    assert len(expected) == len(official) > 0
    for key in expected:
        tolerance = 1e-4 * expected[key].abs().max().item()
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=tolerance, msg=key)


def test_a_step_that_asks_about_all_concepts_is_the_loss_on_all(tmp_path: Path) -> None:
    stored = arrays("losses/regionclip.npz")
    nouns = len(stored["noun_embeddings_raw"])
    method, batch = method_of(tmp_path, stored, concepts_per_step=nouns), batch_of(stored)
    rows = method.encode(batch)
    assert rows.region is not None and rows.label is not None
    cosine = torch.nn.functional.normalize(rows.region, dim=-1) @ method.concept_KD.T
    logit = stored["temperature"].float() * cosine
    is_label = torch.nn.functional.one_hot(stored["labels"], nouns)
    by_hand = -torch.where(is_label > 0, logit.sigmoid().log(), (-logit).sigmoid().log()).sum() / len(cosine)
    assert GradCache(method)(batch).total.item() == pytest.approx(by_hand.item(), rel=1e-5)

"""Regions against concepts: by hand, by definition, and what is drawn, kept and embedded."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fineclip.losses.concepts import (
    concept_contrastive_loss,
    concept_distillation_loss,
    federated_loss,
    sample_concepts,
    teacher_targets,
)
from fineclip.methods.regionclip import embed_concepts
from fineclip.models.prompt_templates import VILD_TEMPLATES, prompts_for
from tests.helpers.tiny import TinyTokenizer, tiny_encoder

CONCEPTS = ("cat", "dog", "tree", "cup", "lamp", "car", "bird")
ONE = torch.tensor(1.0, dtype=torch.float64)


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_federated_loss_by_hand() -> None:
    concepts = torch.eye(3, dtype=torch.float64)
    region = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 4.0]], dtype=torch.float64)
    drawn = torch.tensor([True, True, False])
    # region 0 shows concept 0, region 1 concept 1; cosines of those drawn are (1, 0) and (0, 0.6)
    expected = (softplus(-2) + softplus(0) + softplus(0) + softplus(-1.2)) / 2
    found = federated_loss(region, torch.tensor([0, 1]), concepts, drawn, logit_scale=2 * ONE, counts=[2])
    assert found.item() == pytest.approx(expected, rel=1e-12)


def softplus(value: float) -> float:
    return math.log(1 + math.exp(value))


def test_federated_loss_knows_concepts_by_their_rows_alone() -> None:
    region, concepts, label = rows(4, 6), normalize(rows(5, 6, seed=1), dim=-1), torch.tensor([0, 3, 3, 1])
    drawn, order = torch.tensor([True, True, False, True, True]), torch.tensor([4, 2, 0, 1, 3])
    place = order.argsort()
    one = federated_loss(region, label, concepts, drawn, logit_scale=10 * ONE, counts=[4])
    other = federated_loss(7 * region, place[label], concepts[order], drawn[order], logit_scale=10 * ONE, counts=[4])
    torch.testing.assert_close(one, other)


def test_drawn_are_those_named_and_others_up_to_the_number() -> None:
    label = torch.tensor([3, 17, 3, 40])
    drawn = sample_concepts(label, concepts=50, at_least=10, seed=1, counts=[len(label)])
    assert drawn[label].all() and drawn.sum() == 10
    assert torch.equal(drawn, sample_concepts(label.flip(0), concepts=50, at_least=10, seed=1, counts=[len(label)]))
    assert not torch.equal(drawn, sample_concepts(label, concepts=50, at_least=10, seed=2, counts=[len(label)]))
    assert sample_concepts(
        label, concepts=50, at_least=2, seed=1, counts=[len(label)]
    ).nonzero().flatten().tolist() == [3, 17, 40]
    assert sample_concepts(label, concepts=50, at_least=100, seed=1, counts=[len(label)]).all()
    assert sample_concepts(label[:0], concepts=50, at_least=10, seed=1, counts=[len(label)]).sum() == 10


def test_every_other_concept_is_as_likely() -> None:
    label = torch.tensor([0])
    drawn = torch.stack(
        [sample_concepts(label, concepts=9, at_least=3, seed=seed, counts=[len(label)]) for seed in range(4000)]
    )
    share = drawn.double().mean(dim=0)
    assert share[0] == 1
    torch.testing.assert_close(share[1:], torch.full((8,), 0.25, dtype=torch.float64), atol=0.03, rtol=0)


def test_kept_are_regions_that_the_teacher_is_sure_of() -> None:
    concepts = torch.eye(3, dtype=torch.float64)
    teacher = torch.tensor([[5.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 2.0], [1.0, 0.0, 0.1]], dtype=torch.float64)
    said = teacher_targets(teacher, concepts, temperature=0.1, min_confidence=0.9, counts=[4])
    assert said.label[[0, 2, 3]].tolist() == [0, 2, 0]
    probability = math.exp(10) / (math.exp(10) + 2)
    assert said.log_probability[0, 0].item() == pytest.approx(math.log(probability), rel=1e-9)
    torch.testing.assert_close(said.weight, torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64) / 3)
    assert said.kept_by_label.tolist() == [2, 0, 1]


def test_all_are_kept_where_the_teacher_is_sure_of_none() -> None:
    said = teacher_targets(rows(4, 6), normalize(rows(5, 6), dim=-1), temperature=1.0, min_confidence=0.9, counts=[4])
    assert said.weight.tolist() == [0.25] * 4
    assert said.kept_by_label.sum() == 4


def test_teacher_loss_by_hand_and_0_where_both_agree() -> None:
    concepts = torch.eye(2, dtype=torch.float64)
    teacher, region = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.0, 2.0]]).double()
    said = teacher_targets(teacher, concepts, temperature=1.0, min_confidence=0.1, counts=[1])
    high = math.e / (math.e + 1)  # of the teacher's concept; the student gives it 1 - high
    expected = high * math.log(high / (1 - high)) + (1 - high) * math.log((1 - high) / high)
    assert concept_distillation_loss(region, concepts, said, temperature=1.0).item() == pytest.approx(
        expected, rel=1e-12
    )
    assert concept_distillation_loss(3 * teacher, concepts, said, temperature=1.0).item() == pytest.approx(0, abs=1e-12)


def test_a_region_as_confident_as_the_limit_is_not_kept() -> None:
    teacher, concepts = torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.eye(2)
    said = teacher_targets(teacher, concepts, temperature=0.1, min_confidence=0.0, counts=[2])
    least = said.log_probability.max(dim=1).values.exp()[0].item()
    assert said.weight.tolist() == [0.5, 0.5]
    said = teacher_targets(teacher, concepts, temperature=0.1, min_confidence=least, counts=[2])
    assert said.weight.tolist() == [0, 1]


@pytest.mark.parametrize("min_confidence", [0.0, 0.5, 1.0])
def test_concept_contrast_is_its_definition(min_confidence: float) -> None:
    concepts, region, teacher = normalize(rows(4, 6, seed=1), dim=-1), rows(9, 6, seed=2), rows(9, 6, seed=3)
    said = teacher_targets(teacher, concepts, temperature=0.3, min_confidence=min_confidence, counts=[9])
    kept = (said.weight > 0).nonzero().flatten().tolist()
    assert (len(kept) < 9) == (min_confidence == 0.5) and len(set(said.label[kept].tolist())) < len(kept)
    cosine = normalize(region, dim=-1) @ concepts.T
    losses = []
    for one in kept:
        column = [math.exp(cosine[one, said.label[other]].item() / 0.3) for other in kept]
        same = [value for value, other in zip(column, kept, strict=True) if said.label[other] == said.label[one]]
        losses.append(-math.log(sum(same) / sum(column)))
    found = concept_contrastive_loss(region, concepts, said, temperature=0.3)
    assert found.item() == pytest.approx(sum(losses) / len(losses), rel=1e-12)


def test_a_region_that_is_not_kept_has_no_gradient_and_spoils_none() -> None:
    concepts = torch.eye(3, dtype=torch.float64)
    teacher = torch.tensor([[5.0, 0.0, 0.0], [0.0, 1.0, 0.9]], dtype=torch.float64)
    said = teacher_targets(teacher, concepts, temperature=0.1, min_confidence=0.9, counts=[2])
    region = rows(2, 3).requires_grad_()
    loss = concept_distillation_loss(region, concepts, said, temperature=0.1) + concept_contrastive_loss(
        region, concepts, said, temperature=0.1
    )
    loss.backward()
    assert region.grad is not None and torch.isfinite(region.grad).all()
    assert region.grad[1].abs().sum() == 0 < region.grad[0].abs().sum()


@pytest.mark.parametrize("prompts", ["photo", "vild"])
def test_a_concept_is_the_mean_of_its_prompts(prompts: Any) -> None:
    encoder = tiny_encoder()
    found = embed_concepts(encoder, CONCEPTS, prompts=prompts, tokenize=TinyTokenizer())
    for name, row in zip(CONCEPTS, found, strict=True):
        texts = prompts_for(name, prompts)
        assert len(texts) == {"photo": 1, "vild": len(VILD_TEMPLATES)}[prompts]
        mean = normalize(encoder.encode_text(TinyTokenizer()(texts)), dim=-1).mean(dim=0)
        torch.testing.assert_close(row, mean / mean.norm())
    assert not found.requires_grad

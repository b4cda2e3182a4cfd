"""RegionCLIP as the sum of its parts, on one process and on several; what it draws, leaves out and leaves alone."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fineclip.config import RegionCLIPConfig, parse
from fineclip.errors import ConfigError
from fineclip.losses.concepts import (
    concept_contrastive_loss,
    concept_distillation_loss,
    federated_loss,
    sample_concepts,
    teacher_targets,
)
from fineclip.losses.contrastive import contrastive_loss
from fineclip.methods.fineclip import FineCLIP
from fineclip.methods.regionclip import RegionCLIP, embed_concepts
from fineclip.methods.transforms import DataSpec, sample_rng
from fineclip.train.distributed import DistributedContext
from fineclip.train.grad_cache import GradCache
from fineclip.types import Batch, Box, Region
from tests.helpers.packs import sample
from tests.helpers.processes import run_processes
from tests.helpers.tiny import TinyTokenizer, batch_of, parts_of, tiny_encoder

CONCEPTS = ("cat", "dog", "tree", "cup", "lamp", "car", "bird")
INPUTS = DataSpec(TinyTokenizer(), image_size=16, crop_size=8, concepts=CONCEPTS)
ONE = torch.tensor(1.0, dtype=torch.float64)


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(**options: Any) -> RegionCLIP:
    """On the tiny encoder, with concepts that are no embedding of anything; few a step, so that some are drawn."""
    options = {"concepts_per_step": 5, **options}
    return RegionCLIP(tiny_encoder(), parse(RegionCLIPConfig, options, where="test"), rows(len(CONCEPTS), 12, seed=9))


def moved(method: RegionCLIP) -> RegionCLIP:
    """With a student that is not its teacher any more."""
    with torch.no_grad():
        for parameter in method.encoder.parameters():
            parameter.add_(0.05 * rows(*parameter.shape, seed=parameter.numel()))
    return method


def labeled(regions_per_image: Sequence[int], *, seed: int = 0) -> Batch:
    count = sum(regions_per_image)
    labels = torch.randint(0, len(CONCEPTS), (count,), generator=torch.Generator().manual_seed(seed + 1))
    return replace(batch_of(regions_per_image, seed=seed), region_labels=labels, seed=41)


# concepts


def test_concepts_are_embedded_by_the_initial_encoder() -> None:
    options = RegionCLIPConfig(targets="pseudo", train_text=True)
    method = RegionCLIP.build(tiny_encoder(), options, INPUTS)
    expected = embed_concepts(tiny_encoder(), CONCEPTS, prompts="vild", tokenize=TinyTokenizer())
    assert torch.equal(method.concept_KD, normalize(expected, dim=-1))
    GradCache(moved(method))(labeled([1, 2])).total.backward()
    assert torch.equal(method.concept_KD, normalize(expected, dim=-1))
    assert "concept_KD" not in method.state_dict()


def test_no_concepts_is_refused() -> None:
    with pytest.raises(ConfigError, match="list of concepts is empty"):
        RegionCLIP.build(tiny_encoder(), RegionCLIPConfig(), replace(INPUTS, concepts=()))


# what is drawn of a sample


def visited(**options: Any) -> Any:
    one = replace(
        sample("s-000001", regions=0),
        regions=tuple(
            Region(Box(index, 2, index + 6, 9), 0.5, label, caption)
            for index, (label, caption) in enumerate(
                [("cat", "a cat"), ("unknown", "what"), ("tree", None), ("dog", "a dog"), ("cup", "a cup")]
            )
        ),
    )
    prepare = RegionCLIP.build_transform(INPUTS, parse(RegionCLIPConfig, options, where="test"), max_regions=4)
    return one, prepare(one, sample_rng(0, 0, one.key))


def test_labels_are_numbers_of_concepts_and_others_are_left_out() -> None:
    _, item = visited()
    assert item.region_labels.tolist() == [0, 2, 1, 3]
    assert item.boxes.shape == (4, 4) and item.text is None and item.region_texts is None


def test_with_a_teacher_any_region_will_do_and_has_no_label() -> None:
    one, item = visited(targets="pseudo")
    assert len(item.boxes) == 4 and item.region_labels is None
    rng = sample_rng(0, 0, one.key)
    caption = one.captions[int(rng.integers(len(one.captions)))]
    assert torch.equal(item.text, TinyTokenizer()([caption])[0])
    left_out = set(range(5)) - set(np.sort(rng.choice(5, 4, replace=False)).tolist())
    starts = [round(box[0].item() * one.width) for box in item.boxes]
    assert set(range(5)) - set(starts) == left_out


def test_boxes_and_captions_are_those_that_other_methods_draw() -> None:
    one = sample("s-000002", regions=6)
    one = replace(one, regions=tuple(replace(region, label="cat") for region in one.regions))
    prepared = []
    for kind, options in ((FineCLIP, FineCLIP.config_type()), (RegionCLIP, RegionCLIPConfig(targets="pseudo"))):
        prepare = kind.build_transform(INPUTS, options, max_regions=3)
        prepared.append(prepare(one, sample_rng(0, 0, one.key)))
    other = RegionCLIP.build_transform(INPUTS, RegionCLIPConfig(), max_regions=3)(one, sample_rng(0, 0, one.key))
    assert torch.equal(prepared[0].boxes, prepared[1].boxes) and torch.equal(prepared[0].boxes, other.boxes)
    assert torch.equal(prepared[0].text, prepared[1].text) and torch.equal(prepared[0].image, other.image)


def test_letterboxed_boxes_lie_on_the_letterboxed_image() -> None:
    one, item = visited(resize="letterbox")
    square = torch.tensor(one.regions[0].box) / max(one.width, one.height)
    torch.testing.assert_close(item.boxes[0], square, atol=0.05, rtol=0)
    assert item.image[:, -1].sum() == 0  # black below a wide image


# the method


def test_labels_the_total_is_the_federated_loss_of_the_dense_features() -> None:
    method, batch = made(), labeled([2, 0, 3])
    encoder = method.encoder
    region = encoder.encode_regions(batch.images, batch.boxes, batch.box_to_image)
    drawn = sample_concepts(batch.region_labels, concepts=7, at_least=5, seed=batch.seed, counts=[5])
    scale = encoder.logit_scale.exp()
    expected = federated_loss(region, batch.region_labels, method.concept_KD, drawn, logit_scale=scale, counts=[5])
    losses = GradCache(method)(batch)
    torch.testing.assert_close(losses.total, expected)
    assert set(losses.terms) == {"concept"}
    assert not torch.equal(GradCache(method)(replace(batch, seed=42)).total, losses.total)


def test_pseudo_the_total_is_the_weighted_sum_of_its_terms() -> None:
    weights = {"distill": 2.0, "contrast": 0.5, "global": 3.0}
    method, batch = moved(made(targets="pseudo", temperature=0.1, weights=weights)), labeled([2, 0, 3])
    encoder, concepts = method.encoder, method.concept_KD
    region = encoder.encode_regions(batch.images, batch.boxes, batch.box_to_image)
    teacher = tiny_encoder().encode_regions(batch.images, batch.boxes, batch.box_to_image)
    said = teacher_targets(teacher, concepts, temperature=0.1, min_confidence=0.1, counts=[5])
    image, caption = encoder.encode_image(batch.images), encoder.encode_text(batch.texts)
    expected = {
        "distill": concept_distillation_loss(region, concepts, said, temperature=0.1),
        "contrast": concept_contrastive_loss(region, concepts, said, temperature=0.1),
        "global": contrastive_loss(image, caption, logit_scale=10 * ONE, counts=[3]),
    }
    losses = GradCache(method)(batch)
    assert set(losses.terms) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(losses.terms[name], value.detach())
    torch.testing.assert_close(losses.total, sum(weights[name] * value for name, value in expected.items()))


@pytest.mark.parametrize("absent", ["distill", "contrast", "global"])
def test_a_term_of_weight_0_is_not_computed(absent: str) -> None:
    method, batch = made(targets="pseudo", weights={absent: 0}), labeled([1, 2])
    if absent == "global":
        batch.texts = None
    assert set(GradCache(method)(batch).terms) == {"distill", "contrast", "global"} - {absent}


def test_without_its_regional_terms_it_is_clip_at_a_fixed_temperature() -> None:
    method, batch = made(targets="pseudo", weights={"distill": 0, "contrast": 0}), labeled([1, 2])
    batch.boxes = None
    encoder = method.encoder
    expected = contrastive_loss(
        encoder.encode_image(batch.images), encoder.encode_text(batch.texts), logit_scale=100 * ONE, counts=[2]
    )
    torch.testing.assert_close(GradCache(method)(batch).total, expected)


def test_nothing_to_learn_and_a_text_tower_that_nothing_teaches_are_refused() -> None:
    nothing = {"distill": 0, "contrast": 0, "global": 0}
    with pytest.raises(ConfigError, match="all are 0"):
        made(targets="pseudo", weights=nothing)
    for options in ({}, {"targets": "pseudo", "weights": {"global": 0}}):
        with pytest.raises(ConfigError, match="train_text"):
            made(train_text=True, **options)


@pytest.mark.parametrize("targets", ["labels", "pseudo"])
def test_a_batch_without_regions_has_terms_of_0(targets: str) -> None:
    losses = GradCache(made(targets=targets))(labeled([0, 0]))
    losses.total.backward()
    assert all((value.item() == 0) == (name != "global") for name, value in losses.terms.items())


NO_TEXT = {"logit_scale", "token_embedding", "transformer", "positional_embedding", "ln_final", "text_projection"}
LAST = "visual.transformer.resblocks.1"


@pytest.mark.parametrize(
    ("options", "without"),
    [
        ({}, {"visual.transformer.resblocks.1.attn.in_proj_weight": False, "visual.proj": False}),
        ({"unlocked_blocks": 1}, {"visual.proj": True, "visual.conv1.weight": True, f"{LAST}.mlp.c_fc.weight": False}),
        ({"targets": "pseudo"}, {"visual.proj": False, "visual.class_embedding": False}),
    ],
)
def test_parameters_without_gradient(options: dict[str, Any], without: dict[str, bool]) -> None:
    method = made(**options)
    GradCache(method)(labeled([2, 1])).total.backward()
    gradient = {name: value.grad for name, value in method.encoder.named_parameters()}
    silent = {name for name in gradient if name.split(".")[0] in NO_TEXT}
    assert "logit_scale" in silent and len(silent) > 10
    assert all(gradient[name] is None for name in silent)
    for name, is_none in without.items():
        assert (gradient[name] is None) == is_none, name
    names = {id(value): name for name, value in method.encoder.named_parameters()}
    learning = {names[id(value)] for group in method.parameter_groups() for value in group.parameters}
    assert {name for name, value in gradient.items() if value is not None} <= learning
    if not method.config.unlocked_blocks:
        assert learning == {name for name in gradient if name.startswith("visual.")} | {"logit_scale"}


def test_the_queries_of_the_last_block_learn_nothing_from_labels() -> None:
    """Dense features take its values alone: rows of queries and keys have a gradient of 0."""
    method = made()
    GradCache(method)(labeled([2, 1])).total.backward()
    gradient = dict(method.encoder.named_parameters())[f"{LAST}.attn.in_proj_weight"].grad
    queries_and_keys, values = gradient.split([32, 16])
    assert queries_and_keys.abs().sum() == 0 < values.abs().sum()


def test_teacher_is_the_initial_encoder() -> None:
    method = made(targets="pseudo")
    optimizer = torch.optim.SGD([value for group in method.parameter_groups() for value in group.parameters], lr=0.1)
    for seed in range(3):
        optimizer.zero_grad()
        GradCache(method)(labeled([2, 1], seed=seed)).total.backward()
        optimizer.step()
    untouched = tiny_encoder().state_dict()
    assert method.teacher is not None and not method.teacher.training
    assert all(torch.equal(value, untouched[name]) for name, value in method.teacher.state_dict().items())
    assert not torch.equal(method.encoder.state_dict()["visual.proj"], untouched["visual.proj"])
    assert method.export_encoder() is method.encoder
    assert made().teacher is None


def test_labels_can_be_learned() -> None:
    method, batch = made(concepts_per_step=7), labeled([2, 1, 3])
    optimizer = torch.optim.Adam([value for group in method.parameter_groups() for value in group.parameters], lr=3e-3)
    first = GradCache(method)(batch).total.item()
    for _ in range(40):
        optimizer.zero_grad()
        GradCache(method)(batch).total.backward()
        optimizer.step()
    assert GradCache(method)(batch).total.item() < 0.5 * first


# several processes

REGIONS = (2, 0, 1, 3, 0, 0)
SPLITS = {2: ((4, 2), (5, 1), (0, 6)), 3: ((1, 1, 4), (3, 1, 2))}  # where the last has no region, or some no image
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"targets": "pseudo", "temperature": 0.2, "min_confidence": 0.5},  # some are kept
    {"targets": "pseudo", "temperature": 0.2, "min_confidence": 1.0},  # none is, so all are
    {"targets": "pseudo", "train_text": True, "weights": {"contrast": 0}},
)


def test_variants_keep_confident_regions() -> None:
    batch = labeled(REGIONS)
    teacher = tiny_encoder().encode_regions(batch.images, batch.boxes, batch.box_to_image)
    shares = [
        teacher_targets(teacher, made().concept_KD, temperature=0.2, min_confidence=least, counts=[6]).weight
        for least in (0.5, 1.0)
    ]
    assert 0 < (shares[0] > 0).sum() < 6 and (shares[1] > 0).all()


@pytest.mark.parametrize("world_size", SPLITS)
def test_processes_equal_one(world_size: int) -> None:
    cases = [
        (options, regions, split)
        for split in SPLITS[world_size]
        for options in VARIANTS
        for regions in (REGIONS, (0,) * 6)
    ]
    everywhere = run_processes(each_case, range(world_size), [cases] * world_size)
    for number, (options, regions, _) in enumerate(cases):
        values, gradients = losses_and_gradients(moved(made(**options)), labeled(regions))
        own = [results[number] for results in everywhere]
        for term, value in values.items():
            average = sum(one[0][term] for one in own) / world_size
            assert average == pytest.approx(value, rel=1e-10, abs=1e-10), (options, term)
        for _, found in own:
            assert {name for name, value in found.items() if value is None} == {
                name for name, value in gradients.items() if value is None
            }
            for name, gradient in gradients.items():
                if gradient is not None:
                    torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-11, msg=f"{options} {name}")


def each_case(rank: int, cases: list[Any]) -> list[Any]:
    """On one of several processes, through DistributedDataParallel."""
    results = []
    for options, regions, split in cases:
        method, whole = moved(made(**options)), labeled(regions)
        wrapped = DistributedContext(rank, len(split), torch.device("cpu")).wrap(GradCache(method))
        parts = parts_of(whole, regions, split)
        labels = whole.region_labels.split(parts[0].counts.regions)
        part = replace(parts[rank], region_labels=labels[rank], seed=whole.seed)
        results.append(losses_and_gradients(method, part, wrapped))
    return results


def losses_and_gradients(
    method: RegionCLIP, batch: Batch, wrapped: torch.nn.Module | None = None
) -> tuple[dict[str, float], dict[str, Tensor | None]]:
    losses = (wrapped or GradCache(method))(batch)
    losses.total.backward()
    values = {"total": losses.total.item(), **{name: term.item() for name, term in losses.terms.items()}}
    return values, {name: value.grad for name, value in method.named_parameters()}

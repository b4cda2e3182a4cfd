"""Micro-batches of any size give the same loss and gradients, on one rank and on several."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from fineclip.config import RegionCLIPConfig, parse
from fineclip.methods import Method
from fineclip.methods.regionclip import RegionCLIP
from fineclip.train.distributed import DistributedContext
from fineclip.train.grad_cache import GradCache, MicroBatchSizes, slice_batch, with_gradients
from fineclip.types import Batch
from tests.helpers.marks import needs_compiler
from tests.helpers.methods import Outcome, assert_processes_equal_one, made, outcome_of
from tests.helpers.processes import run_processes
from tests.helpers.tiny import CROP_PX, batch_of, parts_of, tiny_encoder

REGIONS = (2, 0, 1, 3, 0, 1)
DETACHED: Mapping[str, Any] = {"relaxed": {"detach_crops": True}}
METHODS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("clip", {}),
    ("clip", {"train_text": True}),
    ("fineclip", {}),
    ("fineclip", {"train_text": True, "weights": {"global": 0.5, "region": 2, "distill": 3}}),
    ("fineclip", {"weights": {"global": 0, "region": 0}}),
    ("fineclip", {"weights": {"distill": 0}}),
    ("fineclip", DETACHED),
    ("clipself", {}),
    ("clipself", {"unlocked_blocks": 1}),
    ("clim", {"mosaics": [2], "mosaic_size": 24}),
    ("regionclip", {"targets": "labels"}),
    ("regionclip", {"targets": "pseudo", "min_confidence": 0.0}),
)
SIZES = (
    MicroBatchSizes(crops=1),
    MicroBatchSizes(crops=2),
    MicroBatchSizes(crops=5, pad_crops=True),
    MicroBatchSizes(images=1),
    MicroBatchSizes(2, 4),
    MicroBatchSizes(3, 2),
)


def learner(name: str, options: Mapping[str, Any], dtype: torch.dtype = torch.float64) -> Method[Any]:
    """A method whose encoder differs from its teacher."""
    if name == "regionclip":
        section = parse(RegionCLIPConfig, {"concepts_per_step": 5, **options}, where="test")
        rng = torch.Generator().manual_seed(9)
        method: Method[Any] = RegionCLIP(tiny_encoder(), section, torch.randn(7, 12, generator=rng).double())
    else:
        method = made(name, options)
    with torch.no_grad():
        for number, parameter in enumerate(method.encoder.parameters()):
            rng = torch.Generator().manual_seed(number)
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=rng, dtype=torch.float64))
    return method.to(dtype)


def scaler_of(scale: float) -> torch.amp.GradScaler:
    """An enabled scaler with this factor."""
    return torch.amp.GradScaler("cpu", init_scale=scale)


def batch(regions: Sequence[int] = REGIONS, dtype: torch.dtype = torch.float64) -> Batch:
    made_up = batch_of(regions)
    labels = torch.arange(sum(regions)) % 7
    floats = {name: getattr(made_up, name).to(dtype) for name in ("images", "boxes", "crops")}
    return replace(made_up, region_labels=labels, seed=41, **floats)


def assert_same(found: Outcome, expected: Outcome, *, factor: float = 1.0, tolerance: float = 1e-9) -> None:
    """Losses and gradients; a gradient is measured by its length."""
    assert list(found[0]) == list(expected[0])
    assert found[0] == pytest.approx(expected[0], rel=max(tolerance, 1e-12))
    for name, gradient in expected[1].items():
        own = found[1][name]
        assert (own is None) == (gradient is None), name
        if gradient is not None and own is not None:
            size = gradient.norm().item()
            assert (own / factor - gradient).norm().item() <= tolerance * size + 1e-15, (name, size)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(("name", "options"), METHODS, ids=str)
@pytest.mark.parametrize("regions", [REGIONS, (0,) * 6], ids=["regions", "none"])
def test_micro_batches_change_nothing(
    name: str, options: Mapping[str, Any], sizes: MicroBatchSizes, regions: Sequence[int]
) -> None:
    method = learner(name, options)
    expected = outcome_of(method, batch(regions))
    method = learner(name, options)
    assert_same(outcome_of(method, batch(regions), GradCache(method, sizes)), expected)


@pytest.mark.parametrize("sizes", [MicroBatchSizes(crops=2), MicroBatchSizes(2, 4)], ids=str)
def test_single_precision_differs_by_rounding(sizes: MicroBatchSizes) -> None:
    expected = outcome_of(learner("fineclip", {}, torch.float32), batch(dtype=torch.float32))
    method = learner("fineclip", {}, torch.float32)
    found = outcome_of(method, batch(dtype=torch.float32), GradCache(method, sizes))
    assert_same(found, expected, tolerance=1e-5)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_with_padded_micro_batches_differs_by_rounding(checkpointing: bool) -> None:
    expected = outcome_of(learner("fineclip", {}, torch.float32), batch(dtype=torch.float32))
    method = learner("fineclip", {}, torch.float32)
    method.encoder.trunk.compile()
    method.encoder.trunk.checkpointing = checkpointing
    model = GradCache(method, MicroBatchSizes(3, 4, pad_crops=True), scaler_of(1024))
    losses = model(batch(dtype=torch.float32))
    (losses.total * 1024).backward()
    values = {"total": losses.total.item(), **{name: term.item() for name, term in losses.terms.items()}}
    gradients = {name: parameter.grad for name, parameter in method.named_parameters()}
    assert_same((values, gradients), expected, factor=1024, tolerance=1e-5)


@pytest.mark.parametrize("sizes", [MicroBatchSizes(crops=2), MicroBatchSizes(2, 4)], ids=str)
def test_scaled_loss_has_scaled_gradients(sizes: MicroBatchSizes) -> None:
    expected = outcome_of(learner("fineclip", {}), batch())
    method = learner("fineclip", {})
    losses = GradCache(method, sizes, scaler_of(1024))(batch())
    (losses.total * 1024).backward()
    values = {"total": losses.total.item(), **{name: term.item() for name, term in losses.terms.items()}}
    gradients = {name: parameter.grad for name, parameter in method.named_parameters()}
    assert_same((values, gradients), expected, factor=1024)


def test_fp16_gradients_need_the_loss_scale() -> None:
    """Gradients are scaled when they are computed: with a tiny scale they underflow in float16."""
    sizes = {}
    for scale in (2.0**-20, 2.0**8):
        method = learner("fineclip", {"weights": {"global": 0, "region": 0}}, torch.float32)
        model = GradCache(method, MicroBatchSizes(crops=2), scaler_of(scale))
        with torch.autocast("cpu", dtype=torch.float16):
            losses = model(batch(dtype=torch.float32))
        (losses.total * scale).backward()
        gradients = [each.grad / scale for each in method.parameters() if each.grad is not None]
        sizes[scale] = sum(int((gradient != 0).sum()) for gradient in gradients)
    assert sizes[2.0**-20] < 0.5 * sizes[2.0**8]


@pytest.mark.parametrize("sizes", [MicroBatchSizes(crops=2), MicroBatchSizes(2, 4)], ids=str)
@pytest.mark.parametrize("name", ["fineclip", "clip"])
def test_autocast_keeps_all_gradients(name: str, sizes: MicroBatchSizes) -> None:
    outcomes = []
    for each in (MicroBatchSizes(), sizes):
        method = learner(name, {}, torch.float32)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = GradCache(method, each)(batch(dtype=torch.float32))
        losses.total.backward()
        outcomes.append({key: each.grad for key, each in method.named_parameters()})
    for key, gradient in outcomes[0].items():
        own = outcomes[1][key]
        assert (own is None) == (gradient is None), key
        if gradient is not None and own is not None and gradient.numel() > 1:
            assert torch.cosine_similarity(own.flatten(), gradient.flatten(), dim=0) > 0.99, key


SPLITS: Mapping[int, tuple[tuple[int, ...], ...]] = {2: ((4, 2), (6, 0), (5, 1)), 3: ((1, 1, 4), (4, 0, 2))}


@pytest.mark.parametrize("world_size", SPLITS)
def test_ranks_with_micro_batches_equal_one_without(world_size: int) -> None:
    cases = [
        (name, options, sizes, regions, split)
        for split in SPLITS[world_size]
        for name, options in METHODS
        for sizes in (MicroBatchSizes(crops=2), MicroBatchSizes(2, 2))
        for regions in (REGIONS, (0, 0, 0, 0, 0, 1))
        if name != "clim" or split in ((4, 2), (5, 1), (6, 0), (4, 0, 2))
    ]
    everywhere = run_processes(each_case, range(world_size), [cases] * world_size, timeout_s=120)
    for number, case in enumerate(cases):
        name, options, _, regions, _ = case
        whole = outcome_of(learner(name, options), batch(regions))
        assert_processes_equal_one([outcomes[number] for outcomes in everywhere], whole, case)


def each_case(rank: int, cases: list[Any]) -> list[Outcome]:
    outcomes = []
    for name, options, sizes, regions, split in cases:
        method = learner(name, options)
        method.encoder.trunk.checkpointing = sizes.images is not None
        whole = batch(regions)
        part = parts_of(whole, regions, split)[rank]
        first = sum(part.counts.regions[:rank])
        part = replace(part, seed=41, region_labels=whole.region_labels[first : first + len(part.boxes)])
        model = GradCache(method, sizes, scaler_of(64))
        wrapped = DistributedContext(rank, len(split), torch.device("cpu")).wrap(model)
        losses = wrapped(part)
        (losses.total * 64).backward()
        values = {"total": losses.total.item(), **{name: term.item() for name, term in losses.terms.items()}}
        outcomes.append(
            (values, {key: None if each.grad is None else each.grad / 64 for key, each in method.named_parameters()})
        )
    return outcomes


def test_a_micro_batch_has_the_rows_of_its_images() -> None:
    whole = replace(batch(), text_rows=torch.tensor([0, 0, 1, 2, 1, 0]), region_text_rows=torch.arange(7).flip(0))
    parts = GradCache(learner("fineclip", {}), MicroBatchSizes(images=4))._micro_batches(whole)
    assert [part.keys for part in parts] == [("0", "1", "2", "3"), ("4", "5")]
    assert [part.first_image for part in parts] == [0, 4]
    assert torch.equal(parts[1].images, whole.images[4:])
    assert parts[1].box_to_image.tolist() == [1]
    assert torch.equal(parts[1].boxes, whole.boxes[6:])
    assert torch.equal(parts[1].texts[parts[1].text_rows], whole.texts[whole.text_rows][4:])
    assert torch.equal(parts[1].region_texts[parts[1].region_text_rows], whole.region_texts[whole.region_text_rows][6:])
    assert slice_batch(whole, slice(2, 2), slice(2, 2)).keys == ()


def test_shared_text_equals_its_copies() -> None:
    apart = replace(batch(), texts=batch().texts[[0, 1, 0, 2, 2, 0]], region_texts=batch().region_texts[[0] * 7])
    shared = replace(
        apart,
        texts=apart.texts[[0, 1, 3]],
        text_rows=torch.tensor([0, 1, 0, 2, 2, 0]),
        region_texts=apart.region_texts[:1],
        region_text_rows=torch.zeros(7, dtype=torch.int64),
    )
    for options in ({}, {"train_text": True}):
        expected = outcome_of(learner("fineclip", options), apart)
        assert_same(outcome_of(learner("fineclip", options), shared), expected)
        method = learner("fineclip", options)
        assert_same(outcome_of(method, shared, GradCache(method, MicroBatchSizes(2, 2))), expected)


def test_precomputed_gradient_is_multiplied_by_the_outer_gradient() -> None:
    weight, constant = torch.ones(2, requires_grad=True), torch.ones(2)
    value = with_gradients(torch.tensor(5.0), {weight: torch.tensor([2.0, 4.0]), constant: constant}, scale=2.0)
    (value * 3).backward()
    assert value.item() == 5
    assert weight.grad is not None
    assert weight.grad.tolist() == [3.0, 6.0]
    with torch.no_grad():
        assert not with_gradients(torch.tensor(5.0), {weight: weight}, scale=1.0).requires_grad


@pytest.mark.parametrize(
    ("name", "options"),
    [("fineclip", {}), ("fineclip", DETACHED), ("clipself", {})],
    ids=["fineclip", "detached", "clipself"],
)
def test_padded_micro_batches_have_one_shape(name: str, options: Mapping[str, Any]) -> None:
    """7 crops in micro-batches of 3: the last has one, padded to 3 with `pad_crops`."""
    shapes: dict[bool, list[int]] = {False: [], True: []}
    for pad_crops, seen in shapes.items():
        method = learner(name, options)
        encoder = method.encoder if name == "fineclip" else method.teacher
        assert encoder is not None
        encode = encoder.encode_image

        def watched(images: torch.Tensor, encode: Any = encode, seen: list[int] = seen) -> torch.Tensor:
            if images.shape[-1] == CROP_PX:
                seen.append(len(images))
            return encode(images)

        object.__setattr__(encoder, "encode_image", watched)
        GradCache(method, MicroBatchSizes(crops=3, pad_crops=pad_crops))(batch()).total.backward()
    assert shapes == {False: [3, 3, 1], True: [3, 3, 3]}

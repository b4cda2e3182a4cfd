"""Micro-batches from a limit of memory: the largest that fit; the memory of a row is measured."""

from types import SimpleNamespace

import pytest
import torch

from fineclip.config import FineCLIPConfig, RuntimeConfig
from fineclip.errors import ConfigError
from fineclip.methods.base import EncoderCall
from fineclip.methods.fineclip import FineCLIP
from fineclip.train.grad_cache import GradCache, MicroBatchSizes
from fineclip.train.memory import (
    MemoryCosts,
    RankBatchSize,
    estimate_memory,
    largest_micro_batches,
    memory_limit,
    saved_bytes,
)
from tests.helpers.tiny import CROP_PX, IMAGE_PX, batch_of, tiny_encoder

COSTS = MemoryCosts(static=100, batch=50, image=10, crop=5)
SHARE = RankBatchSize(images=20, regions=100, all_images=20, all_regions=100)
CPU = torch.device("cpu")
IMAGES = EncoderCall("images", IMAGE_PX, "shared")


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (850, MicroBatchSizes()),
        (849, MicroBatchSizes(crops=99)),
        (360, MicroBatchSizes(crops=2)),
        (359, MicroBatchSizes(crops=21, images=10)),
        (170, MicroBatchSizes(crops=2, images=1)),
        (165, MicroBatchSizes(crops=1, images=1)),
    ],
)
def test_the_largest_micro_batches_that_fit(limit: float, expected: MicroBatchSizes) -> None:
    found = largest_micro_batches(COSTS, SHARE, limit)
    assert found == expected
    assert COSTS.total(found.images or SHARE.images, found.crops or SHARE.regions) <= limit


def test_without_crops_only_images_are_split() -> None:
    without = COSTS._replace(crop=0)
    assert largest_micro_batches(without, SHARE, 350) == MicroBatchSizes()
    assert largest_micro_batches(without, SHARE, 349) == MicroBatchSizes(images=19)


def test_limit_below_one_image_and_crop_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"runtime.memory_gb.*one image and one crop.*runtime.activation_checkpointing"
    ):
        largest_micro_batches(COSTS, SHARE, 164)


def test_auto_has_no_limit_on_a_cpu() -> None:
    assert memory_limit(RuntimeConfig(), CPU) is None
    assert memory_limit(RuntimeConfig(memory_gb=None), CPU) is None
    assert memory_limit(RuntimeConfig(memory_gb=2), CPU) == 2e9


def test_bytes_per_image() -> None:
    encoder = tiny_encoder(dtype=torch.float32)
    each, constant = saved_bytes(encoder, IMAGE_PX, dtype=None, has_regions=True)
    assert each > 16 * 16 * 4 * 2
    assert saved_bytes(encoder, IMAGE_PX, dtype=None, has_regions=False)[0] < each
    half, casts = saved_bytes(encoder, IMAGE_PX, dtype=torch.bfloat16, has_regions=True)
    assert half < each
    assert casts > constant  # weights in bfloat16 are kept once
    encoder.trunk.checkpointing = True
    assert saved_bytes(encoder, IMAGE_PX, dtype=None, has_regions=True)[0] < each
    assert encoder.trunk.checkpointing


def test_estimate_equals_the_bytes_of_a_step() -> None:
    """The bytes that the graph of a whole batch keeps, counted apart from `saved_bytes`, within a tenth."""
    method = FineCLIP(tiny_encoder(dtype=torch.float32), FineCLIPConfig())
    images, regions = 6, 18
    batch = batch_of([3] * images)
    batch.images, batch.boxes, batch.crops = batch.images.float(), batch.boxes.float(), batch.crops.float()
    own = {each.untyped_storage().data_ptr() for each in method.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = GradCache(method)(batch)
    calls = [IMAGES, EncoderCall("crops", CROP_PX)]
    costs = estimate_memory(
        method, calls, RankBatchSize(images, regions, images, regions), dtype=None, is_distributed=False
    )
    expected = images * costs.image + regions * costs.crop
    assert sum(kept.values()) == pytest.approx(expected, rel=0.1)
    assert losses.total.requires_grad


def method_and_bytes(**options: object) -> tuple[FineCLIP, int, int]:
    """A method with the bytes of its parameters that learn and of those that do not."""
    method = FineCLIP(tiny_encoder(dtype=torch.float32), FineCLIPConfig(**options))
    learning = sum(each.nbytes for each in method.parameters() if each.requires_grad)
    return method, learning, sum(each.nbytes for each in method.parameters()) - learning


@pytest.mark.parametrize("options", [{}, {"unlocked_blocks": 1}, {"wise_ft_alpha": 0.5}])
@pytest.mark.parametrize("is_distributed", [False, True])
def test_static_memory_by_hand(options: dict[str, object], is_distributed: bool) -> None:
    """Weights, gradients, two moments, two kinds of micro-batches, and the buckets of DDP; frozen weights count once."""
    method, learning, frozen = method_and_bytes(**options)
    calls = [IMAGES, EncoderCall("crops", CROP_PX)]
    costs = estimate_memory(method, calls, RankBatchSize(1, 1, 1, 1), dtype=None, is_distributed=is_distributed)
    _, constant = saved_bytes(method.encoder, IMAGE_PX, dtype=None, has_regions=True)
    assert frozen > 0
    assert costs.static == (1 + 1 + 2 + 2 + is_distributed) * learning + frozen + constant


def test_batch_memory_by_hand() -> None:
    method, _, _ = method_and_bytes()
    share = RankBatchSize(images=3, regions=5, all_images=6, all_regions=10)
    calls = [EncoderCall("images", IMAGE_PX, images=2), EncoderCall("crops", CROP_PX)]
    pixels = 3 * (3 * IMAGE_PX**2 / 2 + 5 * CROP_PX**2)
    floats = 4 * 12 * (6 + 10) + 6 * (3 * 6 + 5 * 10)
    costs = estimate_memory(method, calls, share, dtype=None, is_distributed=False)
    assert costs.batch == pixels + 4 * floats
    bare = estimate_memory(method, [IMAGES], share, dtype=None, is_distributed=False)
    assert bare.batch == 3 * 3 * IMAGE_PX**2 + 4 * floats
    assert (bare.crop, bare.image) == (0, 2 * costs.image)


def test_crops_without_gradient_need_two_blocks() -> None:
    method, _, _ = method_and_bytes()
    kept, dropped = (
        estimate_memory(
            method,
            [IMAGES, EncoderCall("crops", CROP_PX, gradient=keeps)],
            RankBatchSize(1, 1, 1, 1),
            dtype=None,
            is_distributed=False,
        )
        for keeps in (True, False)
    )
    assert kept.crop == saved_bytes(method.encoder, CROP_PX, dtype=None, has_regions=False)[0]
    assert dropped.crop == 2 * kept.crop / len(method.encoder.trunk.blocks)
    assert (kept.static, kept.batch, kept.image) == (dropped.static, dropped.batch, dropped.image)


def test_auto_is_nine_tenths_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(total_memory=20e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    assert memory_limit(RuntimeConfig(), torch.device("cuda", 0)) == pytest.approx(18e9)
    assert memory_limit(RuntimeConfig(memory_gb=3), torch.device("cuda", 0)) == 3e9
    assert memory_limit(RuntimeConfig(memory_gb=None), torch.device("cuda", 0)) is None

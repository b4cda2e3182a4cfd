"""CLIPSelf: which regions, which teacher, what learns, and what is published."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fineclip.config import CLIPSelfConfig, FineCLIPConfig, LoaderConfig, TrainConfig, parse
from fineclip.errors import ConfigError
from fineclip.methods import METHODS
from fineclip.methods.clipself import CLIPSelf, draw_patches, grids
from fineclip.methods.transforms import DataSpec, sample_rng
from fineclip.models.images import LETTERBOX, LETTERBOX_CENTERED
from fineclip.shards.images import decode
from fineclip.train.grad_cache import GradCache
from fineclip.train.optim import build_optimizer
from fineclip.train.train import train
from fineclip.types import Box, Region, Sample
from tests.helpers.methods import made, outcome_of
from tests.helpers.packs import HEIGHT, WIDTH, picture, sample, write_world
from tests.helpers.tiny import TinyTokenizer, batch_of, tiny_encoder
from tests.helpers.training import stop_before, training_of, weights_of

INPUTS = DataSpec(TinyTokenizer(), image_size=16, crop_size=8, loader=LoaderConfig(image_backend="pillow"))


def prepared(one: Sample, *, max_regions: int = 20, epoch: int = 0, **options: Any):
    section = parse(CLIPSelfConfig, options, where="test")
    return CLIPSelf.build_transform(INPUTS, section, max_regions=max_regions)(one, sample_rng(0, epoch, one.key))


def test_there_are_24_grids() -> None:
    found = grids(6)
    assert len(found) == len(set(found)) == 24
    assert all(rows <= 2 * columns and columns <= 2 * rows for rows, columns in found)
    assert grids(1) == [(1, 1)]
    mean = sum(rows * columns for rows, columns in found) / 24
    assert mean == pytest.approx(15.04, abs=0.005)
    assert sum(min(20, rows * columns) for rows, columns in found) / 24 == pytest.approx(13.0, abs=0.05)


def test_every_grid_is_drawn_about_as_often() -> None:
    one = Sample("k", b"", 60, 80, ())
    drawn = Counter(
        (len({box.y1 for box in boxes}), len({box.x1 for box in boxes}))
        for epoch in range(1200)
        for boxes in [draw_patches(one, sample_rng(0, epoch, "k"), max_split=6, at_most=36)]
    )
    assert set(drawn) == set(grids(6))
    assert min(drawn.values()) > 25 and max(drawn.values()) < 80


def test_patches_tile_the_image_or_are_a_subset_of_the_cells() -> None:
    one = Sample("k", b"", 60, 80, ())
    for epoch in range(40):
        whole = draw_patches(one, sample_rng(0, epoch, "k"), max_split=6, at_most=36)
        assert sum(box.width * box.height for box in whole) == pytest.approx(60 * 80)
        some = draw_patches(one, sample_rng(0, epoch, "k"), max_split=6, at_most=20)
        assert len(some) == min(20, len(whole))
        assert [box for box in whole if box in some] == some


def test_patches_of_a_visit_need_neither_regions_nor_captions() -> None:
    bare = Sample("k", picture(0), WIDTH, HEIGHT, ())
    items = [prepared(bare, regions="patches", max_split=2, epoch=epoch) for epoch in range(30)]
    assert {len(item.boxes) for item in items} == {1, 2, 4}
    assert all(item.text is None and item.region_texts is None for item in items)
    four = next(item for item in items if len(item.boxes) == 4)
    # 24 x 16 pixels on a square of 24: the lower third is black
    expected = [[0, 0, 0.5, 1 / 3], [0.5, 0, 1, 1 / 3], [0, 1 / 3, 0.5, 2 / 3], [0.5, 1 / 3, 1, 2 / 3]]
    torch.testing.assert_close(four.boxes, torch.tensor(expected))
    quarter = decode(bare.image).crop((12, 0, 24, 8))
    assert torch.equal(four.crops[1], LETTERBOX_CENTERED(quarter, 8))  # not enlarged


def test_proposals_are_all_regions_of_the_data_enlarged_and_letterboxed() -> None:
    regions = tuple(Region(Box(2, 4, 10, 8), 0.5, "x", caption) for caption in ("a", None, ""))
    one = Sample("k", picture(3), WIDTH, HEIGHT, ("a",), regions=regions)
    item = prepared(one, crop_scale=2)
    assert torch.equal(item.image, LETTERBOX(decode(one.image), 16))
    torch.testing.assert_close(item.boxes, torch.tensor([[2 / 24, 4 / 24, 10 / 24, 8 / 24]] * 3))
    expected = LETTERBOX_CENTERED(decode(one.image).crop((0, 2, 14, 10)), 8)
    assert all(torch.equal(crop, expected) for crop in item.crops)
    assert item.text is None


def test_regions_are_those_that_other_methods_draw() -> None:
    one = sample("k", regions=6)
    for epoch in range(5):
        squashed = prepared(one, max_regions=2, resize="squash", epoch=epoch)
        other = METHODS["fineclip"].build_transform(INPUTS, FineCLIPConfig(), max_regions=2)(
            one, sample_rng(0, epoch, "k")
        )
        assert torch.equal(squashed.boxes, other.boxes)
        assert all(map(torch.equal, squashed.crops, other.crops))


def test_an_image_without_regions_has_fields_without_rows() -> None:
    item = prepared(sample("k", regions=0))
    assert item.boxes.shape == (0, 4)
    assert item.crops == ()


def test_the_loss_is_one_minus_the_cosine_to_the_initial_encoder() -> None:
    method, batch = made("clipself", {}), batch_of([1, 0, 2])
    with torch.no_grad():
        for parameter in method.encoder.parameters():
            parameter.add_(0.05)
    region = method.encoder.encode_regions(batch.images, batch.boxes, batch.box_to_image)
    crop = tiny_encoder().encode_image(batch.crops)
    losses = GradCache(method)(batch)
    torch.testing.assert_close(losses.total, (1 - torch.cosine_similarity(region, crop)).mean())
    assert set(losses.terms) == {"distill"}


def test_no_text_is_needed() -> None:
    method, batch = made("clipself", {}), batch_of([1, 2])
    expected = GradCache(method)(batch).total
    batch.texts = batch.region_texts = None
    assert torch.equal(GradCache(method)(batch).total, expected)


def test_unused_parameters_have_no_gradient_and_no_decay() -> None:
    method = made("clipself", {})
    optimizer = build_optimizer(method.parameter_groups(), TrainConfig(weight_decay=0.5, learning_rate=0.1))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    _, gradients = outcome_of(method, batch_of([2, 1]))
    optimizer.step()
    vision = {f"encoder.{name}" for name, _ in method.encoder.vision_parameters()}
    assert {name for name, value in gradients.items() if value is not None} == vision
    # query and key of the last block are rows of the packed weight that also holds the value: their gradient is 0
    packed = gradients["encoder.visual.transformer.resblocks.1.attn.in_proj_weight"]
    width = len(packed) // 3
    assert packed[: 2 * width].abs().max() == 0
    assert packed[2 * width :].abs().max() > 0
    after = method.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == vision


@pytest.mark.parametrize("regions", [(0, 0), (1,), (0, 3)])
def test_few_regions(regions: tuple[int, ...]) -> None:
    values, gradients = outcome_of(made("clipself", {}), batch_of(regions))
    assert (values["total"] == 0) == (sum(regions) == 0)
    assert all(torch.isfinite(value).all() for value in gradients.values() if value is not None)


def test_the_teacher_stays_in_evaluation_mode() -> None:
    method = made("clipself", {}).train()
    assert method.encoder.visual.training
    assert not any(module.training for module in method.teacher.modules())


def test_text_cannot_learn() -> None:
    with pytest.raises(ConfigError, match=r"methods.clipself.*train_text: true"):
        parse(CLIPSelfConfig, {"train_text": True}, where="methods.clipself")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    return write_world(tmp_path_factory.mktemp("world"), {"a": 6, "b": 4})


@pytest.mark.parametrize("regions", ["proposals", "patches"])
def test_resume_continues_from_trained_weights_and_not_from_the_mixture(
    world: tuple[Path, list[Path]], tmp_path: Path, regions: str
) -> None:
    options = {"regions": regions, "max_split": 2, "wise_ft_alpha": 0.5}

    def fresh(folder: str):
        return training_of(world, tmp_path / folder, method="clipself", options=options)

    whole = fresh("whole")
    train(whole)

    class KilledError(BaseException):
        pass

    def publish_and_die() -> None:
        stopped.method.export_encoder()
        raise KilledError

    stopped = fresh("stopped")
    stop_before(stopped, 4, publish_and_die)
    with pytest.raises(KilledError):
        train(stopped)
    done, content = stopped.checkpoints.load_latest()
    assert 0 < done < whole.steps
    again = fresh("stopped")
    train(again)
    assert all(torch.equal(value, weights_of(whole)[name]) for name, value in weights_of(again).items())
    kept, first = content["method"]["encoder.visual.proj"], content["method"]["teacher.visual.proj"]
    assert torch.equal(first, tiny_encoder(dtype=torch.float32).visual.proj)
    assert not torch.equal(kept, first)

    published, trained = again.method.export_encoder(), again.method.encoder
    half = (trained.visual.proj + first) / 2
    torch.testing.assert_close(published.visual.proj, half.detach(), rtol=1e-6, atol=1e-7)
    assert not np.allclose(half.detach().numpy(), trained.visual.proj.detach().numpy())

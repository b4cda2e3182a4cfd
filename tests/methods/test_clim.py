"""CLIM: how a batch becomes mosaics, which process sees them, and that several processes are one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fineclip.config import CLIMConfig, LoaderConfig, load, parse, read_files
from fineclip.errors import ConfigError
from fineclip.losses.contrastive import contrastive_loss
from fineclip.methods.base import groups_within
from fineclip.methods.clim import CLIM, make_mosaics, mosaic_sides, tile_boxes, tiled
from fineclip.methods.clip import CLIP
from fineclip.methods.transforms import DataSpec, ImageGroup, sample_rng
from fineclip.models.images import SQUASH_BICUBIC
from fineclip.shards.images import decode
from fineclip.train.data import to_device
from fineclip.train.distributed import StepSignal
from fineclip.train.grad_cache import GradCache
from fineclip.train.train import train
from fineclip.types import Batch, Counts
from tests.helpers.methods import Outcome, assert_processes_equal_one, made, outcome_of, outcome_of_part
from tests.helpers.packs import HEIGHT, WIDTH, sample, write_world
from tests.helpers.processes import run_processes
from tests.helpers.tiny import TinyTokenizer, batch_of, parts_of, tiny_encoder
from tests.helpers.training import lines_of, training_of

ROOT = Path(__file__).parents[2]
INPUTS = DataSpec(TinyTokenizer(), image_size=16, crop_size=8, loader=LoaderConfig(image_backend="pillow"))
SMALL: dict[str, Any] = {"mosaics": [2], "mosaic_size": 24}
World = tuple[Path, list[Path]]


def test_the_plan_of_a_batch() -> None:
    assert mosaic_sides(32, (2, 3, 4)) == [2, 3, 4]
    assert mosaic_sides(128, (2, 3, 4)) == [2] * 4 + [3] * 4 + [4] * 4
    assert mosaic_sides(57, (2, 3, 4)) == [2, 3, 4]
    assert mosaic_sides(58, (2, 3, 4)) == [2, 2, 3, 3, 4, 4]
    assert mosaic_sides(28, (2, 3, 4)) == []
    assert mosaic_sides(9, (2,)) == [2, 2]


def test_a_rank_has_whole_groups() -> None:
    sizes = [4, 9, 16, 1, 1, 1]
    assert groups_within(sizes, range(32)) == sizes
    assert groups_within(sizes, range(4)) == [4]
    assert groups_within(sizes, range(4, 13)) == [9]
    assert groups_within(sizes, range(13, 30)) == [16, 1]
    assert groups_within(sizes, range(29, 32)) == [1, 1, 1]
    assert groups_within(sizes, range(4, 4)) == groups_within(sizes, range(6, 6)) == []
    for images in (range(3), range(5), range(3, 13), range(5, 13), range(14, 20)):
        with pytest.raises(AssertionError, match="are one group, but this rank has"):
            groups_within(sizes, images)


def test_tiles_are_laid_row_by_row() -> None:
    tiles = torch.arange(9.0).view(9, 1, 1, 1).expand(9, 3, 2, 2)
    mosaic = tiled(tiles, 3)
    assert mosaic.shape == (3, 6, 6)
    expected = torch.tensor([[0.0, 1, 2], [3, 4, 5], [6, 7, 8]]).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(mosaic, expected.expand(3, 6, 6))


def test_a_tile_keeps_its_pixels_and_lies_where_its_box_says() -> None:
    images = torch.randn(13, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = make_mosaics(images, [2, 3], size=48)
    assert whole.shape == (2, 3, 48, 48)
    boxes, owners = tile_boxes([2, 3], device=torch.device("cpu"))
    assert owners.tolist() == [0] * 4 + [1] * 9
    for index, (box, owner) in enumerate(zip(boxes * 48, owners, strict=True)):
        x1, y1, x2, y2 = box.round().int().tolist()
        part = whole[owner, :, y1:y2, x1:x2]
        # a tile blown up by a whole number keeps its mean but for the seam
        torch.testing.assert_close(part.mean(dim=(1, 2)), images[index].mean(dim=(1, 2)), atol=0.1, rtol=0)
    unchanged = make_mosaics(images[4:], [3], size=24)
    torch.testing.assert_close(unchanged[0], tiled(images[4:], 3))
    assert make_mosaics(images[:0], [], size=48).shape[0] == 0


def test_the_loss_is_the_contrast_of_tiles_and_single_images_with_captions() -> None:
    method, batch = made("clim", SMALL), batch_of([0] * 6)
    encoder = method.encoder
    mosaic = make_mosaics(batch.images[:4], [2], size=24)
    quarters = torch.tensor([[0, 0, 1, 1], [1, 0, 2, 1], [0, 1, 1, 2], [1, 1, 2, 2]], dtype=torch.float64) / 2
    tiles = encoder.encode_regions(mosaic, quarters, torch.zeros(4, dtype=torch.int64))
    visual = torch.cat([tiles, encoder.encode_image(batch.images[4:])])
    expected = contrastive_loss(
        visual, encoder.encode_text(batch.texts), logit_scale=encoder.logit_scale.exp(), counts=[6]
    )
    losses = GradCache(method)(batch)
    torch.testing.assert_close(losses.total, expected)
    assert set(losses.terms) == {"contrast"}


def test_every_part_of_the_vision_tower_learns_and_no_text() -> None:
    _, gradients = outcome_of(made("clim", SMALL), batch_of([0] * 6))
    found = {name.removeprefix("encoder.") for name, value in gradients.items() if value is not None}
    encoder = tiny_encoder()
    assert found == {name for name, _ in encoder.vision_parameters()} | {"logit_scale"}


def test_class_token_path_is_skipped_without_single_images() -> None:
    method = made("clim", SMALL)
    called: list[int] = []
    own = method.encoder.encode_image
    method.encoder.encode_image = lambda images: called.append(len(images)) or own(images)
    _, gradients = outcome_of(method, batch_of([0] * 8))
    assert called == []
    packed = gradients["encoder.visual.transformer.resblocks.1.attn.in_proj_weight"]
    assert packed[: 2 * len(packed) // 3].abs().max() == 0  # query and key of the last block
    outcome_of(method, batch_of([0] * 9))
    assert called == [1]


def test_a_text_tower_may_learn() -> None:
    method = made("clim", SMALL | {"train_text": True})
    _, gradients = outcome_of(method, batch_of([0] * 6))
    assert all(gradients[f"encoder.{name}"] is not None for name, _ in method.encoder.text_parameters())


def test_example_is_a_random_crop_and_a_caption() -> None:
    one = sample("k")
    prepare = CLIM.build_transform(INPUTS, CLIMConfig(crop_area=(0.25, 0.25)), max_regions=0)
    items = [prepare(one, sample_rng(0, epoch, "k")) for epoch in range(12)]
    assert all(item.image.shape == (3, 16, 16) and item.boxes is None for item in items)
    assert len({item.image.numpy().tobytes() for item in items}) == 12
    again = prepare(one, sample_rng(0, 3, "k"))
    assert torch.equal(again.image, items[3].image)
    whole = CLIM.build_transform(INPUTS, CLIMConfig(crop_area=(1, 1)), max_regions=0)(one, sample_rng(0, 0, "k"))
    # no part of the right aspect has the area of the whole: what is left is the largest in the middle
    wide = round(HEIGHT * 4 / 3)
    left = (WIDTH - wide) // 2
    expected = SQUASH_BICUBIC(decode(one.image).crop((left, 0, left + wide, HEIGHT)), 16)
    assert torch.equal(whole.image, expected)
    same = CLIP.build_transform(INPUTS, CLIP.config_type(), max_regions=0)(one, sample_rng(0, 0, "k"))
    assert torch.equal(whole.text, same.text)


def test_groups_are_the_mosaics_then_each_image() -> None:
    method = made("clim", {"mosaics": [2, 3], "mosaic_size": 24})
    assert method.image_groups(15) == [4, 9, 1, 1]
    assert method.image_groups(13) == [4, 9]


def test_the_cost_of_a_group_is_its_pixels(world: World, tmp_path: Path) -> None:
    options = {"mosaics": [2, 3], "mosaic_size": 24}
    training = training_of(world, tmp_path, method="clim", options=options, batch_size=14)
    assert training.image_groups == [ImageGroup(4, 24**2), ImageGroup(9, 24**2), ImageGroup(1, 16**2)]


@pytest.mark.parametrize("images", [1, 28])
def test_too_few_images_for_mosaics_are_refused(images: int) -> None:
    method = made("clim", {"mosaic_size": 24})
    with pytest.raises(ConfigError, match=rf"batch_size: a step has {images} images, but a set of mosaics takes 29"):
        method.image_groups(images)


def test_mosaics_that_are_no_whole_patches_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"mosaic_size: 30 px is not a multiple of the encoder's patch of 4 x 4 px"):
        made("clim", {"mosaic_size": 30})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mosaics": []}, "mosaics"),
        ({"mosaics": [1]}, "mosaics"),
        ({"crop_area": [0.9, 0.5]}, "crop_area.*0.9.*0.5"),
        ({"crop_area": [0, 1]}, "crop_area"),
        ({"resize": "letterbox"}, "resize"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(CLIMConfig, options, where="methods.clim")


def test_a_plan_with_a_batch_too_small_for_mosaics_is_refused() -> None:
    values = read_files([ROOT / "config.yaml"])
    values["plan"]["methods"] = ["clim"]
    values["train"]["batch_size"] = 29
    load(values)
    values["train"]["batch_size"] = 28
    with pytest.raises(ConfigError, match=r"train\.batch_size: 28, but run clim-mini-500-s0 needs at least 29 images"):
        load(values)
    values["methods"]["clim"]["mosaics"] = [2, 3]
    load(values)


# images, mosaics, and how the images lie on the processes
HAND_MADE: dict[int, list[tuple[int, tuple[int, ...], tuple[int, ...]]]] = {
    2: [(9, (2,), (4, 5)), (9, (2,), (9, 0)), (9, (2,), (0, 9)), (8, (2,), (8, 0)), (15, (2, 3), (13, 2))],
    3: [(9, (2,), (4, 4, 1)), (9, (2,), (0, 8, 1)), (15, (2, 3), (4, 9, 2)), (13, (2, 3), (4, 0, 9))],
}


@pytest.mark.parametrize("world_size", HAND_MADE)
def test_processes_equal_one(world_size: int) -> None:
    cases = HAND_MADE[world_size]
    everywhere = run_processes(each_case, [cases] * world_size)
    for number, (images, mosaics, split) in enumerate(cases):
        whole = outcome_of(made("clim", SMALL | {"mosaics": mosaics}), batch_of([0] * images))
        own = [outcomes[number] for outcomes in everywhere]
        assert_processes_equal_one(own, whole, (images, mosaics, split))


def each_case(cases: list[tuple[int, tuple[int, ...], tuple[int, ...]]]) -> list[Outcome]:
    rank = torch.distributed.get_rank()
    return [
        outcome_of_part(
            made("clim", SMALL | {"mosaics": mosaics}), parts_of(batch_of([0] * images), [0] * images, split)[rank]
        )
        for images, mosaics, split in cases
    ]


LARGE = {"mosaics": [2], "mosaic_size": 64}  # a mosaic costs as much as 16 images: of three processes one has nothing


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_world(tmp_path_factory.mktemp("world"), {"a": 6, "b": 4, "c": 6})


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_with_the_shares_of_the_loop_equal_one(world: World, tmp_path: Path, world_size: int) -> None:
    alone = steps_of_the_loop(0, 1, world, tmp_path)
    everywhere = run_processes(
        steps_of_the_loop, range(world_size), [world_size] * world_size, [world] * world_size, [tmp_path] * world_size
    )
    for number, (keys, whole) in enumerate(alone):
        own = [steps[number] for steps in everywhere]
        assert [key for part, _ in own for key in part] == keys
        assert_processes_equal_one([outcome for _, outcome in own], whole, number)
    shares = [[len(keys) for keys, _ in steps] for steps in everywhere]
    assert shares == ([[8, 8, 4, 4], [3, 3, 7, 7]] if world_size == 2 else [[4, 4, 4, 4], [4, 4, 0, 0], [3, 3, 7, 7]])


def steps_of_the_loop(rank: int, world_size: int, world: World, folder: Path) -> list[tuple[list[str], Outcome]]:
    """Keys, losses and gradients of two epochs of one step, with small and with large mosaics, in float64."""
    steps = []
    for options in (SMALL, LARGE):
        training = training_of(
            world, folder, rank=rank, world_size=world_size, method="clim", options=options, batch_size=11, epochs=2
        )
        for host in training.batches(0):
            counts, _ = training.context.all_gather_counts(len(host.keys), host.regions, StepSignal.CONTINUE)
            batch = to_device(host, counts, torch.device("cpu"), seed=0)
            method = made("clim", options)
            steps.append((list(batch.keys), outcome_of(method, batch, training.context.wrap(GradCache(method)))))
    return steps


def test_fewer_samples_than_mosaics_take_are_refused_before_the_first_step(world: World, tmp_path: Path) -> None:
    training = training_of(world, tmp_path, method="clim", options={"mosaic_size": 24}, batch_size=64)
    with pytest.raises(ConfigError, match="a step has 16 of 16 samples, but the method needs at least 29"):
        train(training)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_fewer_samples_than_a_batch_make_mosaics_of_all_of_them(world: World, tmp_path: Path) -> None:
    training = training_of(world, tmp_path, method="clim", options=SMALL, batch_size=64, epochs=2)
    assert [group.images for group in training.image_groups] == [4, 4, 4, 4]
    train(training)
    lines = lines_of(tmp_path / "metrics.jsonl")
    assert all(line["images"] == 16 and line["total"] == line["contrast"] for line in lines)


def test_loss_decreases(world: World, tmp_path: Path) -> None:
    options = {"mosaics": [2], "mosaic_size": 32}
    train(training_of(world, tmp_path, method="clim", options=options, epochs=12, batch_size=16, log_every_steps=1))
    totals = [line["total"] for line in lines_of(tmp_path / "metrics.jsonl")]
    assert totals[-1] < 0.8 * totals[0]


def test_images_are_all_that_a_part_needs() -> None:
    batch: Batch = batch_of([0] * 6)
    images, texts = batch.images, batch.texts
    bare = Batch(batch.keys, Counts([6], [0]), images=images, texts=texts)
    values: list[Tensor] = [GradCache(made("clim", SMALL))(one).total for one in (batch, bare)]
    assert torch.equal(*values)

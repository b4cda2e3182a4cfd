"""What is drawn of a sample, and what becomes of boxes and crops."""

import numpy as np
import pytest
import torch

from fineclip.config import CLIPConfig, FineCLIPConfig, LoaderConfig
from fineclip.errors import ConfigError
from fineclip.methods import METHODS
from fineclip.methods.transforms import (
    RESIZES,
    DataSpec,
    TrainingExample,
    draw_caption,
    draw_regions,
    fractions,
    grid_boxes,
    sample_rng,
    stack_boxes,
)
from fineclip.shards.images import decode
from fineclip.types import Box, Region, Sample
from tests.helpers.packs import HEIGHT, WIDTH, picture, sample
from tests.helpers.tiny import TinyTokenizer, tiny_encoder

INPUTS = DataSpec(TinyTokenizer(), image_size=16, crop_size=8, loader=LoaderConfig(image_backend="pillow"))


def regions_of(*captions: str | None) -> Sample:
    regions = tuple(Region(Box(0, 0, 8, 8), 0.5, str(index), caption) for index, caption in enumerate(captions))
    return Sample("k", picture(0), WIDTH, HEIGHT, ("a",), regions=regions)


def test_draws_depend_on_seed_epoch_and_key_alone() -> None:
    draws = {
        arguments: sample_rng(*arguments).random() for arguments in [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b")]
    }
    assert len(set(draws.values())) == 4
    assert sample_rng(0, 0, "a").random() == draws[0, 0, "a"]


def test_every_caption_is_drawn_about_as_often() -> None:
    drawn = [draw_caption(("a", "b", "c"), sample_rng(0, epoch, "k")) for epoch in range(300)]
    assert all(70 < drawn.count(caption) < 130 for caption in "abc")
    assert draw_caption((), sample_rng(0, 0, "k")) == ""


def test_regions_without_caption_or_area_are_left_out() -> None:
    found = regions_of("a", None, " ", "b")
    outside = Region(Box(WIDTH + 1, 0, WIDTH + 9, 8), 0.5, "outside", "c")
    every = Sample("k", b"", WIDTH, HEIGHT, (), regions=(*found.regions, outside))
    assert [region.label for region in draw_regions(every, sample_rng(0, 0, "k"), at_most=9)] == ["0", "3"]


def test_more_regions_than_wanted_are_thinned_at_random_in_stored_order() -> None:
    many = regions_of(*"abcdef")
    drawn = [tuple(r.label for r in draw_regions(many, sample_rng(0, epoch, "k"), at_most=2)) for epoch in range(200)]
    assert all(len(labels) == 2 and list(labels) == sorted(labels) for labels in drawn)
    assert len(set(drawn)) == 15  # all pairs of six
    counts = [sum(label in labels for labels in drawn) for label in "012345"]
    assert min(counts) > 40


def test_a_box_is_clipped_and_given_in_fractions() -> None:
    reaching = Region(Box(-4, 4, 12, HEIGHT + 3), 0.5, "x", "c")
    [region] = draw_regions(Sample("k", b"", WIDTH, HEIGHT, (), regions=(reaching,)), sample_rng(0, 0, "k"), at_most=1)
    assert fractions(region.box, sample("k")) == (0.0, 4 / HEIGHT, 12 / WIDTH, 1.0)


def test_a_box_on_a_letterboxed_square_leaves_the_black_uncovered() -> None:
    one = sample("k")  # 24 x 16
    letterbox = RESIZES["letterbox"]
    assert letterbox.fractions(Box(0, 0, WIDTH, HEIGHT), one) == (0, 0, 1, HEIGHT / WIDTH)
    assert letterbox.fractions(Box(6, 4, 12, 16), one) == (6 / 24, 4 / 24, 12 / 24, 16 / 24)
    assert RESIZES["squash"].fractions(Box(6, 4, 12, 16), one) == (6 / 24, 4 / 16, 12 / 24, 1)


def test_usable_condition_is_set_by_the_method() -> None:
    drawn = draw_regions(regions_of("a", None, "b"), sample_rng(0, 0, "k"), at_most=9, usable=lambda _: True)
    assert [region.label for region in drawn] == ["0", "1", "2"]


def test_cells_of_a_grid() -> None:
    assert grid_boxes(1, 1) == [(0, 0, 1, 1)]
    assert grid_boxes(1, 2, width=8, height=6) == [(0, 0, 4, 6), (4, 0, 8, 6)]
    assert grid_boxes(2, 1, width=8, height=6) == [(0, 0, 8, 3), (0, 3, 8, 6)]


def test_no_boxes_are_a_tensor_too() -> None:
    assert stack_boxes([]).shape == (0, 4)
    assert stack_boxes([(0, 0, 1, 1)]).dtype == torch.float32


def test_clip_takes_image_and_caption() -> None:
    prepare = METHODS["clip"].build_transform(INPUTS, CLIPConfig(), max_regions=3)
    item = prepare(sample("k"), sample_rng(0, 0, "k"))
    assert item.image.shape == (3, 16, 16)
    assert item.image.dtype == torch.uint8
    captions = TinyTokenizer()(sample("k").captions)
    assert any(torch.equal(item.text, caption) for caption in captions)
    assert item.boxes is item.crops is item.region_texts is None


def test_fineclip_takes_regions_too_and_draws_the_same_caption() -> None:
    one = sample("k", regions=3)
    items = [
        METHODS[name].build_transform(INPUTS, METHODS[name].config_type(), max_regions=2)(one, sample_rng(0, 0, "k"))
        for name in ("clip", "fineclip")
    ]
    assert torch.equal(items[0].text, items[1].text)
    assert items[1].boxes.shape == (2, 4)
    assert items[1].region_texts.shape == (2, 8)
    assert [crop.shape for crop in items[1].crops] == [(3, 8, 8)] * 2


def test_a_crop_is_the_enlarged_box_as_far_as_the_image_reaches() -> None:
    prepare = METHODS["fineclip"].build_transform(INPUTS, FineCLIPConfig(crop_scale=2), max_regions=1)
    region = Region(Box(2, 4, 10, 8), 0.5, "x", "c")  # twice as large: (-2, 2, 14, 10), clipped (0, 2, 14, 10)
    one = Sample("k", picture(3), WIDTH, HEIGHT, ("a",), regions=(region,))
    expected = decode(one.image).crop((0, 2, 14, 10)).resize((8, 8), 2)
    crop = prepare(one, sample_rng(0, 0, "k")).crops[0]
    assert np.array_equal(crop.permute(1, 2, 0).numpy(), np.asarray(expected))


def test_relaxed_options_make_crops_smaller_and_regions_fewer_and_draw_the_rest_as_ever() -> None:
    one = sample("k", regions=6)

    def visited(at_most: int, **relaxed: int) -> TrainingExample:
        options = FineCLIPConfig.model_validate({"relaxed": relaxed})
        return METHODS["fineclip"].build_transform(INPUTS, options, max_regions=at_most)(one, sample_rng(0, 0, "k"))

    usual, smaller, fewer = visited(4), visited(4, crop_size=4), visited(4, max_regions=2)
    assert [crop.shape for crop in smaller.crops] == [(3, 4, 4)] * 4
    assert torch.equal(smaller.image, usual.image) and torch.equal(smaller.boxes, usual.boxes)
    expected = visited(2)
    for name in ("image", "text", "boxes", "region_texts"):
        assert torch.equal(getattr(fewer, name), getattr(expected, name)), name
    assert all(map(torch.equal, fewer.crops, expected.crops)) and len(fewer.crops) == len(expected.crops) == 2
    assert len(visited(2, max_regions=5).boxes) == 2


def test_smaller_crops_are_whole_patches() -> None:
    options = FineCLIPConfig.model_validate({"relaxed": {"crop_size": 6}})
    with pytest.raises(
        ConfigError,
        match=r"methods\.fineclip\.relaxed\.crop_size: 6 px is not a multiple of the encoder's patch of 4 x 4 px",
    ):
        METHODS["fineclip"].build(tiny_encoder(), options, INPUTS)


@pytest.mark.parametrize("distill", [0.0, 1.0])
def test_an_image_without_regions_has_fields_without_rows(distill: float) -> None:
    options = FineCLIPConfig.model_validate({"weights": {"distill": distill}})
    item = METHODS["fineclip"].build_transform(INPUTS, options, max_regions=2)(
        sample("k", regions=0), sample_rng(0, 0, "k")
    )
    assert item.boxes.shape == (0, 4)
    assert item.region_texts.shape == (0, 8)
    assert item.crops == (() if distill else None)


@pytest.mark.parametrize("box", [Box(WIDTH, 0, WIDTH + 8, 8), Box(0, HEIGHT, 8, HEIGHT + 8), Box(0, -8, 8, 0)])
def test_a_box_beside_the_image_is_left_out(box: Box) -> None:
    beside = Sample("k", b"", WIDTH, HEIGHT, (), regions=(Region(box, 0.5, "x", "c"),))
    assert draw_regions(beside, sample_rng(0, 0, "k"), at_most=9) == []

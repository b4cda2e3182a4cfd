"""Shared parts of the trainings: pictures, vocabulary, fast forward passes, labels. Nothing is trained."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from fineclip.miniature.scenes import THINGS, draw_scene
from fineclip.miniature.seeds import VALIDATION
from tools.shipped_models import bpe, captioner_files, encoder_files
from tools.shipped_models.detector_scenes import label_lines
from tools.shipped_models.detector_scores import Predicted, detector_scores
from tools.shipped_models.fast_clip import encode_images, encode_texts, resize_positions
from tools.shipped_models.pictures import Plan, detected_frame, draw_pictures, loose_frame, square_frame


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    folder = tmp_path_factory.mktemp("encoder")
    encoder_files.write_description(folder)
    torch.manual_seed(0)
    return encoder_files.new_model(folder).eval()


def test_fast_forward_is_open_clips(model: torch.nn.Module) -> None:
    images, texts = torch.randn(3, 3, 96, 96), torch.randint(1, 600, (4, 20))
    texts[torch.arange(4), torch.tensor([3, 7, 12, 19])] = 727  # the end token, the highest
    with torch.no_grad():
        torch.testing.assert_close(encode_images(model, images), model.encode_image(images, normalize=True))
        torch.testing.assert_close(encode_texts(model, texts), model.encode_text(texts, normalize=True))


def test_positions_keep_the_class_row_and_constants() -> None:
    positions = torch.ones(65, 4)
    positions[0] = 7
    smaller = resize_positions(positions, 4)
    assert smaller.shape == (17, 4)
    assert (smaller[0] == 7).all()
    torch.testing.assert_close(smaller[1:], torch.ones(16, 4))
    assert resize_positions(positions, 8) is positions


def test_merges_by_hand() -> None:
    assert bpe.learn_merges(["ab"]) == [("a", "b</w>")]
    assert bpe.learn_merges(["aab", "ab"]) == [("a", "b</w>"), ("a", "ab</w>")]


def test_vocabulary_file_is_the_same_each_time(tmp_path) -> None:
    sizes = [bpe.write_bpe(tmp_path / name) for name in ("one", "two")]
    assert sizes[0] == sizes[1]
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_pictures_show_every_thing_and_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(VALIDATION, 6, 96, 48, loose_frame)
    whole = draw_pictures(plan)
    monkeypatch.setattr("tools.shipped_models.pictures.CHUNK_SCENES", 4)
    parts = draw_pictures(plan)
    assert whole.scenes.shape == (6, 96, 96, 3)
    assert whole.close_ups.shape == (len(whole.things), 48, 48, 3)
    assert np.array_equal(whole.close_ups, parts.close_ups)
    assert whole.things == parts.things


def test_frames() -> None:
    generator = np.random.default_rng(0)
    assert square_frame((10, 20, 30, 30), generator) == pytest.approx((8, 13, 32, 37))
    for _ in range(50):
        x1, y1, x2, y2 = detected_frame((100, 100, 200, 200), generator)
        assert 109 <= x2 - x1 <= 130
        assert abs((x1 + x2) / 2 - 150) <= 8
        assert abs((y1 + y2) / 2 - 150) <= 8
        x1, y1, x2, y2 = loose_frame((100, 100, 200, 150), generator)
        assert 100 <= x2 - x1 <= 150
        assert 50 <= y2 - y1 <= 150


def test_label_lines_give_the_box_back() -> None:
    scene = draw_scene(VALIDATION, 3)
    height, width = scene.panoptic.shape
    for line, thing in zip(label_lines(scene).splitlines(), scene.things, strict=True):
        label, x, y, box_width, box_height = line.split()
        assert THINGS[int(label)] == thing.label
        x1, x2 = (float(x) + sign * float(box_width) / 2 for sign in (-1, 1))
        y1, y2 = (float(y) + sign * float(box_height) / 2 for sign in (-1, 1))
        assert (x1 * width, y1 * height, x2 * width, y2 * height) == pytest.approx(thing.box, abs=1e-3)


def test_a_perfect_detector_and_a_blind_one() -> None:
    scenes = [draw_scene(VALIDATION, index) for index in range(5)]
    boxes = [np.array([thing.box for thing in scene.things]) for scene in scenes]
    labels = [np.array([THINGS.index(thing.label) for thing in scene.things]) for scene in scenes]
    perfect = [Predicted(box, np.ones(len(box)), label) for box, label in zip(boxes, labels, strict=True)]
    color_blind = [one._replace(labels=(one.labels + 1) % 20) for one in perfect]
    unsure = [one._replace(scores=np.full(len(one.boxes), 0.1)) for one in perfect]
    assert detector_scores(scenes, perfect, 0.5) == {"found": 100, "found_and_named": 100, "boxes_per_thing": 1}
    assert detector_scores(scenes, color_blind, 0.5)["found_and_named"] == 0
    assert detector_scores(scenes, unsure, 0.5) == {"found": 0, "found_and_named": 0, "boxes_per_thing": 0}


def test_captioner_words_are_unique_and_cover_captions() -> None:
    assert len(set(captioner_files.WORDS)) == len(captioner_files.WORDS)
    assert captioner_files.WORDS[captioner_files.SPECIALS] == "a"


def test_bpe_joins_every_word() -> None:
    ranks = {pair: rank for rank, pair in enumerate(bpe.learn_merges(bpe.words_to_know()))}
    for word in bpe.words_to_know():
        symbols = (*word[:-1], f"{word[-1]}</w>")
        while len(symbols) > 1:
            best = min(pairwise(symbols), key=lambda pair: ranks.get(pair, len(ranks)))
            assert best in ranks
            symbols = bpe._merge(symbols, best)

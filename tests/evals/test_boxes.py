"""Candidates of a box, class means, and chance."""

import numpy as np
import pytest

from fineclip.evals.benchmarks.boxes import box_chance, box_scores

CLASSES = np.eye(4, dtype=np.float32)
IS_THING = np.array([True, True, False, False])


def scores(regions: np.ndarray, labels: list[int], candidates: str) -> dict[str, tuple[float, int]]:
    found = box_scores(np.float32(regions), CLASSES, np.array(labels), IS_THING, candidates=candidates)
    return {score.metric: (score.value, score.n) for score in found}


def test_a_thing_behind_stuff_is_right_only_among_things() -> None:
    regions = [[0.5, 0.1, 0.9, 0], [0, 0.8, 0.1, 0.2], [0, 0, 0.9, 0.3]]
    among_all = scores(regions, [0, 1, 2], "all")
    assert among_all["things/top1"] == (50.0, 2)
    assert among_all["stuff/top1"] == (100.0, 1)
    assert among_all["all/top1"] == (pytest.approx(200 / 3), 3)
    among_own = scores(regions, [0, 1, 2], "own_kind")
    assert among_own["things/top1"] == (100.0, 2)
    assert among_own["all/top1"] == among_all["all/top1"]


def test_every_class_weighs_the_same() -> None:
    regions = [[1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    assert scores(regions, [0, 0, 0, 1], "all")["things/top1"] == (50.0, 4)


def test_a_kind_without_boxes_has_no_score() -> None:
    assert set(scores([[1, 0, 0, 0]], [0], "all")) == {"things/top1", "things/top5", "all/top1", "all/top5"}


def test_chance() -> None:
    is_thing = np.arange(26) < 20
    own = box_chance(is_thing, candidates="own_kind")
    assert own["things/top1"] == 5
    assert own["things/top5"] == 25
    assert own["stuff/top5"] == pytest.approx(500 / 6)
    assert own["all/top1"] == pytest.approx(100 / 26)
    among_all = box_chance(is_thing, candidates="all")
    assert among_all["stuff/top1"] == pytest.approx(100 / 26)
    assert among_all["stuff/top5"] == pytest.approx(500 / 26)
    assert box_chance(np.ones(3, dtype=bool), candidates="all") == {
        "things/top1": pytest.approx(100 / 3),
        "things/top5": 100,
        "all/top1": pytest.approx(100 / 3),
        "all/top5": 100,
    }

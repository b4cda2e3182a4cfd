"""The numbers of the authors' own counting, and the texts of their prompts."""

import numpy as np
import pytest

from fineclip.evals.benchmarks.boxes import box_scores
from fineclip.evals.benchmarks.retrieval import retrieval_scores
from fineclip.evals.metrics import class_mean_accuracy
from fineclip.models.prompt_templates import VILD_TEMPLATES, prompts_for
from tests.helpers.golden import numbers, values

HALF_PRECISION = 2.5e-4  # what rounding the accuracy of a class to float16 may take away


@pytest.fixture
def regions() -> dict[str, np.ndarray]:
    return numbers("metrics/macc.npz")


def test_class_mean_accuracy(regions: dict[str, np.ndarray]) -> None:
    expected = values("metrics/macc.json")
    labels, things = regions["labels"], regions["is_thing"].astype(bool)
    for kind, rows in (("all", np.ones_like(things)), ("thing", things), ("stuff", ~things)):
        for k in (1, 5):
            correct = regions["correct_top5"][rows, :k].any(axis=1)
            value = class_mean_accuracy(correct, labels[rows])
            assert value == pytest.approx(expected["exact_float64"][kind][f"macc{k}"], abs=1e-12)


def test_the_official_numbers_are_ours_rounded(regions: dict[str, np.ndarray]) -> None:
    """There the accuracy of every class is rounded to float16; FineCLIP counts all classes, CLIPSelf things and stuff."""
    expected, is_thing = values("metrics/macc.json")["official_fp16_rounded"], regions["is_thing"].astype(bool)
    rows = {"rois.box": np.ones_like(is_thing), "rois.thing": is_thing, "rois.stuff": ~is_thing}
    for name, rounded in (expected["fineclip"] | expected["clipself"]).items():
        kind, _, metric = name.rpartition(".")
        correct = regions["correct_top5"][rows[kind], : int(metric.removeprefix("macc"))].any(axis=1)
        found = class_mean_accuracy(correct, regions["labels"][rows[kind]])
        assert found == pytest.approx(rounded, abs=HALF_PRECISION)


def test_box_scores(regions: dict[str, np.ndarray]) -> None:
    """The stored logits as similarities: an embedding that holds a row of them, and classes that pick one each."""
    expected = values("metrics/macc.json")["exact_float64"]
    logits, labels = regions["logits"], regions["labels"]
    classes = np.eye(logits.shape[1], dtype=np.float32)
    is_thing = np.zeros(len(classes), dtype=bool)  # a class that no region has counts nowhere
    is_thing[labels[regions["is_thing"].astype(bool)]] = True
    scores = {score.metric: score for score in box_scores(logits, classes, labels, is_thing, candidates="all")}
    for kind, name in (("all", "all"), ("things", "thing"), ("stuff", "stuff")):
        for k in (1, 5):
            assert scores[f"{kind}/top{k}"].value == pytest.approx(100 * expected[name][f"macc{k}"], abs=1e-10)
            assert scores[f"{kind}/top{k}"].n == expected[name]["n"]


def test_retrieval() -> None:
    expected = values("metrics/retrieval.json")["recall"]
    stored = numbers("metrics/retrieval.npz")
    scores = list(retrieval_scores(stored["image_features"], stored["text_features"], stored["text_to_image_index"]))
    assert {score.metric.replace("/", "_") for score in scores} == expected.keys()
    for score in scores:
        golden = expected[score.metric.replace("/", "_")]
        assert score.value == pytest.approx(100 * golden["value"], abs=1e-10)
        assert score.n == golden["total"]


def test_vild_prompts() -> None:
    golden = values("prompts/prompts.json")
    assert len(VILD_TEMPLATES) == golden["templates"]
    assert golden["prompts"]
    for name, texts in golden["prompts"].items():
        assert prompts_for(name, "vild", is_thing=True) == texts

"""Protocol, scores, counts and chance of each benchmark, with an encoder of known vectors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fineclip.config import BenchmarkConfig, parse
from fineclip.evals.benchmarks.boxes import evaluate_boxes
from fineclip.evals.benchmarks.retrieval import evaluate_retrieval
from fineclip.evals.datasets.benchmark_image import BenchmarkClass
from fineclip.evals.index import Index
from fineclip.evals.metrics import similarity
from fineclip.shards import BenchmarkBox, BenchmarkRow
from fineclip.types import Box

CLASSES = [BenchmarkClass("cup", True), BenchmarkClass("ball", True), BenchmarkClass("sky", False)]
AXES = np.eye(3, dtype=np.float32)


class KnownVectors:
    """Texts that name a class and boxes of its label lie on the axis of that class; image i lies on axis i."""

    image_size = 32

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.sizes: list[int] = []

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        names = [one.name for one in CLASSES]
        return AXES[[next(index for index, name in enumerate(names) if name in text) for text in texts]]

    def images(self, rows: Sequence[BenchmarkRow], *, size: int) -> np.ndarray:
        self.sizes.append(size)
        return AXES[: len(rows)]

    def regions(self, rows: Sequence[BenchmarkRow], *, size: int) -> np.ndarray:
        self.sizes.append(size)
        return AXES[[box.label for row in rows for box in row.boxes]]


def section(kind: str, **keys: Any) -> Any:
    return parse(BenchmarkConfig, {"kind": kind, "source": {"layout": "miniature"}} | keys, where="benchmarks")


def image(key: str, *, captions: Sequence[str] = (), labels: Sequence[int] = ()) -> BenchmarkRow:
    boxes = [BenchmarkBox(Box(0, 0, 5, 5), label) for label in labels]
    return BenchmarkRow(
        key=key, kept=True, file="x", offset=0, size=1, sha256="", width=9, height=9, captions=list(captions), boxes=boxes
    )  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "prompts", "size", "chance"),
    [
        ({}, 1, 32, {"things/top1": 100 / 3, "stuff/top1": 100 / 3, "all/top1": 100 / 3}),
        (
            {"candidates": "own_kind", "prompts": "vild", "image_size": 48},
            63, 48, {"things/top1": 50.0, "stuff/top1": 100.0, "all/top1": 100 / 3},
        ),
    ],
)  # fmt: skip
def test_box_classification(keys: dict[str, Any], prompts: int, size: int, chance: dict[str, float]) -> None:
    encoder, index = KnownVectors(), Index([image("a", labels=[0, 0, 2]), image("b", labels=[1])], CLASSES)
    found = evaluate_boxes(encoder, index, section("boxes", **keys))
    assert encoder.sizes == [size]
    assert len(encoder.asked) == 3 * prompts
    assert found.protocol == {
        "image_size": size,
        "resize": "squash",
        "prompts": keys.get("prompts", "photo"),
        "candidates": keys.get("candidates", "all"),
        "classes": 3,
    }
    assert {metric: found.chance[metric] for metric in chance} == pytest.approx(chance)
    assert {(score.metric, score.value, score.n) for score in found.scores} == {
        (f"{kind}/top{k}", 100.0, n) for kind, n in (("things", 3), ("stuff", 1), ("all", 4)) for k in (1, 5)
    }


def test_a_box_counts_for_its_own_class() -> None:
    """The first box of image b is a ball that looks like a cup: of the things one class of two is right."""
    encoder = KnownVectors()
    encoder.regions = lambda rows, *, size: AXES[[0, 2, 0]]  # type: ignore[method-assign]
    index = Index([image("a", labels=[0, 2]), image("b", labels=[1])], CLASSES)
    scores = {score.metric: score.value for score in evaluate_boxes(encoder, index, section("boxes")).scores}
    assert (scores["things/top1"], scores["stuff/top1"]) == (50.0, 100.0)
    assert scores["all/top1"] == pytest.approx(200 / 3)


def test_retrieval() -> None:
    """Three images with one, two and three captions; the last caption of image 2 is of a cup, which is image 0."""
    captions = [["a cup"], ["a ball", "the ball"], ["the sky", "a sky", "no cup"]]
    index = Index([image(str(n), captions=texts) for n, texts in enumerate(captions)], [])
    encoder = KnownVectors()
    found = evaluate_retrieval(encoder, index, section("retrieval", image_size=64))
    assert encoder.asked == [text for texts in captions for text in texts]
    assert encoder.sizes == [64]
    assert found.protocol == {"image_size": 64, "resize": "squash", "images": 3, "texts": 6}
    scores = {score.metric: (score.value, score.n) for score in found.scores}
    # image 0 ties with the wrong cup, which counts against it; of six texts one is nearer to another image
    assert scores["image_to_text/R@1"] == (pytest.approx(200 / 3), 3)
    assert scores["text_to_image/R@1"] == (pytest.approx(500 / 6), 6)
    assert scores["image_to_text/R@5"] == (100.0, 3)
    # of the six texts one in a random order is right for image 0 with 1/6, for the others with 2/6 and 3/6
    assert found.chance["image_to_text/R@1"] == pytest.approx(100 * (1 + 2 + 3) / 6 / 3)
    assert found.chance["text_to_image/R@1"] == pytest.approx(100 / 3)
    assert found.chance["text_to_image/R@5"] == 100


def test_sizes_are_those_of_the_encoder_unless_the_benchmark_names_one() -> None:
    for kind, evaluate, rows in (
        ("boxes", evaluate_boxes, [image("a", labels=[0])]),
        ("retrieval", evaluate_retrieval, [image("a", captions=["a cup"])]),
    ):
        for keys, size in (({}, 32), ({"image_size": 80}, 80)):
            encoder = KnownVectors()
            found = evaluate(encoder, Index(rows, CLASSES), section(kind, **keys))  # type: ignore[operator]
            assert (encoder.sizes, found.protocol["image_size"]) == ([size], size)


def test_similarities_are_summed_exactly() -> None:
    """In float32 the middle term would be lost behind the first."""
    query, target = np.ones((1, 3), np.float32), np.array([[1e8, 1, -1e8]], np.float32)
    assert similarity(query, target).tolist() == [[1.0]]
    assert similarity(query, target).dtype == np.float32

"""Recall by hand, and chance against random orders."""

import numpy as np
import pytest

from fineclip.evals.benchmarks.retrieval import retrieval_chance, retrieval_scores


def test_recall_by_hand() -> None:
    # twelve images, a text each; image i is as near to text j as -|i - j|, but the last text lies on the first image
    position = np.linspace(0, 1, 12)
    image = np.stack([np.cos(position), np.sin(position)], axis=1).astype(np.float32)
    text = image.copy()
    text[11] = image[0]
    scores = {score.metric: score for score in retrieval_scores(image, text, np.arange(12))}
    # text 11 is nearest to image 0 and furthest from its own; image 0 has two nearest texts, a tie that counts against it
    assert scores["text_to_image/R@1"].value == pytest.approx(100 * 11 / 12)
    assert scores["text_to_image/R@10"].value == pytest.approx(100 * 11 / 12)
    assert scores["image_to_text/R@1"].value == pytest.approx(100 * 10 / 12)
    assert scores["image_to_text/R@5"].value == pytest.approx(100 * 11 / 12)
    assert {score.n for score in scores.values()} == {12}


def test_a_constant_encoder_finds_nothing() -> None:
    scores = retrieval_scores(np.ones((30, 4), np.float32), np.ones((60, 4), np.float32), np.arange(60) // 2)
    assert {score.value for score in scores} == {0.0}


def test_chance_equals_random_orders() -> None:
    owner = np.repeat(np.arange(20), [1, 2, 3, 5, 1] * 4)
    chance = retrieval_chance(owner)
    rng = np.random.default_rng(0)
    draws = [np.stack([rng.permutation(owner)[:10] for _ in range(20)]) for _ in range(2000)]
    for k in (1, 5, 10):
        found = np.mean([(order[:, :k] == np.arange(20)[:, None]).any(axis=1).mean() for order in draws])
        assert chance[f"image_to_text/R@{k}"] == pytest.approx(100 * found, abs=1.0)
        assert chance[f"text_to_image/R@{k}"] == pytest.approx(100 * k / 20)


def test_chance_of_a_set_smaller_than_the_cutoff() -> None:
    assert set(retrieval_chance(np.arange(4)).values()) == {25.0, 100.0}

"""Small matrices with exact answers; ties and NaN count against the model."""

import numpy as np
import pytest

from fineclip.evals import metrics
from fineclip.evals.metrics import best_rank, class_mean_accuracy, label_rank, similarity

EYE = np.eye(3, dtype=np.float32)
EVERY = np.ones(3, dtype=bool)


def test_a_rank_counts_the_classes_above() -> None:
    regions = np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.9, 0.5, 0.1]], dtype=np.float32)
    assert label_rank(regions, EYE, np.array([0, 1, 2]), among_K=EVERY).tolist() == [0, 1, 2]


def test_a_rank_is_among_the_candidates_only() -> None:
    regions = np.array([[0.9, 0.5, 0.1]] * 2, dtype=np.float32)
    among = np.array([False, True, True])
    assert label_rank(regions, EYE, np.array([1, 2]), among_K=among).tolist() == [0, 1]


@pytest.mark.parametrize("value", [0.0, 0.7, np.nan])
def test_a_constant_encoder_is_last(value: float) -> None:
    constant = np.full((3, 3), value, dtype=np.float32)
    assert label_rank(constant, constant, np.arange(3), among_K=EVERY).tolist() == [2, 2, 2]
    own = np.arange(3)
    assert best_rank(constant, constant, image_of_query_Q=own, image_of_target_T=own).tolist() == [2, 2, 2]


def test_one_embedding_that_is_no_number_costs_the_others() -> None:
    broken = EYE.copy()
    broken[2] = np.nan
    assert label_rank(EYE[:2], broken, np.array([0, 1]), among_K=EVERY).tolist() == [1, 1]


def test_the_best_of_several_texts_counts() -> None:
    # texts of images 0 0 1 2; image 0 is nearest to its second text, image 1 to a text of image 0, image 2 to none
    image = np.array([[1, 0, 0], [0.8, 0.6, 0], [0, 0, 1]], dtype=np.float32)
    text = np.array([[0, 1, 0], [1, 0, 0], [0, 0.9, 0.1], [0, 0, -1]], dtype=np.float32)
    owner = np.array([0, 0, 1, 2])
    assert best_rank(image, text, image_of_query_Q=np.arange(3), image_of_target_T=owner).tolist() == [0, 2, 3]
    assert best_rank(text, image, image_of_query_Q=owner, image_of_target_T=np.arange(3)).tolist() == [2, 0, 0, 2]


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    query, target = (rng.standard_normal((rows, 4)).astype(np.float32) for rows in (23, 17))
    owners = {"image_of_query_Q": rng.integers(0, 9, 23), "image_of_target_T": rng.integers(0, 9, 17)}
    labels, among = rng.integers(0, 17, 23), rng.random(17) < 0.5
    whole = best_rank(query, target, **owners), label_rank(query, target, labels, among_K=among)
    monkeypatch.setattr(metrics, "CHUNK_ROWS", 5)
    parts = best_rank(query, target, **owners), label_rank(query, target, labels, among_K=among)
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_array_equal(whole[1], parts[1])


def test_equal_vectors_tie_wherever_they_stand() -> None:
    rng = np.random.default_rng(0)
    query = rng.standard_normal((50, 513)).astype(np.float32)
    target = np.repeat(rng.standard_normal((1, 513)).astype(np.float32), 37, axis=0)
    product = similarity(query, target)
    assert product.dtype == np.float32
    assert (product == product[:, :1]).all()


def test_accuracy_is_the_mean_of_the_classes_that_are_there() -> None:
    correct, labels = np.array([True, True, True, False, False]), np.array([0, 0, 0, 0, 7])
    assert class_mean_accuracy(correct, labels) == (0.75 + 0) / 2
    with pytest.raises(ValueError, match="no class"):
        class_mean_accuracy(np.array([], dtype=bool), np.array([], dtype=np.int64))

"""Prompts and embeddings of classes."""

import numpy as np
import pytest

from fineclip.evals.benchmarks.boxes import class_embedding
from fineclip.models.prompt_templates import prompts_for


@pytest.mark.parametrize(
    ("name", "is_thing", "text"),
    [
        ("ball", True, "a photo of a ball"),
        ("arrow", True, "a photo of an arrow"),
        ("sky", False, "a photo of the sky"),
        ("wall-other-merged", False, "a photo of the wall-other-merged"),
        ("Traffic_light/x.", True, "a photo of a traffic light or x"),
    ],
)
def test_photo(name: str, is_thing: bool, text: str) -> None:
    assert prompts_for(name, "photo", is_thing=is_thing) == [text]


def test_vild_is_the_same_for_things_and_stuff() -> None:
    texts = prompts_for("Umbrella", "vild", is_thing=True)
    assert len(set(texts)) == 63
    assert texts == prompts_for("Umbrella", "vild", is_thing=False)
    assert texts[0] == "There is a umbrella in the scene."  # the article goes by the raw name: lower-case vowels only


def test_the_mean_of_unit_vectors_is_one() -> None:
    prompts = np.array([[[1, 0], [0, 1]], [[0, 1], [0, 1]]], dtype=np.float32)
    half = 0.5**0.5
    np.testing.assert_allclose(class_embedding(prompts), [[half, half], [0, 1]], rtol=1e-6)

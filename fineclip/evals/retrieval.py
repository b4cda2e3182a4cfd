"""Image-text retrieval: recall at k, both ways, over all images and all of their captions at once.

Metrics: `image_to_text/R@1`, `text_to_image/R@1` and the same at 5 and 10.

Source: Karpathy and Fei-Fei 2015: an image is found if any of its texts ranks within k; images squashed and all captions
taken as FineCLIP's test_mscoco.py does. Deviations: float32 features (there: half precision, in which similarities tie),
R@5 and R@10 too, ties against the model.

Legend: I images, T texts, D embedding.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fineclip.config import RetrievalBenchmark
from fineclip.evals.benchmark import Index, Outcome
from fineclip.evals.metrics import best_rank
from fineclip.types import Score

if TYPE_CHECKING:
    from fineclip.evals.embed import Embedder

VERSION = 1  # of the scores: a change of it evaluates every run again
CUTOFFS = (1, 5, 10)


def evaluate_retrieval(embedder: "Embedder", index: Index, config: RetrievalBenchmark) -> Outcome:
    """Scores of an encoder on every image and caption of an index."""
    size = config.image_size or embedder.image_size
    image_ID = embedder.images(index.images, size=size)
    text_TD = embedder.texts([text for image in index.images for text in image.captions])
    image_of_text_T = np.repeat(np.arange(len(index.images)), [len(image.captions) for image in index.images])
    scores = list(retrieval_scores(image_ID, text_TD, image_of_text_T))
    protocol = {"image_size": size, "resize": "squash", "images": len(image_ID), "texts": len(text_TD)}
    return Outcome(scores, retrieval_chance(image_of_text_T), protocol)


def retrieval_scores(image_ID: np.ndarray, text_TD: np.ndarray, image_of_text_T: np.ndarray) -> Iterator[Score]:
    """R@1, R@5 and R@10 in percent, image to text and text to image.

    Args:
        image_ID: unit vectors, float32.
        text_TD: unit vectors, float32.
        image_of_text_T: index of the image that each text describes. An image may have several texts.
    """
    image_of_image_I = np.arange(len(image_ID))
    to_text_I = best_rank(image_ID, text_TD, image_of_query_Q=image_of_image_I, image_of_target_T=image_of_text_T)
    to_image_T = best_rank(text_TD, image_ID, image_of_query_Q=image_of_text_T, image_of_target_T=image_of_image_I)
    for direction, rank in (("image_to_text", to_text_I), ("text_to_image", to_image_T)):
        for k in CUTOFFS:
            yield Score(f"{direction}/R@{k}", value=100 * float(np.mean(rank < k)), n=len(rank))


def retrieval_chance(image_of_text_T: np.ndarray) -> dict[str, float]:
    """What a random order gives, in percent, for each metric; every image has a text."""
    texts_I = np.bincount(image_of_text_T)
    images, texts = len(texts_I), len(image_of_text_T)
    to_text = {
        f"image_to_text/R@{k}": 100 * float(np.mean([_any_within(k, int(own), texts) for own in texts_I]))
        for k in CUTOFFS
    }
    return to_text | {f"text_to_image/R@{k}": 100 * min(1.0, k / images) for k in CUTOFFS}


def _any_within(k: int, own: int, texts: int) -> float:
    """The probability that at least one of `own` of `texts` stands among the first `k` of a random order."""
    return 1 - math.comb(texts - own, k) / math.comb(texts, k) if k <= texts else 1.0

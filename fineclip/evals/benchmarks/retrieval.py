"""Image-text retrieval: recall at k in both directions, over all images and all their captions at once.

Protocol:
    image       squashed to a square, of the encoder's size unless the section names one
    text        every caption of an image
    metrics     `image_to_text/R@1`, `text_to_image/R@1`, and R@5 and R@10

Source: Karpathy and Fei-Fei 2015: an image is found if any of its texts ranks within k. Images are squashed and all captions
count as in FineCLIP's test_mscoco.py. Deviations: float32 features (half precision makes similarities tie), R@5 and R@10
too, ties against the model.

Legend: I images, T texts, D embedding.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fineclip.config.evaluation import RetrievalBenchmark
from fineclip.evals.benchmarks.base import Benchmark, Outcome
from fineclip.evals.index import Index
from fineclip.evals.metrics import best_rank
from fineclip.types import Score

if TYPE_CHECKING:
    from fineclip.evals.embed import Embedder

VERSION = 1
CUTOFFS = (1, 5, 10)


def evaluate_retrieval(embedder: "Embedder", index: Index, config: RetrievalBenchmark) -> Outcome:
    """Rank all images and captions of an index against each other."""
    size = config.image_size or embedder.image_size
    image_ID = embedder.images(index.images, size=size)
    text_TD = embedder.texts([text for image in index.images for text in image.captions])
    image_of_text_T = np.repeat(np.arange(len(index.images)), [len(image.captions) for image in index.images])
    scores = list(retrieval_scores(image_ID, text_TD, image_of_text_T))
    protocol = {"image_size": size, "resize": "squash", "images": len(image_ID), "texts": len(text_TD)}
    return Outcome(scores, retrieval_chance(image_of_text_T), protocol)


def retrieval_scores(image_ID: np.ndarray, text_TD: np.ndarray, image_of_text_T: np.ndarray) -> Iterator[Score]:
    """Yield R@1, R@5 and R@10 in percent, image to text and text to image.

    Args:
        image_ID: Unit vectors, float32.
        text_TD: Unit vectors, float32.
        image_of_text_T: Index of the image that each text describes. An image may have several texts.

    Yields:
        Six scores; `n` is the number of queries.

    Examples:
        >>> axes = np.eye(2, dtype=np.float32)
        >>> next(retrieval_scores(axes, axes[[0, 1, 1]], np.array([0, 1, 0])))
        Score(metric='image_to_text/R@1', value=50.0, n=2)
    """
    image_of_image_I = np.arange(len(image_ID))
    to_text_I = best_rank(image_ID, text_TD, image_of_query_Q=image_of_image_I, image_of_target_T=image_of_text_T)
    to_image_T = best_rank(text_TD, image_ID, image_of_query_Q=image_of_text_T, image_of_target_T=image_of_image_I)
    for direction, rank in (("image_to_text", to_text_I), ("text_to_image", to_image_T)):
        for k in CUTOFFS:
            yield Score(f"{direction}/R@{k}", value=100 * float(np.mean(rank < k)), n=len(rank))


def retrieval_chance(image_of_text_T: np.ndarray) -> dict[str, float]:
    """Return the expected recall of a random ranking.

    Args:
        image_of_text_T: Index of the image that each text describes. Every image has a text.

    Returns:
        Percentage by metric.
    """
    texts_I = np.bincount(image_of_text_T)
    images, texts = len(texts_I), len(image_of_text_T)
    to_text = {
        f"image_to_text/R@{k}": 100 * float(np.mean([_any_within(k, int(own), texts) for own in texts_I]))
        for k in CUTOFFS
    }
    return to_text | {f"text_to_image/R@{k}": 100 * min(1.0, k / images) for k in CUTOFFS}


def _any_within(k: int, own: int, texts: int) -> float:
    """Return the probability that at least one of `own` of `texts` is among the first `k` of a random order."""
    return 1 - math.comb(texts - own, k) / math.comb(texts, k) if k <= texts else 1.0


BENCHMARK = Benchmark(
    version=VERSION,
    title="image-text retrieval",
    evaluate=evaluate_retrieval,
    sentences={
        "image_to_text/R@1": "finds a right caption at the first guess for {value} of the images",
        "text_to_image/R@1": "finds the right image at the first guess for {value} of the captions",
    },
)

"""Box classification: the dense feature of a box is compared with the names of the classes.

Protocol:
    image       squashed to a square, of the encoder's size unless the section names one
    region      dense feature of the box (value-only last block, RoIAlign)
    class       `photo`: "a photo of a NAME"; `vild`: mean of the 63 ViLD templates
    candidates  `all`: every box is ranked among all classes (CLIPSelf, FineCLIP)
                `own_kind`: things among things, stuff among stuff; `all/*` among all classes
    metrics     `things/top1`, `stuff/top1`, `all/top1`, and top5: accuracy of each class, averaged over the classes that have
                boxes. A kind without boxes has no metric.

Source: CLIPSelf and FineCLIP, training/zero_shot.py. FineCLIP's one number is `all/top1`. Images are squashed as in FineCLIP,
so these numbers are not comparable with CLIPSelf's at 1024 px letterboxed. Deviations: exact counts, each image counted
once, float32 throughout, ties against the model.

Legend: R boxes of all images, K classes, P prompts of a class, N prompts of all classes, D embedding.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np

from fineclip.config.evaluation import BoxesBenchmark
from fineclip.evals.benchmarks.base import Benchmark, Outcome
from fineclip.evals.index import Index
from fineclip.evals.metrics import class_mean_accuracy, label_rank
from fineclip.models.prompt_templates import prompts_for
from fineclip.types import Score

if TYPE_CHECKING:
    from fineclip.evals.embed import Embedder

VERSION = 1
CUTOFFS = (1, 5)

Candidates = Literal["all", "own_kind"]


def evaluate_boxes(embedder: "Embedder", index: Index, config: BoxesBenchmark) -> Outcome:
    """Classify every box of an index."""
    size = config.image_size or embedder.image_size
    prompts = [prompts_for(one.name, config.prompts, is_thing=one.is_thing) for one in index.classes]
    prompt_ND = embedder.texts([prompt for texts in prompts for prompt in texts])
    class_KD = class_embedding(prompt_ND.reshape(len(prompts), -1, prompt_ND.shape[-1]))
    region_RD = embedder.regions(index.images, size=size)
    label_R = np.array([box.label for image in index.images for box in image.boxes])
    is_thing_K = np.array([one.is_thing for one in index.classes])
    scores = list(box_scores(region_RD, class_KD, label_R, is_thing_K, candidates=config.candidates))
    protocol = {
        "image_size": size,
        "resize": "squash",
        "prompts": config.prompts,
        "candidates": config.candidates,
        "classes": len(prompts),
    }
    return Outcome(scores, box_chance(is_thing_K, candidates=config.candidates), protocol)


def box_scores(
    region_RD: np.ndarray,
    class_KD: np.ndarray,
    label_R: np.ndarray,
    is_thing_K: np.ndarray,
    *,
    candidates: Candidates,
) -> Iterator[Score]:
    """Yield class-mean top-1 and top-5 accuracy in percent for things, stuff and all.

    Args:
        region_RD: Unit vectors, float32.
        class_KD: Unit vectors, float32.
        label_R: Index of each region's class.
        is_thing_K: True for things, false for stuff.
        candidates: Classes that a region is ranked among: all, or those of its own kind.

    Yields:
        One score per metric, in percent; `n` is the number of boxes. A kind without boxes has no score.

    Examples:
        >>> axes = np.eye(3, dtype=np.float32)
        >>> scores = box_scores(axes[[0, 1]], axes, np.array([0, 2]), np.array([True, True, False]), candidates="all")
        >>> [(score.metric, score.value, score.n) for score in scores if score.metric.endswith("top1")]
        [('things/top1', 100.0, 1), ('stuff/top1', 0.0, 1), ('all/top1', 50.0, 2)]
    """
    for kind, is_of_kind_K, among_K in _kinds(is_thing_K, candidates):
        rows = is_of_kind_K[label_R]
        if not rows.any():
            continue
        rank_R = label_rank(region_RD[rows], class_KD, label_R[rows], among_K=among_K)
        for k in CUTOFFS:
            value = 100 * class_mean_accuracy(rank_R < k, label_R[rows])
            yield Score(f"{kind}/top{k}", value=value, n=int(rows.sum()))


def box_chance(is_thing_K: np.ndarray, *, candidates: Candidates) -> dict[str, float]:
    """Return the accuracy of random guesses, for each kind that has classes.

    Args:
        is_thing_K: True for things, false for stuff.
        candidates: Classes that a region is ranked among: all, or those of its own kind.

    Returns:
        Percentage by metric.

    Examples:
        >>> box_chance(np.array([True, True, False, False]), candidates="own_kind")["things/top1"]
        50.0
    """
    return {
        f"{kind}/top{k}": 100 * min(1.0, k / int(among_K.sum()))
        for kind, is_of_kind_K, among_K in _kinds(is_thing_K, candidates)
        if is_of_kind_K.any()
        for k in CUTOFFS
    }


def _kinds(is_thing_K: np.ndarray, candidates: Candidates) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield the name of each kind, its classes, and the classes that its boxes are ranked among."""
    every_K = np.ones_like(is_thing_K, dtype=bool)
    for kind, is_of_kind_K in (("things", is_thing_K), ("stuff", ~is_thing_K), ("all", every_K)):
        yield kind, is_of_kind_K, is_of_kind_K if candidates == "own_kind" else every_K


def class_embedding(prompt_KPD: np.ndarray) -> np.ndarray:
    """Return the normalized mean of the prompts of each class.

    Args:
        prompt_KPD: Unit vectors.

    Returns:
        (K, D) unit vectors, float32.
    """
    mean_KD = prompt_KPD.astype(np.float64).mean(axis=1)
    length_K1 = np.linalg.norm(mean_KD, axis=1, keepdims=True)
    embedding_KD: np.ndarray = (mean_KD / np.maximum(length_K1, 1e-12)).astype(np.float32)
    return embedding_KD


BENCHMARK = Benchmark(
    version=VERSION,
    title="box classification",
    evaluate=evaluate_boxes,
    sentences={
        "things/top1": "names {value} of the things in their boxes",
        "stuff/top1": "names {value} of the stuff in its boxes",
        "all/top1": "names {value} of what is in the boxes",
    },
)

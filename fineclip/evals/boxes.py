"""Box classification: the dense feature of a box against the names of the classes.

Metrics: `things/top1`, `stuff/top1`, `all/top1` and the same with top5: the share of each class's boxes whose class is
among the first k, averaged over the classes that are there. A kind without a box has no metric.

    candidates: all         every box is ranked among all classes (CLIPSelf, FineCLIP)
    candidates: own_kind    boxes of things among things and of stuff among stuff; for `all/*` among all classes

Source: CLIPSelf and FineCLIP, training/zero_shot.py; whole images squashed as FineCLIP does, so these numbers are not
comparable with CLIPSelf's at 1024 px letterboxed. FineCLIP's one number is `all/top1`. Deviations: exact counts, no image
counted twice, float32 throughout, ties against the model.

Legend: R boxes of all images, K classes, P prompts of a class, D embedding.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np

from fineclip.config import BoxesBenchmark
from fineclip.evals.benchmark import Index, Outcome
from fineclip.evals.metrics import class_mean_accuracy, label_rank
from fineclip.evals.prompts import class_embedding, prompts_of
from fineclip.types import Score

if TYPE_CHECKING:
    from fineclip.evals.embed import Embedder

VERSION = 1  # of the scores: a change of it evaluates every run again
CUTOFFS = (1, 5)

Candidates = Literal["all", "own_kind"]


def evaluate_boxes(embedder: "Embedder", index: Index, config: BoxesBenchmark) -> Outcome:
    """Scores of an encoder on every box of an index."""
    size = config.image_size or embedder.image_size
    prompts = [prompts_of(one, config.prompts) for one in index.classes]
    prompt_ND = embedder.texts([prompt for texts in prompts for prompt in texts])
    class_KD = class_embedding(prompt_ND.reshape(len(prompts), -1, prompt_ND.shape[-1]))
    region_RD = embedder.regions(index.images, size=size)
    label_R = np.array([box["label"] for image in index.images for box in image.boxes])
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
    """Class-mean top-1 and top-5 in percent for things, stuff and all; `n` counts boxes.

    Args:
        region_RD: unit vectors, float32.
        class_KD: unit vectors, float32.
        label_R: index of each region's class.
        is_thing_K: which classes are things.
        candidates: what a region is ranked among.
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
    """What guessing gives, in percent, for each metric of a kind that has classes."""
    return {
        f"{kind}/top{k}": 100 * min(1.0, k / int(among_K.sum()))
        for kind, is_of_kind_K, among_K in _kinds(is_thing_K, candidates)
        if is_of_kind_K.any()
        for k in CUTOFFS
    }


def _kinds(is_thing_K: np.ndarray, candidates: Candidates) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, which classes belong to it, and among which its boxes are ranked."""
    every_K = np.ones_like(is_thing_K, dtype=bool)
    for kind, is_of_kind_K in (("things", is_thing_K), ("stuff", ~is_thing_K), ("all", every_K)):
        yield kind, is_of_kind_K, is_of_kind_K if candidates == "own_kind" else every_K

"""Recall of a detector on validation scenes, with and without the right class.

Legend: M things of a scene, P predicted boxes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torchvision.ops import box_iou

from fineclip.miniature.shapes import THINGS
from fineclip.miniature.world import Scene

MIN_OVERLAP = 0.5


class Predicted(NamedTuple):
    """Boxes of one scene: (P, 4) pixels, (P,) scores, (P,) indices into `THINGS`."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def detector_scores(scenes: Sequence[Scene], predicted: Sequence[Predicted], min_score: float) -> dict[str, float]:
    """Return the percentage of things with a box of IoU 0.5, the same with the right class, and boxes per thing."""
    found = named = things = boxes = 0
    for scene, all_boxes in zip(scenes, predicted, strict=True):
        sure = all_boxes.scores >= min_score
        boxes += int(sure.sum())
        things += len(scene.things)
        if not sure.any() or not scene.things:
            continue
        truth_M4 = np.array([thing.box for thing in scene.things], dtype=np.float64)
        overlap_MP = box_iou(torch.tensor(truth_M4), torch.tensor(all_boxes.boxes[sure])).numpy()
        hit_M = overlap_MP.max(axis=1) > MIN_OVERLAP
        label_M = all_boxes.labels[sure][overlap_MP.argmax(axis=1)]
        right_M = label_M == np.array([THINGS.index(thing.label) for thing in scene.things])
        found += int(hit_M.sum())
        named += int((hit_M & right_M).sum())
    return {
        "found": round(100 * found / things, 1),
        "found_and_named": round(100 * named / things, 1),
        "boxes_per_thing": round(boxes / things, 2),
    }

"""Metrics: pure functions of arrays, exact, with ties against the model.

Legend: Q queries, T targets, R regions, K classes, D embedding.

A rank is the number of wrong answers that are at least as similar as the right one. A constant encoder therefore scores 0,
not 100, and so does an encoder whose embeddings are NaN.
"""

import numpy as np

CHUNK_ROWS = 1024  # a chunk of similarities stays under half a GB at COCO's 25,010 texts


def similarity(query_QD: np.ndarray, target_TD: np.ndarray) -> np.ndarray:
    """Return the dot products of float32 vectors, (Q, T), summed in float64 and rounded to float32.

    The rounding removes differences due to the order of summation, so that equal texts tie exactly on every machine.
    """
    product_QT: np.ndarray = query_QD.astype(np.float64) @ target_TD.astype(np.float64).T
    return product_QT.astype(np.float32)


def label_rank(region_RD: np.ndarray, class_KD: np.ndarray, label_R: np.ndarray, *, among_K: np.ndarray) -> np.ndarray:
    """Count, for each region, the other classes that are at least as similar as its own.

    Args:
        region_RD: Unit vectors, float32.
        class_KD: Unit vectors, float32.
        label_R: Index of each region's class.
        among_K: True for the classes that a region is ranked among, besides its own.

    Returns:
        (R,) int64; 0 if the own class is the most similar.

    Examples:
        >>> axes = np.eye(3, dtype=np.float32)
        >>> label_rank(axes[[0, 1]], axes, np.array([0, 0]), among_K=np.array([True, True, True])).tolist()
        [0, 2]
    """
    rank_R = np.empty(len(label_R), dtype=np.int64)
    for start in range(0, len(label_R), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        similarity_RK = similarity(region_RD[rows], class_KD)
        own_R1 = label_R[rows][:, None]
        is_other_RK = among_K & (np.arange(len(class_KD)) != own_R1)
        rank_R[rows] = (~(similarity_RK < np.take_along_axis(similarity_RK, own_R1, axis=1)) & is_other_RK).sum(axis=1)
    return rank_R


def best_rank(
    query_QD: np.ndarray, target_TD: np.ndarray, *, image_of_query_Q: np.ndarray, image_of_target_T: np.ndarray
) -> np.ndarray:
    """Count, for each query, the wrong targets that are at least as similar as its best right target.

    Args:
        query_QD: Unit vectors, float32.
        target_TD: Unit vectors, float32.
        image_of_query_Q: Index of the image that each query belongs to.
        image_of_target_T: Index of the image that each target belongs to. A target is right for the queries of its image; a
            query without a right target ranks behind all targets.

    Returns:
        (Q,) int64; 0 if a right target is the most similar.
    """
    rank_Q = np.empty(len(query_QD), dtype=np.int64)
    for start in range(0, len(query_QD), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        similarity_QT = similarity(query_QD[rows], target_TD)
        is_right_QT = image_of_query_Q[rows][:, None] == image_of_target_T
        best_Q1 = np.where(is_right_QT, similarity_QT, -np.inf).max(axis=1, keepdims=True)
        rank_Q[rows] = (~(similarity_QT < best_Q1) & ~is_right_QT).sum(axis=1)
    return rank_Q


def class_mean_accuracy(is_correct_R: np.ndarray, label_R: np.ndarray) -> float:
    """Compute the accuracy of each class, averaged over the classes that have regions.

    Args:
        is_correct_R: True for the regions that are classified correctly.
        label_R: Index of each region's class.

    Returns:
        Mean in [0, 1].

    Raises:
        ValueError: There is no region.

    Source:
        mAcc of CLIPSelf and FineCLIP, training/zero_shot.py. Deviation: exact in float64; they round the accuracy of each
        class to half precision, up to 2.4e-4 off.

    Examples:
        >>> class_mean_accuracy(np.array([True, False, True]), np.array([0, 0, 1]))
        0.75
    """
    if not len(label_R):
        raise ValueError("the mean over no class is not defined")
    total_K = np.bincount(label_R)
    hits_K = np.bincount(label_R, weights=is_correct_R.astype(np.float64))
    has_regions_K = total_K > 0
    return float(np.mean(hits_K[has_regions_K] / total_K[has_regions_K]))

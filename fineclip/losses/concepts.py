"""Losses that classify regions by concepts: names with a fixed text embedding.

Legend: R regions on this rank, M regions on all ranks, K concepts, D embedding width, W world size; `counts` holds R of
each rank.

Concepts are unit vectors without gradient. Losses are scaled as `losses/contrastive.py` describes, and their logits are
float32 under autocast.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, kl_div, normalize

from fineclip.losses.contrastive import all_gather_rows, at_least_float32, first_row, global_mean


def sample_concepts(label_R: Tensor, *, concepts: int, at_least: int, seed: int, counts: Sequence[int]) -> Tensor:
    """Select the concepts of a step: all labels of its regions, and random others until there are `at_least`.

    Args:
        label_R: Concept of each region, int64.
        concepts: K.
        at_least: Concepts to select; more if the labels name more.
        seed: Seed of the step. The result is a function of all labels and the seed, so it is the same on every rank.
        counts: Regions of each rank in rank order.

    Returns:
        (K,) bool.
    """
    label_M = all_gather_rows(label_R[:, None], counts)[:, 0]
    labeled_K = torch.zeros(concepts, dtype=torch.bool, device=label_M.device).index_fill(0, label_M, value=True)
    draw_K = torch.rand(concepts, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(label_M.device)
    rank_K = draw_K.masked_fill(labeled_K, -1).argsort().argsort()  # labels come first
    return labeled_K | (rank_K < at_least)


def federated_loss(
    region_RD: Tensor,
    label_R: Tensor,
    concept_KD: Tensor,
    selected_K: Tensor,
    *,
    logit_scale: Tensor,
    counts: Sequence[int],
) -> Tensor:
    """Compute binary cross-entropies of regions and concepts: sum over selected concepts, mean over regions.

    Args:
        region_RD: Region features, not normalized. R may be 0.
        label_R: Concept of each region, int64; must be selected.
        concept_KD: Unit vectors.
        selected_K: Bool; the concepts of this step.
        logit_scale: Inverse temperature, a scalar.
        counts: Regions of each rank in rank order.

    Returns:
        Scalar. Its mean over ranks is the full-batch loss.

    Source:
        CLIPSelf, training/region_clip.py; the federated loss of Detic (Zhou et al. 2022).

    Examples:
        One region and two concepts, with logits 0:

        >>> region, label, concepts = torch.tensor([[1.0, 0.0]]), torch.tensor([0]), torch.eye(2)
        >>> selected, scale = torch.tensor([True, True]), torch.tensor(0.0)
        >>> loss = federated_loss(region, label, concepts, selected, logit_scale=scale, counts=[1])
        >>> round(loss.item(), 4)  # 2 log 2
        1.3863
    """
    with torch.autocast(region_RD.device.type, enabled=False):
        logit_RK = logit_scale * cosine_similarity(region_RD, concept_KD)
        target_RK = torch.zeros_like(logit_RK).scatter(1, label_R[:, None], 1.0)
        loss_RK = binary_cross_entropy_with_logits(logit_RK, target_RK, reduction="none")
        return global_mean((loss_RK * selected_K).sum(dim=1), counts)


class TeacherTargets(NamedTuple):
    """Concepts that a teacher assigns to the regions of this rank.

    Attributes:
        log_probability: (R, K) of each concept.
        label: (R,) most probable concept.
        weight: (R,) weight of the region in a mean over the kept regions of all ranks, times W; 0 if it is not kept.
        kept_by_label: (K,) number of kept regions of all ranks.
    """

    log_probability: Tensor
    label: Tensor
    weight: Tensor
    kept_by_label: Tensor


@torch.no_grad()
def teacher_targets(
    teacher_RD: Tensor, concept_KD: Tensor, *, temperature: float, min_confidence: float, counts: Sequence[int]
) -> TeacherTargets:
    """Classify regions with teacher features. Keep confident regions, or all regions if none is confident.

    Args:
        teacher_RD: Region features of the teacher, not normalized. R may be 0.
        concept_KD: Unit vectors.
        temperature: Temperature of the softmax over concepts.
        min_confidence: A region is confident if its highest probability is above this value, in [0, 1].
        counts: Regions of each rank in rank order.

    Returns:
        Targets without gradient.

    Source:
        RegionCLIP, PretrainFastRCNN. Deviation: "none is confident" refers to the regions of all ranks.
    """
    with torch.autocast(teacher_RD.device.type, enabled=False):
        log_probability_RK = (cosine_similarity(teacher_RD, concept_KD) / temperature).log_softmax(dim=1)
    confidence_R, label_R = log_probability_RK.max(dim=1)
    is_confident_R = confidence_R.exp() > min_confidence
    columns = torch.stack([label_R, is_confident_R.long()], dim=1)
    label_M, is_confident_M = all_gather_rows(columns, counts).unbind(dim=1)
    kept_M = ((is_confident_M > 0) | ~is_confident_M.any()).to(log_probability_RK)
    kept_R = kept_M[first_row(counts) :][: len(label_R)]
    return TeacherTargets(
        log_probability_RK,
        label_R,
        weight=kept_R * len(counts) / kept_M.sum().clamp(min=1),
        kept_by_label=kept_M.new_zeros(len(concept_KD)).index_add(0, label_M, kept_M),
    )


def concept_distillation_loss(
    region_RD: Tensor, concept_KD: Tensor, targets: TeacherTargets, *, temperature: float
) -> Tensor:
    """Compute KL(teacher || student) over concepts, as a mean over kept regions.

    Args:
        region_RD: Region features of the student, not normalized. R may be 0.
        concept_KD: Unit vectors.
        targets: From `teacher_targets`.
        temperature: Temperature of the student's softmax.

    Returns:
        Scalar. Its mean over ranks is the full-batch loss.

    Source:
        RegionCLIP, PretrainFastRCNN. Deviation: by log-softmax (there: the logarithm of a softmax, which may be 0).

    Examples:
        A student that equals the teacher has no loss:

        >>> region, concepts = torch.tensor([[1.0, 0.5]]), torch.eye(2)
        >>> targets = teacher_targets(region, concepts, temperature=1.0, min_confidence=0.5, counts=[1])
        >>> loss = concept_distillation_loss(region, concepts, targets, temperature=1.0)
        >>> abs(round(loss.item(), 4))
        0.0
    """
    with torch.autocast(region_RD.device.type, enabled=False):
        logit_RK = cosine_similarity(region_RD, concept_KD) / temperature
        loss_RK = kl_div(logit_RK.log_softmax(dim=1), targets.log_probability, reduction="none", log_target=True)
        return (loss_RK.sum(dim=1) * targets.weight).sum()


def concept_contrastive_loss(
    region_RD: Tensor, concept_KD: Tensor, targets: TeacherTargets, *, temperature: float
) -> Tensor:
    """Contrast kept regions with the concepts of all kept regions; regions of the same concept are positives.

        mean_j  -log sum_{k: y_k = y_j} softmax_k(cos(region j, concept y_k) / temperature)

    Equal columns are summed beforehand: with n_c kept regions of concept c it is a cross-entropy of logits + log n_c, which
    needs no features of other ranks.

    Args:
        region_RD: Region features of the student, not normalized. R may be 0.
        concept_KD: Unit vectors.
        targets: From `teacher_targets`.
        temperature: Temperature of the softmax.

    Returns:
        Scalar. Its mean over ranks is the full-batch loss.

    Source:
        RegionCLIP, PretrainFastRCNN. Deviation: k runs over the regions of all ranks (there: of one GPU).

    Examples:
        Two regions of different concepts, each orthogonal to the concept of the other:

        >>> region, concepts = torch.eye(2), torch.eye(2)
        >>> targets = teacher_targets(region, concepts, temperature=0.1, min_confidence=0.5, counts=[2])
        >>> loss = concept_contrastive_loss(region, concepts, targets, temperature=1.0)
        >>> round(loss.item(), 4)  # log(1 + 1 / e)
        0.3133
    """
    with torch.autocast(region_RD.device.type, enabled=False):
        logit_RK = cosine_similarity(region_RD, concept_KD) / temperature + targets.kept_by_label.log()
        loss_R = cross_entropy(logit_RK, targets.label, reduction="none")
        return (loss_R.masked_fill(targets.weight == 0, 0) * targets.weight).sum()  # loss_R may be inf if not kept


def cosine_similarity(row_RD: Tensor, concept_KD: Tensor) -> Tensor:
    """Return the cosines of rows and unit vectors, (R, K), in float32 or wider."""
    return normalize(at_least_float32(row_RD), dim=-1) @ concept_KD.T

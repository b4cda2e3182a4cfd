"""Regions against concepts: what stands for a name, and the losses that tell regions apart by names.

Legend: R regions of this process, M regions of all processes, K concepts, P prompts of a concept, T texts, L their tokens,
D embedding width, W processes; counts = R of each process.

Concepts are unit vectors that stay as they are. Losses are scaled as `methods/contrastive.py` says, and their logits are
float32 under autocast too.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, kl_div, normalize

from fineclip.methods.contrastive import first_row, full_precision, gather_rows, global_mean
from fineclip.methods.items import Tokenize
from fineclip.models.encoder import RegionEncoder
from fineclip.models.prompt_templates import prompts_for
from fineclip.models.tokenizer import trim_padding

TEXTS_AT_ONCE = 1024


@torch.no_grad()
def embed_concepts(
    encoder: RegionEncoder, names: Sequence[str], *, prompts: Literal["photo", "vild"], tokenize: Tokenize
) -> Tensor:
    """(K, D) unit vectors: the mean of a name's prompts, each of them a unit vector, made one again.

    Source: CLIPSelf's text-embedding tool. Computed where the encoder is, with its weights as they are.
    """
    texts = [prompts_for(name, prompts) for name in names]
    token_TL = trim_padding(tokenize([text for of_one in texts for text in of_one]))
    device = encoder.logit_scale.device
    parts = [encoder.encode_text(part.to(device)) for part in torch.split(token_TL, TEXTS_AT_ONCE)]
    prompt_KPD = normalize(torch.cat(parts), dim=-1).unflatten(0, (len(names), -1))  # type: ignore[no-untyped-call]
    return normalize(prompt_KPD.mean(dim=1), dim=-1)


def drawn_concepts(label_M: Tensor, *, concepts: int, at_least: int, seed: int) -> Tensor:
    """(K,) bool, the concepts of a step: all that its labels name, and others at random until there are `at_least`.

    A function of labels and seed, the same on every process. Others are drawn without replacement, each as likely.
    """
    named_K = torch.zeros(concepts, dtype=torch.bool, device=label_M.device).index_fill(0, label_M, value=True)
    lot_K = torch.rand(concepts, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(label_M.device)
    rank_K = lot_K.masked_fill(named_K, -1).argsort().argsort()  # those that are named come first
    return named_K | (rank_K < at_least)


def federated_loss(
    region_RD: Tensor, label_R: Tensor, concept_KD: Tensor, drawn_K: Tensor, *, scale: Tensor, counts: Sequence[int]
) -> Tensor:
    """Mean over regions of the sum, over the concepts drawn, of a binary cross-entropy: is the region's label this one?

    Args:
        region_RD: rows of any length. R may be 0.
        label_R: the concept of each, which must be among those drawn.
        concept_KD: unit vectors.
        drawn_K: which concepts are asked about.
        scale: inverse temperature.
        counts: regions of each process, in rank order.

    Source: CLIPSelf, training/region_clip.py; the federated loss of Detic (Zhou et al. 2022).
    """
    with torch.autocast(region_RD.device.type, enabled=False):
        logit_RK = scale * cosines(region_RD, concept_KD)
        target_RK = torch.zeros_like(logit_RK).scatter(1, label_R[:, None], 1.0)
        each_RK = binary_cross_entropy_with_logits(logit_RK, target_RK, reduction="none")
        return global_mean((each_RK * drawn_K).sum(dim=1), counts)


class Taught(NamedTuple):
    """What a teacher says of the regions of this process.

    log_probability (R, K) of each concept. label (R,) the most probable one. share (R,) of the region in a mean over the
    kept regions of all processes, times W; 0 where it is not kept. kept_by_label (K,) kept regions of all processes.
    """

    log_probability: Tensor
    label: Tensor
    share: Tensor
    kept_by_label: Tensor


@torch.no_grad()
def taught(
    teacher_RD: Tensor, concept_KD: Tensor, *, temperature: float, min_confidence: float, counts: Sequence[int]
) -> Taught:
    """The teacher's concepts for the regions. Kept are those that it is sure of; all, where it is sure of none.

    Args:
        teacher_RD: rows of any length. R may be 0.
        concept_KD: unit vectors.
        temperature: of the softmax over concepts.
        min_confidence: the most probable concept of a region that is kept has more.
        counts: regions of each process, in rank order.

    Source: RegionCLIP, PretrainFastRCNN. Deviation: whether it is sure of none is asked of the whole batch.
    """
    with torch.autocast(teacher_RD.device.type, enabled=False):
        log_probability_RK = (cosines(teacher_RD, concept_KD) / temperature).log_softmax(dim=1)
    confidence_R, label_R = log_probability_RK.max(dim=1)
    is_sure_R = confidence_R.exp() > min_confidence
    label_M, is_sure_M = gather_rows(torch.stack([label_R, is_sure_R.long()], dim=1), counts).unbind(dim=1)
    kept_M = ((is_sure_M > 0) | ~is_sure_M.any()).to(log_probability_RK)
    kept_R = kept_M[first_row(counts) :][: len(label_R)]
    return Taught(
        log_probability_RK,
        label_R,
        share=kept_R * len(counts) / kept_M.sum().clamp(min=1),
        kept_by_label=kept_M.new_zeros(len(concept_KD)).index_add(0, label_M, kept_M),
    )


def teacher_loss(region_RD: Tensor, concept_KD: Tensor, teacher: Taught, *, temperature: float) -> Tensor:
    """KL divergence of the regions' probabilities of concepts from the teacher's; a mean over kept regions.

    Source: RegionCLIP, PretrainFastRCNN. Deviation: by log-softmax (there: the logarithm of a softmax, which may be that of 0).
    """
    with torch.autocast(region_RD.device.type, enabled=False):
        logit_RK = cosines(region_RD, concept_KD) / temperature
        each_RK = kl_div(logit_RK.log_softmax(dim=1), teacher.log_probability, reduction="none", log_target=True)
        return (each_RK.sum(dim=1) * teacher.share).sum()


def concept_contrast(region_RD: Tensor, concept_KD: Tensor, teacher: Taught, *, temperature: float) -> Tensor:
    """Contrast of kept regions with the concepts of all kept regions; those of the same concept are positives too.

        mean_j  -log sum_{k: y_k = y_j} softmax_k(cos(region j, concept y_k) / temperature)

    Equal columns are summed beforehand: with n_c kept regions of concept c it is a cross-entropy of logits + log n_c, which
    needs no feature of another process.

    Source: RegionCLIP, PretrainFastRCNN. Deviation: k runs over the regions of all processes (there: of one GPU).
    """
    with torch.autocast(region_RD.device.type, enabled=False):
        logit_RK = cosines(region_RD, concept_KD) / temperature + teacher.kept_by_label.log()
        each_R = cross_entropy(logit_RK, teacher.label, reduction="none")
        return (each_R.masked_fill(teacher.share == 0, 0) * teacher.share).sum()  # one that is not kept may be infinite


def cosines(row_RD: Tensor, concept_KD: Tensor) -> Tensor:
    """(R, K), at least float32."""
    return normalize(full_precision(row_RD), dim=-1) @ concept_KD.T

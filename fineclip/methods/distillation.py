"""Self-distillation: the dense feature of a region against the global embedding of its crop.

Legend: R regions of this process, D embedding width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from fineclip.methods.contrastive import full_precision, global_mean


def distillation_loss(region_RD: Tensor, crop_RD: Tensor, *, counts: Sequence[int]) -> Tensor:
    """Mean of 1 - cos over the regions of all processes: 0 where each feature points the way its crop's embedding does.

    Args:
        region_RD: rows of any length, row j of the same region as row j of `crop_RD`. R may be 0.
        crop_RD: rows of any length.
        counts: regions of each process, in rank order.

    Returns:
        A scalar, scaled as `methods/contrastive.py` says. 0 where there is no region at all.

    Source: CLIPSelf and FineCLIP, training/clipself.py. Deviation: the mean is over the regions of all processes (there:
    over those of each GPU, so that a region weighs more where there are fewer).
    """
    with torch.autocast(region_RD.device.type, enabled=False):
        cosine_R = cosine_similarity(full_precision(region_RD), full_precision(crop_RD), dim=-1)
        return global_mean(1 - cosine_R, counts)

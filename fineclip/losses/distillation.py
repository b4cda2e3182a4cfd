"""Distillation loss between dense features of regions and global embeddings of their crops.

Legend: R regions on this rank, D embedding width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from fineclip.losses.contrastive import at_least_float32, global_mean


def distillation_loss(region_RD: Tensor, crop_RD: Tensor, *, counts: Sequence[int]) -> Tensor:
    """Compute the mean of 1 - cos(region, crop) over the regions of all ranks.

    Args:
        region_RD: Dense features, not normalized; row j is of the same region as row j of `crop_RD`. R may be 0.
        crop_RD: Global embeddings of the crops, not normalized.
        counts: Regions of each rank in rank order, as host integers.

    Returns:
        Scalar in [0, 2], scaled as `losses/contrastive.py` describes; 0 if no rank has a region.

    Source:
        CLIPSelf and FineCLIP, training/clipself.py. Deviation: the mean is over the regions of all ranks (there: over those
        of each GPU, so that a region weighs more on a GPU with fewer of them).

    Examples:
        The first region equals its crop, the second is orthogonal to it:

        >>> region = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> crop = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
        >>> distillation_loss(region, crop, counts=[2]).item()
        0.5
    """
    with torch.autocast(region_RD.device.type, enabled=False):
        cosine_R = cosine_similarity(at_least_float32(region_RD), at_least_float32(crop_RD), dim=-1)
        return global_mean(1 - cosine_R, counts)

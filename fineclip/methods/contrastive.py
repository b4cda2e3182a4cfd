"""The contrastive loss over all processes, for any number of rows on each.

Legend: N rows of this process, M rows of all processes, D embedding width, W processes; counts = N of each process.

Every loss of the package is a mean over M rows. Each process returns W/M times the sum over its own rows, so that the
average that DDP takes of the gradients is the gradient of the full-batch loss, however unevenly the rows are spread.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, pad


def contrastive_loss(left_ND: Tensor, right_ND: Tensor, *, scale: Tensor, counts: Sequence[int]) -> Tensor:
    """Symmetric InfoNCE: row i of each side must find row i of the other among all M.

    Args:
        left_ND: rows of any length, row i paired with row i of `right_ND`. N may be 0.
        right_ND: rows of any length.
        scale: inverse temperature, a scalar that may carry gradient.
        counts: rows of each process, in rank order; host integers, exchanged once a step by the trainer.

    Returns:
        A scalar; averaged over processes it is the full-batch loss, and so is its gradient.

    Source: Radford et al. 2021, Figure 3. Deviations from open_clip: rows may be unequally many on the processes, and
    the logits are float32 under autocast too (in bfloat16 their gradient is off by 1 % at scale 100).
    """
    with torch.autocast(left_ND.device.type, enabled=False):
        left_ND, right_ND = (normalize(full_precision(rows_ND), dim=-1) for rows_ND in (left_ND, right_ND))
        left_MD, right_MD = gather_rows(left_ND, counts), gather_rows(right_ND, counts)
        own_N = first_row(counts) + torch.arange(len(left_ND), device=left_ND.device)
        left_to_right_N = cross_entropy(scale * left_ND @ right_MD.T, own_N, reduction="none")
        right_to_left_N = cross_entropy(scale * right_ND @ left_MD.T, own_N, reduction="none")
        return global_mean((left_to_right_N + right_to_left_N) / 2, counts)


def full_precision(rows_ND: Tensor) -> Tensor:
    """At least float32."""
    return rows_ND.to(torch.promote_types(rows_ND.dtype, torch.float32))


def global_mean(values_N: Tensor, counts: Sequence[int]) -> Tensor:
    """Mean over the rows of every process, scaled as the module docstring says; 0 if there is no row at all."""
    return values_N.sum() * len(counts) / max(sum(counts), 1)


def gather_rows(rows_ND: Tensor, counts: Sequence[int]) -> Tensor:
    """(M, D): the rows of every process in rank order, each carrying gradient back to where it came from."""
    nothing_to_gather = len(counts) == 1 or not any(counts)
    return rows_ND if nothing_to_gather else cast("Tensor", _GatherRows.apply(rows_ND, counts))


def first_row(counts: Sequence[int]) -> int:
    """Where this process's rows begin among all M."""
    return sum(counts[: dist.get_rank()]) if len(counts) > 1 else 0


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_ND: Tensor, counts: Sequence[int]) -> Tensor:
        ctx.counts = counts
        longest = max(counts)  # a gather needs equal shapes
        padded_MD = rows_ND.new_empty(len(counts) * longest, rows_ND.shape[1])
        dist.all_gather_into_tensor(padded_MD, pad(rows_ND, (0, 0, 0, longest - len(rows_ND))))
        blocks = torch.split(padded_MD, longest)
        return torch.cat([block[:count] for block, count in zip(blocks, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient_MD = gradients[0].contiguous().clone()  # the engine may hand the same memory to others
        dist.all_reduce(gradient_MD)  # what every process says about our rows
        start = first_row(ctx.counts)
        return gradient_MD[start : start + ctx.counts[dist.get_rank()]], None

"""Batches of one shape, so that the output for a row does not depend on the other rows.

Libraries choose a kernel by the shape of the input, and kernels round differently. The last batch is therefore padded. On a
CPU, where results are compared bit by bit, the batch size is fixed and the configured one is ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def batches(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` rows; the last may be shorter. Rows are read from the iterable one batch at a time."""
    iterator = iter(rows)
    while batch := list(islice(iterator, size)):
        yield batch


def full_batches(rows: Sequence[T], size: int) -> Iterator[list[T]]:
    """Yield lists of exactly `size` rows; the last is padded with copies of the last row."""
    for batch in batches(rows, size):
        yield batch + batch[-1:] * (size - len(batch))


def rows_at_once(device: torch.device, batch_size: int, *, on_cpu: int) -> int:
    """Return the batch size of a device.

    Args:
        device: Where the model runs.
        batch_size: Of GPUs.
        on_cpu: Of CPUs, where it is part of the result.

    Returns:
        `on_cpu` or `batch_size`.
    """
    return on_cpu if device.type == "cpu" else batch_size

"""Batches of one shape: what a model says of a row depends neither on its neighbours nor on how many there are.

A kernel is chosen by the shape of what it gets, and another kernel rounds differently. So the last batch is filled up,
and on a CPU, where results are compared bit by bit, the shape is the same whatever batch size was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def batches(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` rows, the last perhaps shorter; no row is taken before it is needed."""
    iterator = iter(rows)
    while batch := list(islice(iterator, size)):
        yield batch


def full_batches(rows: Sequence[T], size: int) -> Iterator[list[T]]:
    """Lists of exactly `size` rows, the last filled up with copies of the last row; none of no rows."""
    for batch in batches(rows, size):
        yield batch + batch[-1:] * (size - len(batch))


def rows_at_once(device: torch.device, batch_size: int, *, on_cpu: int) -> int:
    """How many rows a batch has: what was asked for, but always `on_cpu` on a CPU."""
    return on_cpu if device.type == "cpu" else batch_size

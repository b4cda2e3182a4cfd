"""One process or several: joining, agreeing, averaging, checking.

`torchrun` starts several; without it there is one and nothing is ever sent. Every function here is called by all processes
at the same point, or by none.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fineclip.errors import FineclipError, TrainingError
from fineclip.models.device import resolve_device
from fineclip.types import Counts

PATIENCE = timedelta(minutes=30)  # longer than any checkpoint takes to write: the others wait for the first process
T = TypeVar("T")


class Wish(IntEnum):
    """What a process wants after the step at hand; the strongest wish holds for all."""

    GO_ON = 0
    STOP = 1
    FAIL = 2


class Averages:
    """Numbers on their way from the device.

    Args:
        vector: one number for each name.
    """

    def __init__(self, names: tuple[str, ...], vector: Tensor) -> None:
        self._names = names
        self._vector, self._arrived = vector, None
        if vector.device.type == "cuda":
            self._vector = torch.empty(vector.shape, dtype=vector.dtype, pin_memory=True)
            self._vector.copy_(vector, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def values(self) -> dict[str, float]:
        """By name; waits until they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return dict(zip(self._names, self._vector.tolist(), strict=True))


@dataclass(frozen=True)
class Processes:
    """Who takes part. `rank` counts from 0; the first process writes all files."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this one writes."""
        return self.rank == 0

    def exchange(self, images: int, regions: int, wish: Wish) -> tuple[Counts, Wish]:
        """Rows of every process, and what holds for all. Once a step, host integers."""
        if self.world_size == 1:
            return Counts([images], [regions]), wish
        own = torch.tensor([images, regions, int(wish)])
        table = torch.empty(3 * self.world_size, dtype=torch.int64)
        dist.all_gather_into_tensor(table, own)
        all_images, all_regions, wishes = table.view(-1, 3).T.tolist()
        return Counts(all_images, all_regions), Wish(max(wishes))

    def averages(self, values: Mapping[str, Tensor]) -> "Averages":
        """Means over processes of scalars that each process has under the same names, begun and not waited for."""
        exact = torch.float32 if self.device.type == "mps" else torch.float64
        vector = torch.stack([value.detach().float() for value in values.values()]).to(exact)
        if self.world_size > 1:
            dist.all_reduce(vector)
            vector /= self.world_size
        return Averages(tuple(values), vector)

    def first_does(self, action: Callable[[], T]) -> T:
        """The first process acts, all get what it returns; a `FineclipError` there is raised by all."""
        if self.world_size == 1:
            return action()
        outcome: list[Any] = [None, None]
        if self.is_first:
            try:
                outcome = [action(), None]
            except FineclipError as error:
                outcome = [None, error]
        dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        result: T = outcome[0]
        return result

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module whose forward synchronises gradients.

        `find_unused_parameters` leaves the gradient of a parameter that took no part at None, so that AdamW leaves it
        alone, and keeps DDP from rebuilding its buckets, so that a resumed run sums in the same order. No buffer of a method
        changes in training, so none is sent around.
        """
        if self.world_size == 1:
            return module
        return DistributedDataParallel(module, find_unused_parameters=True, broadcast_buffers=False)

    def require_equal_gradients(self, module: nn.Module) -> None:
        """Compare checksums of the gradients, as every process has them after backward.

        Raises:
            TrainingError: they differ: some part of the loss was computed outside of the wrapped forward.
        """
        if self.world_size == 1:
            return
        own = _checksum(module)
        table = torch.empty(self.world_size * len(own), dtype=torch.float64)
        dist.all_gather_into_tensor(table, own)
        table = table.view(self.world_size, -1)
        if not torch.equal(table, table[:1].expand_as(table)):
            raise TrainingError(
                f"gradients differ between processes after the first step (sums of magnitudes {table[:, 1].tolist()}):"
                " they are not synchronised. This is a bug of the method: all of its loss must come from `forward`."
            )


def _checksum(module: nn.Module) -> Tensor:
    """(3,) number of gradients, sum of magnitudes, sum that tells one parameter's share from another's."""
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    sums = torch.tensor([gradient.double().abs().sum().item() for gradient in gradients], dtype=torch.float64)
    weighted = sums * torch.arange(1, len(sums) + 1)
    checksum = torch.stack([torch.tensor(len(sums), dtype=torch.float64), sums.sum(), weighted.sum()])
    return checksum.nan_to_num(nan=-1.0)  # a loss that is not finite is the loop's affair


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """The processes that `torchrun` started, or this one alone.

    Args:
        device: auto, cpu, cuda or mps; auto takes a GPU where there is one.
    """
    kind = _kind(device)
    if dist.is_initialized():
        yield Processes(dist.get_rank(), dist.get_world_size(), _device(kind))
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes(0, 1, _device(kind))
        return
    chosen = _device(kind)
    # host integers travel by gloo on a GPU too: nothing waits for the device
    dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), chosen)
    finally:
        dist.destroy_process_group()


def _kind(device: str) -> str:
    return resolve_device(device).type


def _device(kind: str) -> torch.device:
    """The GPU of this process on its machine, or the CPU."""
    if kind != "cuda":
        return torch.device(kind)
    index = int(os.environ.get("LOCAL_RANK", "0"))
    if index >= torch.cuda.device_count():
        raise TrainingError(
            f"runtime.device: process {index} of this machine finds {torch.cuda.device_count()} GPUs."
            " Start as many processes as there are GPUs, or set runtime.device: cpu."
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)

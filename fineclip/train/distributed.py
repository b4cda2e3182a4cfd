"""One rank or several: process group, collectives of host values, and checks.

`fineclip train` or torchrun starts several processes; without them there is one rank and no communication. Every function here is called by
all ranks at the same point, or by none.
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

from fineclip.config import MEMORY_KEYS
from fineclip.environment import launched_ranks, number_of
from fineclip.errors import TrainingError
from fineclip.models.device import resolve_device
from fineclip.system_errors import explain
from fineclip.types import Counts

PROCESS_GROUP_TIMEOUT = timedelta(minutes=30)  # longer than writing a checkpoint, for which other ranks wait
T = TypeVar("T")


class StepSignal(IntEnum):
    """Decision of a rank after a step. The maximum over ranks is applied on every rank."""

    CONTINUE = 0
    STOP = 1
    ABORT = 2


class AsyncScalars:
    """Scalars whose copy to the host has been started.

    Args:
        names: One name per scalar.
        vector: The scalars, on any device.
    """

    def __init__(self, names: tuple[str, ...], vector: Tensor) -> None:
        self._names = names
        self._vector, self._copied = vector, None
        if vector.device.type == "cuda":
            self._vector = torch.empty(vector.shape, dtype=vector.dtype, pin_memory=True)
            self._vector.copy_(vector, non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()

    def values(self) -> dict[str, float]:
        """Wait for the copy and return the scalars by name."""
        if self._copied is not None:
            self._copied.synchronize()
        return dict(zip(self._names, self._vector.tolist(), strict=True))


@dataclass(frozen=True)
class DistributedContext:
    """Rank, world size and device of this process. Rank 0 is the main process and writes all files."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def all_gather_counts(self, images: int, regions: int, signal: StepSignal) -> tuple[Counts, StepSignal]:
        """Exchange host integers, once per step.

        Args:
            images: Images of this rank.
            regions: Regions of this rank.
            signal: Decision of this rank.

        Returns:
            Rows of every rank, and the decision for all ranks.
        """
        if self.world_size == 1:
            return Counts([images], [regions]), signal
        own = torch.tensor([images, regions, int(signal)])
        table = torch.empty(3 * self.world_size, dtype=torch.int64)
        dist.all_gather_into_tensor(table, own)
        all_images, all_regions, signals = table.view(-1, 3).T.tolist()
        return Counts(all_images, all_regions), StepSignal(max(signals))

    def all_reduce_mean(self, values: Mapping[str, Tensor]) -> AsyncScalars:
        """Start the mean over ranks of scalars without waiting for the device.

        Args:
            values: Scalars by name; the same names on every rank.

        Returns:
            Means whose copy to the host has been started.
        """
        exact = torch.float32 if self.device.type == "mps" else torch.float64
        vector = torch.stack([value.detach().float() for value in values.values()]).to(exact)
        if self.world_size > 1:
            dist.all_reduce(vector)
            vector /= self.world_size
        return AsyncScalars(tuple(values), vector)

    def run_on_main(self, action: Callable[[], T]) -> T:
        """Run an action on the main process and return its result on all ranks.

        Args:
            action: Its result must be picklable.

        Returns:
            Result of the action, on every rank.

        Raises:
            FineclipError: Raised by the action, or a refusal of the system; on all ranks.
        """
        if self.world_size == 1:
            return action()
        outcome: list[Any] = [None, None]
        if self.is_main_process:
            try:
                outcome = [action(), None]
            except Exception as error:
                explained = explain(error, memory_keys=MEMORY_KEYS["train"])
                if explained is None:
                    raise
                outcome = [None, explained]
        dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        result: T = outcome[0]
        return result

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module in DistributedDataParallel, or unchanged on a single rank.

        `find_unused_parameters` keeps the gradient of an unused parameter at None, so that AdamW does not change it, and
        prevents DDP from rebuilding its buckets, so that a resumed run sums in the same order. Buffers do not change during
        training and are not broadcast.
        """
        if self.world_size == 1:
            return module
        return DistributedDataParallel(module, find_unused_parameters=True, broadcast_buffers=False)

    def require_equal_gradients(self, module: nn.Module) -> None:
        """Compare checksums of the gradients of all ranks after a backward pass.

        Args:
            module: Module whose parameters have gradients.

        Raises:
            TrainingError: They differ: a part of the loss was computed outside of the wrapped forward.
        """
        if self.world_size == 1:
            return
        own = _checksum(module)
        table = torch.empty(self.world_size * len(own), dtype=torch.float64)
        dist.all_gather_into_tensor(table, own)
        table = table.view(self.world_size, -1)
        if not torch.equal(table, table[:1].expand_as(table)):
            raise TrainingError(
                f"gradients differ between ranks after the first step (sums of magnitudes {table[:, 1].tolist()})."
                " This is a bug of the method: its loss must be computed inside of the forward that DDP wraps."
            )


def _checksum(module: nn.Module) -> Tensor:
    """Return (3,): number of gradients, sum of magnitudes, and a sum weighted by the number of the parameter."""
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    sums = torch.tensor([gradient.double().abs().sum().item() for gradient in gradients], dtype=torch.float64)
    weighted = sums * torch.arange(1, len(sums) + 1)
    checksum = torch.stack([torch.tensor(len(sums), dtype=torch.float64), sums.sum(), weighted.sum()])
    return checksum.nan_to_num(nan=-1.0)  # a loss that is not finite is checked by LossMonitor


@contextmanager
def init_distributed(device: str) -> Iterator[DistributedContext]:
    """Join the process group that the launcher started, or run on a single rank.

    Args:
        device: auto, cpu, cuda or mps; auto takes a GPU if there is one.

    Yields:
        Rank, world size and device.

    Raises:
        ConfigError: There is no such device, or an environment variable of the launcher is wrong.
        TrainingError: There are more processes than GPUs on this machine.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = _local_device(device)
    if dist.is_initialized():
        yield DistributedContext(dist.get_rank(), dist.get_world_size(), chosen)
        return
    if launched_ranks(os.environ) is None:
        yield DistributedContext(0, 1, chosen)
        return
    # host integers use gloo on a GPU too, to avoid waiting for the device
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=PROCESS_GROUP_TIMEOUT)
    try:
        yield DistributedContext(dist.get_rank(), dist.get_world_size(), chosen)
    finally:
        dist.destroy_process_group()


def _local_device(kind: str) -> torch.device:
    """Return the GPU of this process on its machine, or another device of this kind."""
    if kind != "cuda":
        return resolve_device(kind)
    index = number_of("LOCAL_RANK", os.environ) or 0
    if index >= torch.cuda.device_count():
        raise TrainingError(
            f"runtime.device: process {index} of this machine finds {torch.cuda.device_count()} GPUs."
            " Start as many processes as there are GPUs, or set runtime.device: cpu."
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)

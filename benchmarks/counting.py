"""Count the collectives of a step and the places where the host waits for the device."""

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fineclip.types import Batch

READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim"}
MASKED = {
    "aten::index",
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
}  # by a mask, which calls nonzero
USED = "DistributedDataParallel, which parameters took part"
HOST_ONLY = {
    "encoder.pool_regions",  # values of boxes and owners are checked on a CPU only; see `on_a_gpu`
    "encoder._check_owners",
    "distributed.all_gather_counts",  # counts are exchanged between hosts
    USED,  # a table on the host; the device is read only for a parameter that no process used
}
PACKAGE = "fineclip"
WRAPPERS = {"__torch_dispatch__", "inner", "_fn"}  # functions of torch around a dispatch mode


class Calls:
    """Collectives and host reads of a step.

    Attributes:
        reads: Number of values copied to the host, by the function of this package that reads them.
        collectives: Number of collectives by name.
    """

    def __init__(self) -> None:
        self.reads: Counter[str] = Counter()
        self.collectives: Counter[str] = Counter()

    @property
    def waits(self) -> int:
        """Reads that also happen on a GPU."""
        return sum(count for place, count in self.reads.items() if place not in HOST_ONLY)


@contextmanager
def counted_calls() -> Iterator[Calls]:
    """Count the calls in the block, forward and backward."""
    calls = Calls()
    with _Python(calls), _Dispatched(calls):
        yield calls


class _Dispatched(TorchDispatchMode):
    def __init__(self, calls: Calls) -> None:
        super().__init__()
        self.calls = calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name.startswith(("c10d::", "_c10d_functional::")):
            self.calls.collectives[name.split("::")[1].strip("_")] += 1
        elif name in READS or (name in MASKED and _has_mask(args[1])):
            self.calls.reads[USED if name in READS and _is_used_table(args[0]) else _asked_by()] += 1
        return func(*args, **(kwargs or {}))


def _is_used_table(tensor: Tensor) -> bool:
    """Return whether the value is an entry of the table: a 32-bit integer that the backward pass reads."""
    if tensor.dtype != torch.int32 or tensor.ndim:
        return False
    frames = traceback.extract_stack()[:-1]
    asking = next(frame for frame in reversed(frames) if frame.name not in WRAPPERS)
    return asking.name == "_engine_run_backward"


class _Python(TorchFunctionMode):
    """Count `tolist` and `numpy`, which read memory without a dispatched operation."""

    def __init__(self, calls: Calls) -> None:
        super().__init__()
        self.calls = calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("tolist", "numpy", "cpu"):
            self.calls.reads[_asked_by()] += 1
        return func(*args, **(kwargs or {}))


def _has_mask(indices: Any) -> bool:
    return any(isinstance(each, Tensor) and each.dtype in (torch.bool, torch.uint8) for each in indices)


def _asked_by() -> str:
    """Return the innermost function of the package on the stack, as `module.function`."""
    frames = traceback.extract_stack()[:-2]
    for frame in reversed(frames):
        path = Path(frame.filename)
        if PACKAGE in path.parts and "site-packages" not in path.parts and "benchmarks" not in path.parts:
            return f"{path.stem}.{frame.name}"
    return "elsewhere"


def on_a_gpu(method: nn.Module, batch: Batch) -> None:
    """Run a forward pass on a fake CUDA device that has shapes and no values; reading a value raises an error.

    Works on a machine without a GPU. Parameters and buffers of `method` are replaced permanently.

    Args:
        method: Module that is called with the batch.
        batch: Its tensors are replaced by fake ones.

    Raises:
        torch._subclasses.fake_tensor.DataDependentOutputException: The host reads a value.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        for module in method.modules():
            for name, each in module._parameters.items():
                if each is not None:
                    fake = torch.empty(each.shape, dtype=each.dtype, device="cuda")
                    module._parameters[name] = nn.Parameter(fake, requires_grad=False)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
        for name in Batch.__dataclass_fields__:
            value = getattr(batch, name)
            if isinstance(value, Tensor):
                setattr(batch, name, torch.empty(value.shape, dtype=value.dtype, device="cuda"))
        method(batch)


def in_two_processes(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return the results of a module-level function on each of two gloo processes."""
    context = torch.multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    with dist_store() as address:
        processes = [
            context.Process(target=_work, args=(rank, address, answers, function, arguments)) for rank in range(2)
        ]
        for process in processes:
            process.start()
        found = dict(answers.get() for _ in processes)
        for process in processes:
            process.join()
    return [found[rank] for rank in range(2)]


@contextmanager
def dist_store() -> Iterator[str]:
    """Return the URL of a file for the rendezvous of processes."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        yield f"file://{folder}/meeting"


def _work(rank: int, address: str, answers: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    try:
        answers.put((rank, function(*arguments)))
    finally:
        dist.destroy_process_group()

"""Bytes that a step keeps for its backward pass, and the peak of all tensors, exact on any machine.

Only tensors are counted, not the workspace of kernels and the rounding of the allocator.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from fineclip.models import blocks


class Saved:
    """Count the storages that autograd keeps, each once, without parameters and casts of them.

    Args:
        parameters: Tensors whose storages are not counted.

    Attributes:
        now: Bytes kept at this moment.
        most: Largest number of bytes kept at any moment.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.now = self.most = 0
        self._excluded = {each.untyped_storage().data_ptr() for each in parameters}
        self._kept: dict[int, int] = {}  # number of saved tensors by storage

    def hooks(self) -> AbstractContextManager[None]:
        """Count the tensors that autograd saves in the block until they are freed."""
        return saved_tensors_hooks(self._pack, lambda packed: packed.tensor)

    def exclude(self, tensor: Tensor) -> None:
        """Exclude the storage of a tensor while the tensor lives, as for a parameter."""
        storage = tensor.untyped_storage()
        self._excluded.add(storage.data_ptr())
        weakref.finalize(storage, self._excluded.discard, storage.data_ptr())

    def _pack(self, tensor: Tensor) -> "_Packed":
        packed, storage = _Packed(tensor), tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if place in self._excluded or not size:
            return packed
        if place not in self._kept:
            self.now += size
            self.most = max(self.most, self.now)
        self._kept[place] = self._kept.get(place, 0) + 1
        weakref.finalize(packed, self._release, place, size)
        return packed

    def _release(self, place: int, size: int) -> None:
        self._kept[place] -= 1
        if not self._kept[place]:
            del self._kept[place]
            self.now -= size


class _Packed:
    """Holder of a tensor that supports weak references."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Live(TorchDispatchMode):
    """Track all storages that operations allocate in the block until they are freed.

    Args:
        saved: Counter that excludes casts of `parameters`; None if there is no such counter.
        parameters: Tensors whose casts to another type are excluded from `saved`.

    Attributes:
        now: Their bytes at this moment.
        most: Their largest number of bytes at any moment.
    """

    def __init__(self, saved: Saved | None = None, parameters: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.most = 0
        self._saved, self._parameters = saved, {id(each) for each in parameters}
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in results if isinstance(results, (tuple, list)) else (results,):
            if isinstance(result, Tensor):
                self._see(result)
        if self._saved is not None and func is torch.ops.aten._to_copy.default and id(args[0]) in self._parameters:
            self._saved.exclude(results)
        return results

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._freed, size)

    def _freed(self, size: int) -> None:
        self.now -= size


class StepBytes(NamedTuple):
    """Peak memory of a forward and a backward pass, in bytes.

    Attributes:
        saved: Bytes kept for the backward pass.
        all: Bytes of all tensors except weights and gradients.
    """

    saved: int
    all: int


def step_bytes(module: nn.Module, loss: Callable[[], Tensor], *, precision: torch.dtype = torch.bfloat16) -> StepBytes:
    """Measure the bytes that a step keeps, with attention and autocast as on a GPU."""
    parameters = list(module.parameters())
    for each in parameters:
        each.grad = torch.zeros_like(each) if each.requires_grad else None
    saved = Saved(parameters)
    with as_on_a_gpu(), Live(saved, parameters) as live, saved.hooks():
        with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
            value = loss()
        value.backward()
        del value
    module.zero_grad(set_to_none=True)
    return StepBytes(saved.most, live.most)


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Run half precision as a GPU does: fused attention, LayerNorm in float32."""
    layer_norm, longest = F.layer_norm, blocks.MAX_KEYS_UNFUSED

    def in_float32(rows: Tensor, *arguments: Any, **options: Any) -> Tensor:
        return layer_norm(rows.float() if torch.is_autocast_enabled("cpu") else rows, *arguments, **options)

    F.layer_norm, blocks.MAX_KEYS_UNFUSED = in_float32, 0
    try:
        yield
    finally:
        F.layer_norm, blocks.MAX_KEYS_UNFUSED = layer_norm, longest

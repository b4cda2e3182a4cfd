"""Memory for the pixels of batches that workers fill in place and a GPU copies from directly.

Batch number n has slot n modulo K. A DataLoader hands out the work of batch n + P when it gives back batch n, P being the
batches it has under way. So with K = P + 2 slots, slot n is written again only when batch n + 2 is asked for, and there is
nothing to lock: by then whoever took batch n must have copied it.

The memory has no name in any file system: it goes when the last process that maps it ends, however it ends, and a
container's small /dev/shm does not bound it.
"""

import logging
import math
import mmap
import os
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.reduction import DupFd
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fineclip.models.pixels import Arena, Canvas

log = logging.getLogger(__name__)

SPARE_SLOTS = 2  # beside those of the batches under way: the one in use, and the one whose copy may not be over
PAGE = mmap.PAGESIZE


class Size(NamedTuple):
    """Bytes of the pixels of a batch."""

    images: int
    crops: int


class Spot(NamedTuple):
    """Where in the ring a tensor lies."""

    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Lease:
    """A slot, from the batch that is in it to the end of its copy."""

    def __init__(self) -> None:
        self._copied: torch.cuda.Event | None = None

    def copied(self, device: torch.device) -> None:
        """The batch is on its way to the device: no one will read the slot after what was asked of it so far."""
        if device.type == "cuda":
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record(torch.cuda.current_stream(device))

    def wait(self) -> None:
        """Until the copy is over."""
        if self._copied is not None:
            self._copied.synchronize()


class Ring:
    """Slots of one size. What is sent to a worker is the memory itself."""

    def __init__(self, slots: int, size: Size) -> None:
        self.slots = slots
        self.size = Size(*(math.ceil(part / PAGE) * PAGE for part in size))
        self._is_pinned = False
        self._map(_unnamed_file(slots * self.slot_bytes))

    @property
    def slot_bytes(self) -> int:
        """Of one."""
        return sum(self.size)

    def __getstate__(self) -> dict[str, Any]:
        return {"slots": self.slots, "size": self.size, "_is_pinned": False, "file": DupFd(self._file)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        file = state.pop("file").detach()
        self.__dict__.update(state)
        self._map(file)

    def _map(self, file: int) -> None:
        self._file = file
        self._memory_N = torch.frombuffer(mmap.mmap(file, self.slots * self.slot_bytes), dtype=torch.uint8)

    def canvas(self, number: int) -> Canvas:
        """Where the pixels of batch `number` are drawn; what does not fit goes elsewhere."""
        start = number % self.slots * self.slot_bytes
        slot = self._memory_N[start : start + self.slot_bytes]
        return Canvas(Arena(slot[: self.size.images]), Arena(slot[self.size.images :]))

    def spot(self, tensor: Tensor) -> Spot | None:
        """None of a tensor that lies elsewhere."""
        if tensor.untyped_storage().data_ptr() != self._memory_N.untyped_storage().data_ptr():
            return None
        return Spot(int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride())

    def tensor(self, spot: Spot) -> Tensor:
        """The one that lies there."""
        return self._memory_N.as_strided(spot.shape, spot.stride, spot.offset)

    def pin(self) -> None:
        """Lock it in memory, so that a GPU copies from it while the host goes on."""
        status = _driver().cudaHostRegister(self._memory_N.data_ptr(), len(self._memory_N), 0)
        self._is_pinned = int(status) == 0
        if not self._is_pinned:
            log.warning(
                "the loader's %.1f GB of memory cannot be locked (%s): copies to the GPU make the host wait. Allow it"
                " more (ulimit -l), or lower runtime.loader_workers",
                len(self._memory_N) / 1e9,
                status,
            )

    def close(self) -> None:
        """Give up what the system holds for it. Tensors that lie in it stay readable."""
        if self._is_pinned:
            _driver().cudaHostUnregister(self._memory_N.data_ptr())
            self._is_pinned = False
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _driver() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]


def _unnamed_file(size: int) -> int:
    """A descriptor of so many bytes of memory; where the system knows no such thing, of a file that is already deleted."""
    if sys.platform == "linux":
        file = os.memfd_create("fineclip-ring")
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.ftruncate(file, size)
    return file


def enough(measured: Sequence[Size], images: int) -> Size:
    """Bytes that hardly any batch of so many images exceeds, from those of some images."""
    return Size(*(_enough([size[part] for size in measured], images) for part in range(len(Size._fields))))


def _enough(values: Sequence[int], images: int) -> int:
    """Four deviations of the sum over the mean, which is known to two deviations itself; at least the largest."""
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    unsure = 4 * math.sqrt(images) + 2 * images / math.sqrt(len(values))
    return max(math.ceil(images * mean + unsure * deviation), *values)

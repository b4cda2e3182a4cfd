"""Limits of the machine: decoding, matrix products, copies."""

from collections.abc import Callable, Sequence

import simplejpeg
import torch

from benchmarks.timing import time_alternately

SHAPES = ((768, 768), (768, 2048), (2048, 768))  # of B/16's blocks


def decoding(jpegs: Sequence[bytes]) -> Callable[[], None]:
    """Return a function that decodes all images with libjpeg-turbo into a reused buffer."""
    shapes = [simplejpeg.decode_jpeg_header(data)[:2] for data in jpegs]
    largest = max(height * width * 3 for height, width in shapes)
    memory = torch.empty(largest, dtype=torch.uint8)

    def run() -> None:
        for data, (height, width) in zip(jpegs, shapes, strict=True):
            simplejpeg.decode_jpeg(data, buffer=memory[: height * width * 3].view(height, width, 3).numpy())

    return run


def products(dtype: torch.dtype, *, rows: int, flops: float) -> tuple[Callable[[], None], float]:
    """Return a function that multiplies `rows` rows with the matrices of a B/16 block repeatedly, and its FLOPs, about `flops`."""
    pairs = [(torch.randn(rows, wide, dtype=dtype), torch.randn(wide, out, dtype=dtype)) for wide, out in SHAPES]
    of_one = sum(2.0 * left.shape[0] * right.numel() for left, right in pairs)
    times = max(1, round(flops / of_one))

    def run() -> None:
        for _ in range(times):
            for left, right in pairs:
                torch.mm(left, right)

    return run, times * of_one


def copy_rate(size: int = 64_000_000) -> float:
    """Measure the rate of a memory copy in bytes per second."""
    source, target = torch.ones(size, dtype=torch.uint8), torch.empty(size, dtype=torch.uint8)
    return size / time_alternately({"copy": lambda: target.copy_(source)}, repeats=7)["copy"].least

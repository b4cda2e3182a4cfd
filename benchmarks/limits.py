"""What the machine itself can do: decode, multiply, copy."""

from collections.abc import Callable, Sequence

import simplejpeg
import torch

from benchmarks.timing import alternated

SHAPES = ((768, 768), (768, 2048), (2048, 768))  # of B/16's blocks


def decoding(jpegs: Sequence[bytes]) -> Callable[[], None]:
    """libjpeg-turbo on each, into memory of its own that is used again."""
    shapes = [simplejpeg.decode_jpeg_header(data)[:2] for data in jpegs]
    largest = max(height * width * 3 for height, width in shapes)
    memory = torch.empty(largest, dtype=torch.uint8)

    def run() -> None:
        for data, (height, width) in zip(jpegs, shapes, strict=True):
            simplejpeg.decode_jpeg(data, buffer=memory[: height * width * 3].view(height, width, 3).numpy())

    return run


def product_rate(dtype: torch.dtype, *, rows: int, device: str = "cpu") -> float:
    """FLOPs a second of products of so many rows with the matrices of B/16's blocks, the best of several runs, one thread."""
    pairs = [
        (torch.randn(rows, wide, device=device, dtype=dtype), torch.randn(wide, out, device=device, dtype=dtype))
        for wide, out in SHAPES
    ]

    def run() -> None:
        for left, right in pairs:
            torch.mm(left, right)

    flops = sum(2 * left.shape[0] * right.numel() for left, right in pairs)
    times = 1 + int(2e9 // flops)
    found = alternated({"products": lambda: [run() for _ in range(times)]}, repeats=7)["products"]
    return flops * times / found.least


def copy_rate(size: int = 64_000_000) -> float:
    """Bytes a second from memory to memory, read once and written once."""
    source, target = torch.ones(size, dtype=torch.uint8), torch.empty(size, dtype=torch.uint8)
    return size / alternated({"copy": lambda: target.copy_(source)}, repeats=7)["copy"].least

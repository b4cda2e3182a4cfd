"""Inputs that are the same bytes and the same weights on every machine, and outputs in a form that can be recorded."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from fineclip.shards import Row, read_manifest, read_rows
from fineclip.shards.tables import encode_row

OTHERS = ("stage", "version", "inputs", "outputs")  # of a manifest, beside counts and configuration


def picture(number: int, *, width: int = 24, height: int = 16) -> bytes:
    """A BMP of ramps: no encoder has a choice in it."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([7 * x + 53 * number, 11 * y + 29 * number, 5 * (x + y) + 17 * number], axis=-1) % 256
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, format="BMP")
    return file.getvalue()


def put(files: dict[str, bytes | str]) -> None:
    """Write files, by path."""
    for name, content in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def set_weights(module: nn.Module, *, seed: int = 0, share: float = 1.0) -> None:
    """Every parameter from NumPy's uniform numbers, which are the same bits everywhere; no norm or bias is idle.

    `share` of each is new, the rest as it was.
    """
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            drawn = torch.from_numpy(rng.uniform(-1, 1, tuple(parameter.shape)))
            if name.endswith("logit_scale"):
                drawn = torch.tensor(2.0)
            elif parameter.ndim >= 2:
                drawn = drawn * (3 / parameter[0].numel()) ** 0.5
            else:
                drawn = 0.2 * drawn + float(name.endswith("weight"))
            parameter.copy_(share * drawn + (1 - share) * parameter if share < 1 else drawn)


def digits(value: float, count: int = 4) -> float:
    """Rounded to so many significant digits."""
    return float(f"{value:.{count}g}")


def rounded(values: Iterable[float], decimals: int) -> list[float]:
    """Each of them."""
    return [round(float(value), decimals) for value in values]


def table(manifest: Path, row_type: type[Row], *, without: Sequence[str] = ()) -> dict[str, Any]:
    """Configuration, counts and every row of what a stage wrote; without what is 0, empty or None."""
    made = read_manifest(manifest)
    counts = {name: value for name, value in asdict(made).items() if name not in OTHERS and value}
    return counts | {"rows": [values_of(row, without=without) for row in read_rows(manifest, row_type)]}


def values_of(row: Row, *, without: Sequence[str] = ()) -> dict[str, Any]:
    """The fields of a row that are not None."""
    return {name: value for name, value in encode_row(row).items() if value is not None and name not in without}

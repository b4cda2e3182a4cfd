"""Read files of `torch.save`: tensors and plain values, without running code.

NumPy's scalars are the exception that trainers need: a learning rate that was computed with NumPy is a `numpy.float64`, and
checkpoints hold it. Two stand-ins are allowed under NumPy's names, which make numbers of Python and nothing else.
"""

import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fineclip.errors import CheckpointError

FORMATS = {"f8": "d", "f4": "f", "i8": "q", "i4": "i"}  # NumPy's code: that of struct
UNSUPPORTED = re.compile(r"GLOBAL ([\w.]+)")
DAMAGED = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    ImportError,
    MemoryError,
    struct.error,
)
SOURCES = {  # first part of the name of a class: the program that saves it
    "ultralytics": "ultralytics (YOLO)",
    "models": "YOLOv5 or YOLOv7",
    "pytorch_lightning": "PyTorch Lightning",
    "lightning": "PyTorch Lightning",
    "lightning_fabric": "PyTorch Lightning",
    "mmengine": "MMEngine (MMDetection, MMSegmentation)",
    "mmcv": "MMCV (MMDetection, MMSegmentation)",
    "detectron2": "detectron2",
    "fvcore": "detectron2",
    "transformers": "transformers",
    "omegaconf": "a program with OmegaConf",
    "argparse": "a program that saves its arguments",
    "deepspeed": "DeepSpeed",
    "fairseq": "fairseq",
    "torchvision": "torchvision",
    "timm": "timm",
    "open_clip": "open_clip",
    "sklearn": "scikit-learn",
    "pandas": "pandas",
}


class ScalarType:
    """Stand-in for `numpy.dtype` of a float or an integer of 4 or 8 bytes.

    Args:
        code: NumPy's code, such as f8.
        *flags: Whether NumPy aligns and copies, which has no effect.

    Raises:
        UnpicklingError: It is another type.
    """

    def __init__(self, code: str, *flags: bool) -> None:
        if code not in FORMATS or not all(isinstance(flag, bool) for flag in flags):
            raise pickle.UnpicklingError(f"holds a numpy scalar of type {str(code)[:20]!r}")
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Set the byte order, which is the second part of the state.

        Args:
            state: As NumPy writes it.

        Raises:
            UnpicklingError: It is no byte order of a scalar.
        """
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">"):
            raise pickle.UnpicklingError("holds a numpy scalar of unknown byte order")
        self.order = state[1]


def scalar(kind: ScalarType, data: bytes) -> float | int:
    """Return the number of a NumPy scalar.

    Args:
        kind: Its type.
        data: Its bytes.

    Returns:
        Number of Python.

    Raises:
        UnpicklingError: The bytes are not one number of the type.
    """
    if not isinstance(kind, ScalarType) or not isinstance(data, bytes):
        raise pickle.UnpicklingError("holds a numpy scalar that is not a number")
    try:
        [number] = struct.unpack(kind.order + FORMATS[kind.code], data)
    except struct.error:
        raise pickle.UnpicklingError("holds a numpy scalar of another length than its type") from None
    return float(number) if kind.code.startswith("f") else int(number)


NUMPY_SCALARS: list[Any] = [
    (scalar, "numpy.core.multiarray.scalar"),  # written with NumPy 1
    (scalar, "numpy._core.multiarray.scalar"),  # written with NumPy 2
    (ScalarType, "numpy.dtype"),
]


def read_torch_file(path: Path) -> dict[str, Any]:
    """Read a file of `torch.save` on the CPU.

    Args:
        path: An existing file.

    Returns:
        Its dictionary.

    Raises:
        CheckpointError: It is damaged, holds objects other than tensors and plain values, or no dictionary.
    """
    try:
        with (
            torch.serialization.safe_globals(NUMPY_SCALARS),
            path.open("rb") as file,
        ):  # torch judges a path by its ending
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: {_refusal(str(error))}") from None
    except DAMAGED as error:
        raise CheckpointError(f"{path}: is not a checkpoint of torch, or is truncated: {_first_line(error)}") from None
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}; expected tensors by their names")
    return dict(content)


def _refusal(problem: str) -> str:
    """Say what an unsafe file holds, in our words: torch's message recommends to load it without protection."""
    advice = "Ask for the weights alone: `torch.save(model.state_dict(), FILE)` in the program that wrote it."
    found = UNSUPPORTED.search(problem)
    if found is None:
        known = re.search(r"holds a numpy scalar[^\n]*", problem)
        reason = known[0] if known else "holds more than tensors and plain values, or is damaged"
        return f"{reason}, and is not loaded, because that could run any code. {advice}"
    source = SOURCES.get(found[1].split(".")[0])
    saved_by = f", as {source} writes it" if source else ""
    return (
        f"holds more than tensors and plain values, an object of {found[1].rstrip('.')}{saved_by}, and is not loaded, because that could"
        f" run any code. {advice}"
    )


def _first_line(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
    return type(error).__name__ if "weights_only" in line else line

"""Read and write files of named tensors, without running code from them."""

import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from fineclip.errors import CheckpointError
from fineclip.shards import atomic

WEIGHTS = "model.safetensors"
IN_FOLDERS = ("open_clip_model.safetensors", WEIGHTS, "open_clip_pytorch_model.bin", "pytorch_model.bin")
WRAPPINGS = ("state_dict", "module", "model")
PICKLES = (".pt", ".pth")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file, without the dictionaries and prefixes that trainers add around them.

    Args:
        path: A .safetensors, a file of `torch.save`, or a folder that has one under a name of `IN_FOLDERS`.

    Returns:
        Tensors by their names in the file.

    Raises:
        CheckpointError: The file is absent, damaged, holds objects other than tensors and plain values, or no tensors.
    """
    path = weights_file(path)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    while inner := next((key for key in WRAPPINGS if isinstance(content.get(key), Mapping)), None):
        content = content[inner]
    if not content or not all(isinstance(name, str) for name in content):
        raise CheckpointError(f"{path}: holds no weights: expected tensors by their names")
    strangers = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if strangers:
        raise CheckpointError(f"{path}: holds no weights: {some(strangers)} is not a tensor")
    if all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): value for name, value in content.items()}
    return dict(content)


def write_weights(path: Path, weights: Mapping[str, Tensor], *, wrapping: str | None = None) -> None:
    """Write tensors in float32, atomically. The same weights give the same bytes.

    Args:
        path: Ends in .safetensors, or in .pt or .pth for `torch.load(path, weights_only=True)`.
        weights: Tensors by their names in the file.
        wrapping: Key of the dictionary in a .pt that holds the tensors. None writes them at the top.

    Raises:
        CheckpointError: The path has another ending.
    """
    require_known_ending(path)
    tensors = {  # on the CPU, without shared memory, sorted by name
        name: value.detach().to("cpu", torch.float32).clone(memory_format=torch.contiguous_format)
        for name, value in sorted(weights.items())
    }
    with atomic(path) as temporary:
        if path.suffix == ".safetensors":  # in memory first: save_file writes a temporary file that is not cleaned up
            temporary.write_bytes(save(tensors, metadata={"format": "pt"}))
            return
        with temporary.open("wb") as file:  # with a path, torch would write the temporary name into the file
            torch.save(tensors if wrapping is None else {wrapping: tensors}, file)


def require_known_ending(path: Path) -> None:
    """Check that weights can be written to a file of this name.

    Args:
        path: Its suffix is checked.

    Raises:
        CheckpointError: The suffix is not .safetensors, .pt or .pth.
    """
    if path.suffix not in (".safetensors", *PICKLES):
        raise CheckpointError(f"{path}: the name of a file of weights must end in .safetensors, .pt or .pth")


def weights_file(path: Path) -> Path:
    """Return the file of weights.

    Args:
        path: The file itself, or a folder that has one under a name of `IN_FOLDERS`.

    Returns:
        Path of an existing file.

    Raises:
        CheckpointError: There is none.
    """
    if path.is_dir():
        found = next((path / name for name in IN_FOLDERS if (path / name).is_file()), None)
        if found is None:
            raise CheckpointError(f"{path}: holds none of {', '.join(IN_FOLDERS)}")
        return found
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    return path


def some(names: Iterable[str], most: int = 3) -> str:
    """Join the first names, and state the number of the others."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: is not a safetensors file, or is truncated: {error}") from None


def _read_pickle(path: Path) -> dict[str, Any]:
    if _is_torchscript(path):
        raise CheckpointError(
            f"{path}: is a TorchScript archive, a program as OpenAI publishes its models, and is not run here. Use the "
            "same weights as tensors, as open_clip publishes them on the Hugging Face hub (timm/vit_base_patch16_clip_224.openai)."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors and plain values, or is damaged, and is not loaded: {_first_line(error)}. If you trust "
            "its source, load it yourself and save its state_dict as .safetensors."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: is not a checkpoint of torch, or is truncated: {_first_line(error)}") from None
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}; expected tensors by their names")
    return dict(content)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")

"""Read and write files of named tensors, without running code from them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from fineclip.errors import CheckpointError
from fineclip.models.checkpoints.naming import tensors_by_place
from fineclip.models.checkpoints.programs import program_of
from fineclip.models.checkpoints.torch_files import read_torch_file
from fineclip.models.file_kinds import Container, container_of, other_kind
from fineclip.models.model_folders import read_object
from fineclip.shards import atomic

WEIGHTS = "model.safetensors"
INDEX = ".index.json"  # of weights in several files, which transformers writes
IN_FOLDERS = (
    "open_clip_model.safetensors",
    WEIGHTS,
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
    f"{WEIGHTS}{INDEX}",
    f"pytorch_model.bin{INDEX}",
)
PICKLES = (".pt", ".pth")
READ = (".safetensors", *PICKLES, ".bin", ".ckpt")
MOST_FILES = 100  # of a folder
MOST_SHOWN = 200  # characters of a name in a message


def read_weights(path: Path) -> dict[str, dict[str, Tensor]]:
    """Read all tensors of a file.

    Args:
        path: A .safetensors, a file of `torch.save`, or the index of weights in several files. The content decides, not the
            name.

    Returns:
        Tensors by their names in the file, for each dictionary of the file that holds some; trainers put them below a key such
        as `state_dict`. The tensors of a file without keys are at the empty key.

    Raises:
        CheckpointError: The file is absent, damaged, of another program, holds objects other than tensors and plain values, or
            no tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.name.endswith(INDEX):
        return {"": _read_parts(path)}
    content = _read_safetensors(path) if container_of(path) is Container.SAFETENSORS else read_torch_file(path)
    places = tensors_by_place(content)
    if not places:
        program = program_of(["exp_avg"]) if {"state", "param_groups"} <= content.keys() else None
        what = (
            f"holds {program.what}, and no weights. {program.advice}"
            if program
            else "holds no weights: expected tensors by their names"
        )
        raise CheckpointError(f"{path}: {what}")
    return places


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


def weights_files(path: Path) -> list[Path]:
    """Return the files that may hold the weights of a model.

    Args:
        path: A file, or a folder.

    Returns:
        The file itself, or the files of the folder, those with a name of `IN_FOLDERS` first.

    Raises:
        CheckpointError: There is none.
    """
    if not path.is_dir():
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file")
        return [path]
    there = sorted(entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith("."))[:MOST_FILES]
    usual = [path / name for name in IN_FOLDERS if (path / name).is_file()]
    parts = {part for index in usual if index.name.endswith(INDEX) for part in parts_of(index).values()}
    others = [entry for entry in there if entry.suffix in READ and entry not in usual and entry not in parts]
    if not usual and not others:
        strange = {entry.name: kind.what for entry in there if (kind := other_kind(entry))}
        known = "".join(f". {name} is {what}, and is not read" for name, what in list(strange.items())[:3])
        raise CheckpointError(
            f"{path}: holds none of {', '.join(IN_FOLDERS)}, and no other file that ends in {', '.join(READ)}{known}"
        )
    return usual + others


def parts_of(index: Path) -> dict[str, Path]:
    """Return the files of weights that are in several.

    Args:
        index: JSON with `weight_map`: the file of each tensor, in the folder of the index.

    Returns:
        The file of each tensor.

    Raises:
        CheckpointError: The index is damaged, or names a file outside its folder.
    """
    names = read_object(index, what="an index of weights").get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{index}: is not an index of weights: it lacks weight_map")
    for name in names.values():
        if not isinstance(name, str) or Path(name).name != name or name.endswith(INDEX):
            raise CheckpointError(f"{index}: names the file {name!r}; expected names of files beside it")
    return {tensor: index.parent / name for tensor, name in names.items()}


def some(names: Iterable[str], most: int = 3) -> str:
    """Join the first names, and state the number of the others. Names of files are not trusted: they are one short line each."""
    names = list(names)
    shown = [name if name.isprintable() else ascii(name) for name in names[:most]]
    short = [name if len(name) <= MOST_SHOWN else f"{name[:MOST_SHOWN]}..." for name in shown]
    return ", ".join(short) + (f" and {len(names) - most} more" if len(names) > most else "")


def _read_parts(index: Path) -> dict[str, Tensor]:
    """Read weights in several files; each tensor must be in the file that the index says."""
    parts = parts_of(index)
    tensors: dict[str, Tensor] = {}
    for path in sorted(set(parts.values())):
        content = read_weights(path).get("", {})
        wrong = sorted(name for name, place in parts.items() if (place == path) != (name in content))
        if wrong:
            raise CheckpointError(f"{path}: does not hold the tensors that {index.name} says, such as {some(wrong)}")
        tensors |= content
    return tensors


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError, LookupError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"{path}: is not a safetensors file, or is truncated: {error}") from None

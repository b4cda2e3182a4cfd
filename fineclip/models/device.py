"""Choice of the device that a model runs on. torch is imported when the function is called."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fineclip.errors import ConfigError

if TYPE_CHECKING:
    import torch

DEVICE = re.compile(r"auto|cpu|mps|cuda(:[0-9]{1,4})?")


def resolve_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is a GPU if there is one, else the CPU.

    Args:
        name: auto, cpu, cuda, mps, or a GPU by its number, such as cuda:1.

    Returns:
        Device that torch can use on this machine.

    Raises:
        ConfigError: There is no device of that name, or torch finds none on this machine.
    """
    name = str(name)  # perhaps a torch.device
    if not DEVICE.fullmatch(name):
        raise ConfigError(f"device {name!r}: expected auto, cpu, cuda, mps, or a GPU by its number, such as cuda:0")
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    gpus = torch.cuda.device_count() if kind == "cuda" and torch.cuda.is_available() else 0
    absent = {"cuda": gpus == 0, "mps": not torch.backends.mps.is_available()}
    if absent.get(kind):
        raise ConfigError(f"runtime.device: torch finds no {kind} device on this machine. Set auto or cpu.")
    if index and int(index) >= gpus:
        raise ConfigError(
            f"device {name}: torch finds {gpus} GPUs on this machine, numbered from 0. Set another, or auto."
        )
    return torch.device(name)

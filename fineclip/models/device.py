"""Choice of the device that a model runs on. torch is imported when the function is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fineclip.errors import ConfigError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is a GPU if there is one, else the CPU.

    Args:
        name: auto, cpu, cuda or mps.

    Returns:
        Device that torch can use on this machine.

    Raises:
        ConfigError: torch finds no such device.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    absent = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if absent.get(name):
        raise ConfigError(f"runtime.device: torch finds no {name} device on this machine. Set auto or cpu.")
    return torch.device(name)

"""Choice of the device that a model runs on. torch is imported by the function, not by the module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fineclip.errors import ConfigError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is a GPU if there is one, else the CPU.

    Args:
        name: auto, cpu, cuda or mps.

    Raises:
        ConfigError: torch finds no such device.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    absent = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if absent.get(name):
        raise ConfigError(f"runtime.device: {name} is asked for, but torch finds none here. Set auto or cpu.")
    return torch.device(name)

"""Objectives: one file each. A method is an `nn.Module` that owns an encoder (see `base.py`)."""

from typing import Any

from fineclip.methods.base import Method
from fineclip.methods.clip import Clip
from fineclip.methods.fineclip import FineCLIP

METHODS: dict[str, type[Method[Any]]] = {"clip": Clip, "fineclip": FineCLIP}

__all__ = ["METHODS", "Clip", "FineCLIP", "Method"]

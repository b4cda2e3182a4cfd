"""Objectives: one file each. A method is an `nn.Module` that owns an encoder (see `base.py`)."""

from typing import Any

from fineclip.methods.base import Method
from fineclip.methods.clim import Clim
from fineclip.methods.clip import Clip
from fineclip.methods.clipself import ClipSelf
from fineclip.methods.fineclip import FineCLIP
from fineclip.methods.regionclip import RegionClip

METHODS: dict[str, type[Method[Any]]] = {
    "clip": Clip,
    "clipself": ClipSelf,
    "clim": Clim,
    "regionclip": RegionClip,
    "fineclip": FineCLIP,
}

__all__ = ["METHODS", "Clim", "Clip", "ClipSelf", "FineCLIP", "Method", "RegionClip"]

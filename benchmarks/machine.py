"""Facts about the machine of a measurement."""

import os
import platform
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

PACKAGES = ("torch", "torchvision", "open-clip-torch", "timm", "pillow", "simplejpeg", "numpy")


@cache
def cpu_model() -> str:
    """Return the model name of the processor."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", path.read_text(), re.MULTILINE) if path.is_file() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


@cache
def cpu_flags() -> frozenset[str]:
    """Return the feature flags of the processor; empty on systems without /proc/cpuinfo."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"^flags\s*: (.+)$", path.read_text(), re.MULTILINE) if path.is_file() else None
    return frozenset(found[1].split()) if found else frozenset()


def has_amx() -> bool:
    """Return whether the processor has AMX bfloat16 units; without them, bfloat16 times of a CPU are not representative."""
    return "amx_bf16" in cpu_flags()


def gpu_name() -> str | None:
    """Return the name of the first GPU, or None."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def load_average() -> tuple[float, float, float]:
    """Return the load averages of 1, 5 and 15 minutes."""
    one, five, fifteen = os.getloadavg()
    return round(one, 2), round(five, 2), round(fifteen, 2)


def machine_facts() -> dict[str, Any]:
    """Return processor, cores, memory and GPU."""
    units = [name for name in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if name in cpu_flags()]
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "units": units,
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "gpu": gpu_name(),
        "gpu_memory_gb": round(torch.cuda.get_device_properties(0).total_memory / 1e9) if gpu_name() else None,
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the timed packages."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def slug() -> str:
    """Return the file name of this machine: processor, number of cores, GPU."""
    facts = machine_facts()
    words = " ".join(filter(None, [facts["cpu"], f"{facts['cores']} cores", facts["gpu"]]))
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(.*?\)|@.*", " ", words.lower())).strip("-")

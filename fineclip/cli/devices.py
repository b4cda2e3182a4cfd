"""Exclusive use of GPUs of one machine by jobs.

A job that uses GPU 3 holds a lock on the file `device-3` in a folder of this machine. The kernel releases the lock when the
process ends in any way.

A job that needs GPUs first locks the queue file `line-<device>` of each GPU it may use, in sorted order, and then locks free
GPUs until it has enough. There is no deadlock, because jobs that hold GPUs do not wait. A job that needs many GPUs is not
overtaken by jobs that need few.

If `CUDA_VISIBLE_DEVICES` is set, by a scheduler or by the user, no other GPU is used. GPUs from a scheduler are locked under the
name of its allocation, because the same number may mean different GPUs in two allocations.
"""

import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Literal

from fineclip.environment import text_of
from fineclip.errors import ConfigError
from fineclip.shards.locks import try_lock, wait_for_lock
from fineclip.system_errors import refusals_at

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
SCHEDULERS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID")  # variables that name an allocation
DEVICE_FILES = Path("/dev")
POLL_INTERVAL_S = 0.5


def claim(count: int, devices: Sequence[int] | Literal["auto"], *, folder: Path | None = None) -> tuple[str, ...]:
    """Lock GPUs for the life of this process, waiting until they are free, and hide all others.

    Args:
        count: Number of GPUs; 0 locks none and hides none.
        devices: Numbers of allowed GPUs as in nvidia-smi; auto: all of the machine.
        folder: Folder of the lock files; None: one of this user in the folder for temporary files.

    Returns:
        The GPUs as in `CUDA_VISIBLE_DEVICES`. Empty if the machine has none: the job runs on the CPU.

    Raises:
        ConfigError: Fewer GPUs are allowed than requested.
        SystemRefusalError: The folder of the lock files cannot be written, or its file system has no locks.
    """
    allocation = allocation_of(os.environ)
    pool = pool_of(devices, os.environ.get(VISIBLE))
    if allocation is not None:
        count = min(count, len(pool))  # each of several nodes has a part of them
    if count == 0 or not pool:
        return ()
    if count > len(pool):
        raise ConfigError(
            f"this job requests {count} GPUs, but only {len(pool)} are allowed: {', '.join(pool)}."
            f" Lower its resource `gpu`, or add GPUs to runtime.devices and {VISIBLE}."
        )
    folder = folder or Path(tempfile.gettempdir()) / f"fineclip-devices-{os.getuid()}"
    with refusals_at(folder, "cannot be made for the locks of GPUs"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    prefix = f"{allocation}-" if allocation else ""
    held = _lock_gpus(count, {name: folder / f"device-{prefix}{_slug(name)}" for name in pool})
    os.environ["CUDA_DEVICE_ORDER"] = text_of("CUDA_DEVICE_ORDER", os.environ) or "PCI_BUS_ID"  # as nvidia-smi counts
    os.environ[VISIBLE] = ",".join(held)
    log.info("using GPU %s", ", ".join(held))
    return held


def pool_of(devices: Sequence[int] | Literal["auto"], visible: str | None) -> tuple[str, ...]:
    """Return the GPUs that a job may use: the visible ones, in that order, that the configuration allows.

    Args:
        devices: Numbers of allowed GPUs; auto: all.
        visible: Value of `CUDA_VISIBLE_DEVICES`; None if it is not set.

    Returns:
        GPUs as in `CUDA_VISIBLE_DEVICES`.
    """
    if visible is None:
        count = len(list(DEVICE_FILES.glob("nvidia[0-9]*")))  # CUDA counts from 0, even if there is only /dev/nvidia3
        return tuple(map(str, range(count) if devices == "auto" else dict.fromkeys(devices)))
    named = (name.strip() for name in visible.split(","))
    shown = dict.fromkeys(takewhile(lambda name: name not in {"", "-1"}, named))  # CUDA ignores the entries after
    numbers = None if devices == "auto" else set(map(str, devices))
    # a UUID is always allowed
    return tuple(name for name in shown if numbers is None or not name.isdigit() or name in numbers)


def allocation_of(environment: Mapping[str, str]) -> str | None:
    """Return the job of the scheduler that assigned the visible GPUs; None without a scheduler."""
    if VISIBLE not in environment:
        return None
    for variable in SCHEDULERS:
        if job := text_of(variable, environment):
            node = text_of("SLURMD_NODENAME", environment)  # several nodes may be one machine
            return _slug("-".join(filter(None, (variable.partition("_")[0].lower(), job, node))))
    return None


def _lock_gpus(count: int, lock_files: Mapping[str, Path]) -> tuple[str, ...]:
    """Queue, then lock free GPUs until there are enough. The locks last for the life of the process."""
    queue = [_join_queue(path.with_name(f"line-{path.name}")) for path in sorted(lock_files.values())]
    held: list[str] = []
    is_logged = False
    while True:
        for name, path in lock_files.items():
            if len(held) < count and name not in held and _try_lock(path):
                held.append(name)
        if len(held) == count:
            break
        if not is_logged:
            holders = "; ".join(f"{name}: {_holder(path)}" for name, path in lock_files.items() if name not in held)
            log.info("waiting for %d of GPUs %s (%s)", count - len(held), ", ".join(lock_files), holders)
            is_logged = True
        time.sleep(POLL_INTERVAL_S)
    for descriptor in queue:
        os.close(descriptor)
    return tuple(name for name in lock_files if name in held)


def _join_queue(path: Path) -> int:
    """Lock a queue file, waiting for earlier jobs, and return its descriptor."""
    descriptor = _opened(path)
    if not try_lock(descriptor, path):
        log.info("waiting for the GPU queue: another job is ahead")
        wait_for_lock(descriptor, path)
    return descriptor


def _try_lock(path: Path) -> bool:
    """Return whether the file could be locked; write the name of this process into it."""
    descriptor = _opened(path)
    if not try_lock(descriptor, path):
        os.close(descriptor)
        return False
    os.set_inheritable(descriptor, True)  # the lock survives exec
    with refusals_at(path, "cannot be written"):
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()}, {' '.join(sys.argv[1:2])}".encode())
    return True


def _opened(path: Path) -> int:
    with refusals_at(path, "cannot be opened for a lock"):
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _holder(path: Path) -> str:
    return path.read_text(encoding="utf-8") or "another process"


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "_", name)

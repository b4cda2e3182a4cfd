"""GPUs of one machine, taken by a job and shared with none.

A job that holds GPU 3 holds a lock on the file `device-3` of a folder of this machine. The lock goes with the process,
however it ends: the kernel takes it back, so there is nothing to tidy up after a kill.

Whoever waits stands in line for every device that it could take: it locks the files `line-<device>`, lowest first, and then
picks what is free until it has enough. Two jobs cannot wait for one another, because only those who stand in line wait
for devices, and those who hold devices wait for nothing. A job that wants many is not overtaken by those that want few.

Where `CUDA_VISIBLE_DEVICES` is set, by a scheduler or by a person, nothing outside of it is taken. What a scheduler gave to
a job is locked for that job alone: numbers of two allocations may be the same and mean different devices.
"""

import fcntl
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from fineclip.errors import ConfigError

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
SCHEDULERS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID")  # variables that name an allocation
DEVICE_FILES = Path("/dev")
LOOK_EVERY_S = 0.5


def claim(count: int, devices: Sequence[int] | Literal["auto"], *, folder: Path | None = None) -> tuple[str, ...]:
    """Take so many devices for the life of this process, waiting until they are free, and show it no others.

    Args:
        count: how many; 0 takes none and leaves everything visible.
        devices: numbers to choose from, as nvidia-smi counts; auto: all that the machine has.
        folder: of the locks; None takes one of this user in the machine's folder for temporary files.

    Returns:
        The devices as `CUDA_VISIBLE_DEVICES` names them. None where the machine has none: the job runs on the CPU.

    Raises:
        ConfigError: more are asked for than there are to choose from.
    """
    allocation = allocation_of(os.environ)
    pool = pool_of(devices, os.environ.get(VISIBLE))
    if allocation is not None:
        count = min(count, len(pool))  # of several nodes, each has its part
    if count == 0 or not pool:
        return ()
    if count > len(pool):
        raise ConfigError(
            f"this job asks for {count} GPUs, but can choose from {len(pool)} only: {', '.join(pool)}."
            f" Lower its resource `gpu`, or name more in runtime.devices and {VISIBLE}."
        )
    folder = folder or Path(tempfile.gettempdir()) / f"fineclip-devices-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    prefix = f"{allocation}-" if allocation else ""
    held = _wait(count, {name: folder / f"device-{prefix}{_slug(name)}" for name in pool})
    os.environ["CUDA_DEVICE_ORDER"] = os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as nvidia-smi counts
    os.environ[VISIBLE] = ",".join(held)
    log.info("holds GPU %s", ", ".join(held))
    return held


def pool_of(devices: Sequence[int] | Literal["auto"], visible: str | None) -> tuple[str, ...]:
    """What a job may choose from: what is visible, in that order, less what the configuration does not name."""
    if visible is None:
        return tuple(map(str, _of_this_machine() if devices == "auto" else dict.fromkeys(devices)))
    named = [name.strip() for name in visible.split(",")]
    end = next((index for index, name in enumerate(named) if name in ("", "-1")), len(named))  # as CUDA reads it
    shown = dict.fromkeys(named[:end])
    numbers = None if devices == "auto" else set(map(str, devices))
    # a device that is named by its UUID was chosen by somebody who knows it
    return tuple(name for name in shown if numbers is None or not name.isdigit() or name in numbers)


def allocation_of(environment: Mapping[str, str]) -> str | None:
    """The job of a scheduler that handed out the visible devices, if one did."""
    if VISIBLE not in environment:
        return None
    for variable in SCHEDULERS:
        if variable in environment:
            node = environment.get("SLURMD_NODENAME", "")  # several may be one machine
            return _slug("-".join(filter(None, (variable.partition("_")[0].lower(), environment[variable], node))))
    return None


def _of_this_machine() -> range:
    """CUDA counts what it finds from 0, in a container too that shows /dev/nvidia3 alone."""
    return range(len(list(DEVICE_FILES.glob("nvidia[0-9]*"))))


def _wait(count: int, places: Mapping[str, Path]) -> tuple[str, ...]:
    """Stand in line, then take what is free until it is enough; the locks stay for the life of the process."""
    line = [_stand_in_line(place.with_name(f"line-{place.name}")) for place in sorted(places.values())]
    held: list[str] = []
    was_said = False
    while True:
        for name, place in places.items():
            if len(held) < count and name not in held and _took(place):
                held.append(name)
        if len(held) == count:
            break
        if not was_said:
            holders = "; ".join(f"{name}: {_holder(place)}" for name, place in places.items() if name not in held)
            log.info("waits for %d of the GPUs %s, which are taken (%s)", count - len(held), ", ".join(places), holders)
            was_said = True
        time.sleep(LOOK_EVERY_S)
    for descriptor in line:
        os.close(descriptor)
    return tuple(name for name in places if name in held)


def _stand_in_line(path: Path) -> int:
    """An open descriptor of the locked file."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        log.info("waits in line for GPUs: another job was first")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def _took(path: Path) -> bool:
    """Lock the file and write who did it, unless another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return False
    os.set_inheritable(descriptor, True)  # a program that takes this one's place keeps the lock
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()}, {' '.join(sys.argv[1:2])}".encode())
    return True


def _holder(path: Path) -> str:
    return path.read_text(encoding="utf-8") or "another process"


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "_", name)

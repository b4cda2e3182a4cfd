"""Locks of files between the processes of one or several machines. The kernel releases a lock when its process ends."""

import errno
import fcntl
from pathlib import Path
from typing import IO

from fineclip.system_errors import refusal

CONFLICTS = frozenset({errno.EAGAIN, errno.EWOULDBLOCK})


def try_lock(file: IO[str] | int, path: Path) -> bool:
    """Lock an open file if no other process holds its lock.

    Args:
        file: Open file or descriptor.
        path: Its path, for messages.

    Returns:
        Whether it is locked now; False if another process holds the lock.

    Raises:
        SystemRefusalError: The file system has no locks, or refuses this one.
    """
    return _flock(file, path, fcntl.LOCK_EX | fcntl.LOCK_NB)


def wait_for_lock(file: IO[str] | int, path: Path) -> None:
    """Lock an open file, waiting until no other process holds its lock.

    Args:
        file: Open file or descriptor.
        path: Its path, for messages.

    Raises:
        SystemRefusalError: The file system has no locks, or refuses this one.
    """
    _flock(file, path, fcntl.LOCK_EX)


def _flock(file: IO[str] | int, path: Path, operation: int) -> bool:
    try:
        fcntl.flock(file, operation)
    except OSError as error:
        if error.errno in CONFLICTS:
            return False
        refused = refusal(error, path, doing="the file system refuses a lock")
        raise error if refused is None else refused from error
    return True

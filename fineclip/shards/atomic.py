"""Atomic writes: a temporary file beside the target, fsync, rename, fsync of the folder.

If the system refuses space, access or a flush, the error names the target, and nothing is left beside it.
"""

import errno
import hashlib
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from fineclip.system_errors import REFUSED, refusal, refusals_at

log = logging.getLogger(__name__)

UNWRITTEN = "cannot be written"
STALE_AFTER_S = 3600
CLOCK_SKEW_S = 60  # between a file server and this host
TEMPORARY_NAME = re.compile(r"\.(?P<host>[^.]+)\.(?P<process>\d+)\.[0-9a-f]{8}\.tmp$")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block ends, and is deleted if the block raises.

    Processes that write the same file at the same time use different temporary names; the last rename wins.

    Args:
        path: Target. Missing parent folders are created.

    Yields:
        Path in the folder of the target; the file does not exist yet.

    Raises:
        SystemRefusalError: The system refuses to write; the target is unchanged.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with atomic(Path(folder) / "shard.txt") as temporary:
        ...         _ = temporary.write_text("complete")
        ...     (Path(folder) / "shard.txt").read_text()
        'complete'
    """
    with refusals_at(path, UNWRITTEN):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{_host()}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with _refusals_of_writing(path, temporary):
            yield temporary
        with refusals_at(path, UNWRITTEN):
            _flush_to_disk(temporary)
            temporary.replace(path)
        _flush_folder(path.parent)
    finally:
        with suppress(OSError):  # the first error counts
            temporary.unlink(missing_ok=True)


@contextmanager
def _refusals_of_writing(path: Path, temporary: Path) -> Iterator[None]:
    """Name the target in errors of the block, unless they name another file that the block reads."""
    try:
        yield
    except Exception as error:
        named = getattr(error, "filename", None)
        refused = refusal(error, path, doing=UNWRITTEN)
        is_ours = named == str(temporary) or (named is None and getattr(error, "errno", None) in {None, *REFUSED})
        if refused is None or not is_ours:
            raise
        raise refused from error


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a binary file atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of the content of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_stale_temp_files(folder: Path, name: str) -> None:
    """Remove the temporary files that killed processes left in a folder.

    Files of this host are removed if their process has ended, files of other hosts if they have not changed for an hour.

    Args:
        folder: Folder of the targets.
        name: File name of a target. Temporary files of `name`, `name.*` and their hidden copies are removed.
    """
    for temporary in (*folder.glob(f".{name}.*.tmp"), *folder.glob(f"..{name}.*.tmp")):
        writer = TEMPORARY_NAME.search(temporary.name)
        if writer is None:
            continue
        with suppress(FileNotFoundError):  # renamed by its process in the meantime
            changed = temporary.stat().st_mtime
            if writer["host"] == _host():
                is_stale = not _is_alive(int(writer["process"]), at=changed)
            else:
                is_stale = time.time() - changed > STALE_AFTER_S
            if is_stale:
                temporary.unlink()


def _is_alive(process: int, *, at: float) -> bool:
    """Return whether the process lives and has lived since the time `at`; process ids are reused.

    A killed process whose parent does not wait for it keeps its id as a zombie; it counts as ended.
    """
    try:
        found = psutil.Process(process)
        return found.status() != psutil.STATUS_ZOMBIE and found.create_time() <= at + CLOCK_SKEW_S
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())


def _flush_to_disk(path: Path) -> None:
    """Call fsync on a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    """Call fsync on a folder, whose files are flushed. Some network file systems cannot do that, and need not."""
    try:
        _flush_to_disk(folder)
    except OSError as error:
        if error.errno in {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES}:
            log.debug("%s: cannot be flushed: %s", folder, error.strerror)
            return
        refused = refusal(error, folder, doing="cannot be flushed")
        raise error if refused is None else refused from error

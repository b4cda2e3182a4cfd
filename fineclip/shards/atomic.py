"""Files that are there whole or not at all: a temporary name of this process, fsync, rename."""

import hashlib
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

BLOCK_BYTES = 1 << 20
ABANDONED_S = 3600
CLOCK_S = 60  # a file server's clock is not this host's
WRITER = re.compile(r"\.(?P<host>[^.]+)\.(?P<process>\d+)\.[0-9a-f]{8}\.tmp$")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends well, and goes when it does not.

    Two processes that write the same file do each other no harm: the name is a process's own and the last rename wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{_host()}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        _flush_to_disk(temporary)
        temporary.replace(path)
        _flush_to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """UTF-8, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def sha256_of(path: Path) -> str:
    """Of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sweep(folder: Path, name: str) -> None:
    """Remove what killed writers of `name`, `name.anything` and their hidden copies left under temporary names.

    Of this host's writers, where the process is gone; of another host's, which nobody can ask, where nothing has been
    written for an hour.
    """
    for orphan in (*folder.glob(f".{name}.*.tmp"), *folder.glob(f"..{name}.*.tmp")):
        writer = WRITER.search(orphan.name)
        if writer is None:
            continue
        with suppress(FileNotFoundError):  # its writer has just finished
            written = orphan.stat().st_mtime
            is_here = writer["host"] == _host()
            if (
                not _is_writing(int(writer["process"]), since=written)
                if is_here
                else time.time() - written > ABANDONED_S
            ):
                orphan.unlink()


def _is_writing(process: int, *, since: float) -> bool:
    """Whether that process lives, and did so when the file was last written: numbers are given again.

    A process that was killed and that nobody waits for keeps its number for ever: it is a zombie, and writes nothing.
    """
    try:
        found = psutil.Process(process)
        return found.status() != psutil.STATUS_ZOMBIE and found.create_time() <= since + CLOCK_S
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

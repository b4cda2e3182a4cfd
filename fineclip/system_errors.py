"""Refusals of the operating system and exhausted memory as one sentence: where, what, the system's own message, what to do.

`explain` decides for every exception that reaches the command line whether the system refused something or the program is
wrong. The boundary:

* A refusal of `REFUSED` (no space, quota, size limit, read-only, input or output error, no locks, too many open files, ...) does
  not depend on the program. It is explained with or without the name of a file, and also if a library reports it in words:
  pyarrow, safetensors, torch, and workers of `DataLoader`.
* A refusal of `REFUSED_FOR_FILE` (permission, a folder in place of a file, an operation that the file system lacks, ...) is
  explained only if the error names a file that does not belong to Python or to an installed package. Without a name it may be a
  wrong call, and a file of a package is a broken installation: both keep their traceback.
* A missing file (ENOENT) is not explained here. Readers state which input is absent and how to make it; elsewhere it is a bug.
* Exhausted memory of a device or of the host, and the loss of another process of a training, are explained.

Any other exception keeps its traceback.
"""

import errno
import os
import re
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from fineclip.errors import FineclipError, MemoryLimitError, SystemRefusalError, TrainingError

SPACE = "Free space there, or write to another file system, and run again."
AGAIN = "Check that file system, and run again."
MORE_ROOM = "Enlarge it (docker: --shm-size), or lower runtime.num_workers, and run again."
FEWER_WORKERS = "Lower runtime.num_workers, and run again."
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (loader workers pass batches through it)
FILES = "Raise the limit (`ulimit -n`), or lower runtime.num_workers, and run again."
REFUSED: dict[int, str] = {
    errno.ENOSPC: SPACE,
    errno.EDQUOT: "Free space within your quota, or write to another file system, and run again.",
    errno.EFBIG: "Raise the limit on the size of files (`ulimit -f`), or use another file system, and run again.",
    errno.EROFS: "Write to another file system.",
    errno.EIO: AGAIN,
    errno.ESTALE: AGAIN,
    errno.EMFILE: FILES,
    errno.ENFILE: FILES,
    errno.ENOLCK: "Use a file system with locks, such as a local disk.",
    errno.ENOMEM: "Free memory of this machine, or lower runtime.num_workers, and run again.",
}
REFUSED_FOR_FILE: dict[int, str] = {
    errno.EACCES: "Change its permissions, or name another path.",
    errno.EPERM: "Change its permissions, or name another path.",
    errno.ENOTDIR: "A part of the path is a file: name another path.",
    errno.EISDIR: "It is a folder: name another path.",
    errno.EEXIST: "A file is in its place: remove it, or name another path.",
    errno.ELOOP: "Remove the link that leads to itself.",
    errno.ENAMETOOLONG: "Use shorter names.",
    errno.EBUSY: AGAIN,
    errno.ETXTBSY: AGAIN,
    errno.ENOTCONN: AGAIN,
    errno.ETIMEDOUT: AGAIN,
    errno.EHOSTDOWN: AGAIN,
    errno.ENODEV: AGAIN,
    errno.ENXIO: AGAIN,
    errno.EINVAL: "Use a file system that supports this.",
    errno.ENOSYS: "Use a file system that supports this.",
    errno.EOPNOTSUPP: "Use a file system that supports this.",
}
BUGS = frozenset({errno.ENOENT, errno.EBADF})  # of a program that opens or closes the wrong file
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})  # only writing is refused so
LIBRARIES = ("torch", "safetensors", "pyarrow")  # they report refusals in words
CODE_IN_WORDS = re.compile(
    r"\[errno (?P<python>\d+)\]|\(os error (?P<rust>\d+)\)|: [^:()\n]+ \((?P<torch>\d+)\)", re.IGNORECASE
)
LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "remote process exited")
EXHAUSTED = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


def explain(error: BaseException, *, memory_keys: Sequence[str] = ()) -> FineclipError | None:
    """Return the sentence for an exception that a user can act on, or None for a bug.

    Args:
        error: Any exception.
        memory_keys: Keys that lower the memory of the job, for exhausted memory.

    Returns:
        The error itself if it is a `FineclipError`, a new one if the system refused something, or None.
    """
    if isinstance(error, FineclipError):
        return error
    if is_out_of_memory(error):
        advice = f"Lower {' or '.join(memory_keys)}" if memory_keys else "Free memory"
        return MemoryLimitError(f"out of memory: {_first_line(error)} {advice}, and run again.")
    if isinstance(error, RuntimeError) and any(words in str(error) for words in LOST_PEER):
        return TrainingError("the connection to another process of this training is lost; see its own error message")
    return _killed_worker(error) or refusal(error)


def refusal(error: BaseException, path: Path | None = None, *, doing: str = "refused") -> SystemRefusalError | None:
    """Return the sentence for a refusal of the operating system, or None.

    Args:
        error: Any exception.
        path: File that was read or written, if the caller knows it. Then any error of the system but `BUGS` is a refusal.
        doing: What could not be done: `cannot be written`.

    Returns:
        Error with the path, the system's own message, its code and what to do.
    """
    code = _code_of(error)
    if code is None:
        return None
    named = getattr(error, "filename", None)
    where = path if path is not None else Path(os.fsdecode(named)) if isinstance(named, str | bytes) else None
    is_about_a_file = path is not None or (code in REFUSED_FOR_FILE and where and not _is_of_a_package(where))
    if code not in REFUSED and not is_about_a_file:
        return None
    place = f"{where}: {doing}" if where is not None else f"the system refused a request ({_first_line(error)})"
    advice = (REFUSED | REFUSED_FOR_FILE).get(code, AGAIN)
    if where == SHARED_MEMORY and code == errno.ENOSPC:
        advice = MORE_ROOM
    return SystemRefusalError(f"{place}: {_system_message(code)}. {advice}")


@contextmanager
def refusals_at(path: Path, doing: str) -> Iterator[None]:
    """Turn refusals of the operating system inside the block into errors that name a file.

    Args:
        path: File or folder that the block reads or writes.
        doing: What could not be done: `cannot be written`.

    Yields:
        Nothing.

    Raises:
        SystemRefusalError: The system refused something.
        OSError: Another error of the block, unchanged.
    """
    try:
        yield
    except OSError as error:
        refused = refusal(error, path, doing=doing)
        if refused is None:
            raise
        raise refused from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the memory of a device or of the host was exhausted. torch is not imported."""
    if isinstance(error, MemoryError) or any(one.__name__ == "OutOfMemoryError" for one in type(error).__mro__):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(words in text for words in EXHAUSTED)


def _killed_worker(error: BaseException) -> FineclipError | None:
    """Return the sentence for a worker of `DataLoader` that the system ended. torch raises it anywhere in the main thread."""
    text = f"{error} {error.__cause__ or ''}"
    if not isinstance(error, RuntimeError) or "DataLoader worker" not in text:
        return None
    if "signal: Bus error" in text:
        return refusal(OSError(errno.ENOSPC, ""), SHARED_MEMORY, doing="has no room for the batches of loader workers")
    if "signal: Killed" in text:
        return MemoryLimitError(
            "a loader worker was killed, as the system does when memory is exhausted. " + FEWER_WORKERS
        )
    return None


def _code_of(error: BaseException) -> int | None:
    """Return the code of a refusal, from the exception or from the words of a library."""
    if isinstance(error, OSError) and error.errno is not None:
        return None if error.errno in BUGS else error.errno
    if not _speaks_of_the_system(error):
        return None
    text = str(error)
    if isinstance(error, RuntimeError) and "enforce fail" in text:  # torch.save hides the error of the file
        cause = error.__cause__ or error.__context__
        return _code_of(cause) if isinstance(cause, OSError) else None
    if "No usable temporary directory" in text:
        return errno.ENOSPC
    if text.startswith(os.strerror(errno.EMFILE)):
        return errno.EMFILE
    found = [int(next(filter(None, match.groups()))) for match in CODE_IN_WORDS.finditer(text)]
    # a number in parentheses is a code only beside the words of the system
    codes = [code for code in found if code in REFUSED and os.strerror(code).lower() in text.lower()]
    return codes[-1] if codes else None


def _speaks_of_the_system(error: BaseException) -> bool:
    return isinstance(error, OSError | RuntimeError) or type(error).__module__.partition(".")[0].strip("_") in LIBRARIES


def _system_message(code: int) -> str:
    return f"{os.strerror(code)} ({errno.errorcode.get(code, code)})"


def _first_line(error: BaseException) -> str:
    text = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return text if text.endswith(".") else f"{text}."


def _is_of_a_package(path: Path) -> bool:
    """Return whether a file belongs to Python or to an installed package, and not to the user."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 (links are not followed)
    return any(absolute.is_relative_to(folder) for folder in _package_folders())


@cache
def _package_folders() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return (Path(__file__).parent, *(Path(sysconfig.get_paths()[name]) for name in names))

"""Read byte ranges of files: an image inside a tar, or a file of its own."""

import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from fineclip.errors import ShardError
from fineclip.system_errors import REFUSED, refusal, refusals_at

UNREAD = "cannot be read"


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Byte range of a file.

    Attributes:
        offset: Position of the first byte, from 0.
        size: Number of bytes.
    """

    offset: int
    size: int


class ByteRangeReader:
    """Read byte ranges, and keep the most recently used files open. Not thread-safe.

    Args:
        max_open: Largest number of open files, at least 1.
        read_ahead: Ask the system to load each file as a whole when it is opened. Storage is fastest at sequential reads, so this
            helps if most of a file is read, in any order.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder, ByteRangeReader() as reader:
        ...     path = Path(folder) / "numbers"
        ...     _ = path.write_bytes(b"0123456789")
        ...     reader.read(path, 3, 4)
        b'3456'
    """

    def __init__(self, max_open: int = 8, *, read_ahead: bool = False) -> None:
        self._max_open, self._read_ahead = max_open, read_ahead
        self._files: OrderedDict[Path, BinaryIO] = OrderedDict()

    def read(self, file: Path | str, offset: int, size: int) -> bytes:
        """Return `size` bytes of a file from byte `offset`.

        Args:
            file: Opened if it is not open yet.
            offset: Position of the first byte, from 0.
            size: Number of bytes.

        Returns:
            Exactly `size` bytes.

        Raises:
            ShardError: The file cannot be opened, or ends before the range does.
            SystemRefusalError: The system refuses to read it.
        """
        path = Path(file)
        opened = self._open(path)
        with refusals_at(path, UNREAD):
            content = _read_at(opened.fileno(), offset, size)
        if len(content) < size:
            raise ShardError(
                f"{path}: ends at byte {offset + len(content):,}, where its table requires {offset + size:,}."
                " It was truncated or replaced: restore it, or run the stage source again."
            )
        return content

    def _open(self, path: Path) -> BinaryIO:
        opened = self._files.pop(path, None)
        if opened is None:
            try:
                opened = path.open("rb")
            except OSError as error:
                if error.errno in REFUSED and (refused := refusal(error, path, doing=UNREAD)):
                    raise refused from None
                raise ShardError(f"{path}: cannot be read ({error.strerror}), though its table names it.") from None
            if self._read_ahead and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
        self._files[path] = opened
        if len(self._files) > self._max_open:
            _, oldest = self._files.popitem(last=False)
            oldest.close()
        return opened

    def close(self) -> None:
        """Close all files. The reader can be used again."""
        while self._files:
            self._files.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.close()


def _read_at(descriptor: int, offset: int, size: int) -> bytes:
    """Return the bytes of a range, fewer at the end of the file.

    The position of the file is not used, because processes that were forked share it.
    """
    parts: list[bytes] = []
    while size > 0 and (part := os.pread(descriptor, size, offset)):
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return b"".join(parts)

"""Bytes that lie somewhere inside a file: an image in a tar, or a file of its own."""

import os
from collections import OrderedDict
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from fineclip.errors import ShardError


class PieceReader:
    """Reads pieces of files, keeping the files that were read last open. For one thread.

    `with PieceReader() as reader: reader.read(file, offset, size)`

    Args:
        most_open: files.
        wholly: most of a file will be asked for, in any order: the system may read it from its beginning to its end, as
            disks and networks like it best, before that.
    """

    def __init__(self, most_open: int = 8, *, wholly: bool = False) -> None:
        self._most_open, self._wholly = most_open, wholly
        self._files: OrderedDict[Path, BinaryIO] = OrderedDict()

    def read(self, file: Path | str, offset: int, size: int) -> bytes:
        """`size` bytes of `file` from `offset`.

        Raises:
            ShardError: the file is gone, or ends before.
        """
        path = Path(file)
        opened = self._open(path)
        opened.seek(offset)
        content = opened.read(size)
        if len(content) < size:
            raise ShardError(
                f"{path}: ends at byte {offset + len(content):,}, where {offset + size:,} were there when its table was made."
                " It was cut or replaced: bring it back, or make the source stage again."
            )
        return content

    def _open(self, path: Path) -> BinaryIO:
        opened = self._files.pop(path, None)
        if opened is None:
            try:
                opened = path.open("rb")
            except OSError as error:
                raise ShardError(f"{path}: cannot be read ({error.strerror}), though its table names it.") from None
            if self._wholly and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
        self._files[path] = opened
        if len(self._files) > self._most_open:
            _, oldest = self._files.popitem(last=False)
            oldest.close()
        return opened

    def close(self) -> None:
        """Close every file."""
        while self._files:
            self._files.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.close()

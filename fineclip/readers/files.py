"""Names and sizes of the files in a folder of images. Imports nothing heavy: the Snakefile uses it."""

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fineclip.errors import DataError

log = logging.getLogger(__name__)

TEXT_SUFFIXES = frozenset({".txt", ".xml"})  # captions and labels beside images
MOST_ASKED = 50_000  # stat calls each time the Snakefile is read: a fraction of a second
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


def is_image(name: str) -> bool:
    """Return whether a file name has the suffix of an image format."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def files_below(root: Path, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield every file below `root` with its relative path, in no particular order.

    Hidden names are skipped. `root` and files may be links; linked folders are not entered, because they may form a cycle or
    leave `root`.

    Args:
        root: Folder to search.
        prefix: Path of `root` relative to the folder where the search began, empty or ending in `/`.

    Yields:
        Relative path with `/` between folders, and the directory entry.

    Raises:
        DataError: A folder cannot be read.
    """
    try:
        entries = list(os.scandir(root))
    except OSError as error:
        raise DataError(f"{root}: cannot be read: {error.strerror}. Make it readable.") from None
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_file():
            yield prefix + entry.name, entry
        elif entry.is_dir(follow_symlinks=False):
            yield from files_below(Path(entry.path), f"{prefix}{entry.name}/")
        elif entry.is_dir():
            log.warning(
                "%s is a link to a folder and is skipped: replace it by the folder, or move the folder into root",
                entry.path,
            )


def directory_fingerprint(root: Path) -> str:
    """Return a hash that changes if an image or text file is added, removed or modified. No content is read.

    Above `MOST_ASKED` files only names count, and a modified file is not noticed.

    Args:
        root: Folder to search, hidden names excluded.

    Returns:
        SHA-256 in hexadecimal.

    Raises:
        DataError: A folder cannot be read.
    """
    found = sorted(files_below(root), key=lambda one: one[0])
    seen = [
        (name, entry) for name, entry in found if is_image(name) or PurePosixPath(name).suffix.lower() in TEXT_SUFFIXES
    ]
    digest = hashlib.sha256()
    for name, entry in seen:
        digest.update(os.fsencode(name) + b"\0")
        if len(seen) <= MOST_ASKED:
            asked = entry.stat()
            digest.update(f"{asked.st_size} {asked.st_mtime_ns}".encode() + b"\0")
    return digest.hexdigest()

"""What lies in a folder of images: names and sizes, never contents. No heavy imports: the Snakefile comes by here."""

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fineclip.errors import DataError

log = logging.getLogger(__name__)

MOST_ASKED = 50_000  # files whose size and time are asked for whenever the Snakefile is read: a fraction of a second
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


def is_image(name: str) -> bool:
    """By the end of its name."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def files_below(root: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Every file with its path under `root`, in no order.

    Hidden names are passed over. `root` and files may be links; linked folders inside are not entered, because they may
    lead round in a circle or out of `root`.

    Raises:
        DataError: a folder cannot be read.
    """
    waiting = [("", root)]
    while waiting:
        prefix, folder = waiting.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            raise DataError(f"{folder}: cannot be read: {error.strerror}. Make it readable.") from None
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.is_file():
                yield name, entry
            elif entry.is_dir(follow_symlinks=False):
                waiting.append((f"{name}/", Path(entry.path)))
            elif entry.is_dir():
                log.warning("%s is a link to a folder and is not entered: make it a folder or part of root", entry.path)


def directory_fingerprint(root: Path) -> str:
    """A hash that is another when an image or a text below a folder came, went or was written to; no content is read.

    Of more than `MOST_ASKED` files the names alone count: one that was written to then goes unseen.

    Raises:
        DataError: a folder cannot be read.
    """
    found = sorted(files_below(root), key=lambda one: one[0])
    seen = [(name, entry) for name, entry in found if is_image(name) or name.lower().endswith(".txt")]
    digest = hashlib.sha256()
    for name, entry in seen:
        digest.update(os.fsencode(name) + b"\0")
        if len(seen) <= MOST_ASKED:
            asked = entry.stat()
            digest.update(f"{asked.st_size} {asked.st_mtime_ns}".encode() + b"\0")
    return digest.hexdigest()


def count_images(root: Path) -> int:
    """Image files below a folder."""
    return sum(is_image(name) for name, _ in files_below(root))

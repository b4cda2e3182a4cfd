"""Files in a folder of images. Imports nothing heavy: the Snakefile uses it.

Linked folders are followed, each folder once: first the folders that are no links, then the links in the order of their paths. A
link to a folder that is read already, or to one that contains the link, adds no files; a name through such a link is found by
`Listing.find_through_link`.
"""

import hashlib
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePosixPath

from fineclip.errors import DataError
from fineclip.readers.text import to_valid_utf8

log = logging.getLogger(__name__)

MOST_ASKED = 50_000  # stat calls each time the Snakefile is read: a fraction of a second
JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".jpe"})
IMAGE_SUFFIXES = JPEG_SUFFIXES | {".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
TEXT_SUFFIXES = frozenset({".txt", ".json", ".xml"})  # captions and labels beside images
COMPANIONS = TEXT_SUFFIXES | {".csv", ".tsv", ".parquet", ".xml", ".yaml", ".yml", ".md"}  # expected beside images
MOST_SUFFIXES = 8  # in one message

Identity = tuple[int, int]  # device and inode of a folder


def is_image(name: str) -> bool:
    """Return whether a file name has the suffix of an image format."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


@dataclass(slots=True)
class Listing:
    """Files of a folder by their paths relative to it, with `/` between folders.

    Attributes:
        root: The folder.
        files: Directory entries of the files, links to files included, hidden names excluded.
        broken: Links that lead to no file and no folder, or that cannot be followed.
        folders: Path of each folder that was read, empty or ending in `/`, by device and inode.
        repeated: Folders that are read under another path, and links to a folder that contains the link.
    """

    root: Path
    files: dict[str, os.DirEntry[str]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    folders: dict[Identity, str] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of each file by its path, in the order of the paths."""
        return {name: entry.stat().st_size for name, entry in sorted(self.files.items(), key=lambda item: item[0])}

    def find_through_link(self, name: str) -> str | None:
        """Return the path under which a file is listed, if `name` leads to it through a link to a folder.

        Args:
            name: Path relative to the folder. One that leaves it is not followed.

        Returns:
            Path among `files`, or None.
        """
        folder, _, file = name.rpartition("/")
        if not self.repeated or not is_inside(name):
            return None
        status = _status(self.root / folder)
        listed = None if status is None else self.folders.get(_identity(status))
        return None if listed is None or listed + file not in self.files else listed + file

    def is_unlisted_file(self, name: str) -> bool:
        """Return whether a file exists that is not listed, because its name or that of a folder is hidden.

        Args:
            name: Path relative to the folder. One that leaves it is not followed.

        Returns:
            True for a file, and for a link to one.
        """
        is_hidden = any(part.startswith(".") for part in PurePosixPath(name).parts)
        if not is_hidden or not is_inside(name):
            return False
        status = _status(self.root / name)
        return status is not None and stat.S_ISREG(status.st_mode)


def is_inside(name: str) -> bool:
    """Return whether a path stays in the folder that it is relative to."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name


def list_files(root: Path) -> Listing:
    """Return the files below a folder. Hidden names are skipped; linked folders are followed, each folder once.

    Args:
        root: Folder to search; it may be a link.

    Returns:
        Files, broken links and folders.

    Raises:
        DataError: A folder or what a link leads to cannot be read.
    """
    listing = Listing(root)
    links = _read_folder(root, "", listing)
    while links:
        later: list[tuple[str, str]] = []
        for prefix, path in sorted(links):
            if _contains(Path(path)):
                listing.repeated.append(prefix)
            else:
                later += _read_folder(Path(path), f"{prefix}/", listing)
        links = later
    if listing.repeated:
        log.info(
            "%s: %d links lead to folders that are read once, such as %s",
            root,
            len(listing.repeated),
            to_valid_utf8(listing.repeated[0]),
        )
    return listing


def files_below(root: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield every file below `root` with its relative path, as `list_files` finds them.

    Args:
        root: Folder to search.

    Yields:
        Relative path with `/` between folders, and the directory entry.

    Raises:
        DataError: A folder cannot be read.
    """
    yield from list_files(root).files.items()


def log_unread(listing: Listing, *, named: Iterable[str] = ()) -> None:
    """Log the files that are no images, with their suffixes, and the links that lead nowhere.

    Args:
        listing: Files of a folder.
        named: Files that have a row of their own.
    """
    has_row = set(named)
    unread = _unread_suffixes(name for name in listing.files if name not in has_row)
    if unread:
        log.warning(
            "%s: %d files are not read, because their suffix is of no supported image format: %s",
            listing.root, sum(unread.values()), _counts(unread),
        )  # fmt: skip
    broken = [name for name in listing.broken if not is_image(name)]
    if broken:
        log.warning(
            "%s: %d links lead nowhere and are skipped, such as %s",
            listing.root,
            len(broken),
            to_valid_utf8(min(broken)),
        )


def require_images(listing: Listing) -> None:
    """Check that a folder holds an image; one that is a broken link counts.

    Args:
        listing: Files of the folder.

    Raises:
        DataError: It holds none; the message counts the suffixes of other files.
    """
    if not any(map(is_image, chain(listing.files, listing.broken))):
        unread = _unread_suffixes(listing.files)
        found = f", only {_counts(unread)}" if unread else ""
        raise DataError(
            f"{listing.root}: holds no image ({' '.join(sorted(IMAGE_SUFFIXES))}){found}. Put some there, or convert them."
        )


def _unread_suffixes(names: Iterable[str]) -> Counter[str]:
    """Return the number of files by suffix that are neither images nor expected beside them."""
    suffixes = (PurePosixPath(name).suffix.lower() for name in names if not is_image(name))
    return Counter(suffix for suffix in suffixes if suffix not in COMPANIONS)


def _counts(suffixes: Counter[str]) -> str:
    shown = [f"{count} {suffix or 'without a suffix'}" for suffix, count in suffixes.most_common(MOST_SUFFIXES)]
    return to_valid_utf8(", ".join(shown + ["others"] * (len(suffixes) > MOST_SUFFIXES)))


def directory_fingerprint(root: Path) -> str:
    """Return a hash that changes if an image or a file beside it (.txt, .json) is added, removed or modified.

    No content is read. Above `MOST_ASKED` files only names count, and a modified file is not noticed.

    Args:
        root: Folder to search, hidden names excluded.

    Returns:
        SHA-256 in hexadecimal.

    Raises:
        DataError: A folder cannot be read.
    """
    listing = list_files(root)
    seen = sorted(
        name for name in listing.files if is_image(name) or PurePosixPath(name).suffix.lower() in TEXT_SUFFIXES
    )
    digest = hashlib.sha256()
    for name in seen:
        digest.update(os.fsencode(name) + b"\0")
        if len(seen) <= MOST_ASKED:
            asked = listing.files[name].stat()
            digest.update(f"{asked.st_size} {asked.st_mtime_ns}".encode() + b"\0")
    for name in sorted(filter(is_image, listing.broken)):
        digest.update(os.fsencode(name) + b"\0broken\0")
    return digest.hexdigest()


def _read_folder(folder: Path, prefix: str, listing: Listing) -> list[tuple[str, str]]:
    """Add the files of a folder and of its folders that are no links; return the links to folders: relative path, path."""
    try:
        if listing.folders.setdefault(_identity(folder.stat()), prefix) != prefix:
            listing.repeated.append(prefix)
            return []
        entries = list(os.scandir(folder))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}. Make it readable.") from None
    links: list[tuple[str, str]] = []
    for entry in entries:
        name = prefix + entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            links += _read_folder(Path(entry.path), f"{name}/", listing)
        elif not entry.is_symlink():
            if entry.is_file():
                listing.files[name] = entry
        elif (kind := _kind_of_link(entry)) == "folder":
            links.append((name, entry.path))
        elif kind == "file":
            listing.files[name] = entry
        elif kind == "broken":
            listing.broken.append(name)
    return links


def _kind_of_link(entry: os.DirEntry[str]) -> str:
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        return "broken" if _status(Path(entry.path)) is None else "other"
    except PermissionError as error:
        raise DataError(f"{entry.path}: cannot be followed: {error.strerror}. Make its target readable.") from None
    except OSError:  # a circle of links
        return "broken"


def _contains(link: Path) -> bool:
    """Return whether a link leads to the folder that holds it, or to one above that."""
    return link.parent.resolve().is_relative_to(link.resolve())


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):  # absent, not permitted, too long, or a circle of links
        return None


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino

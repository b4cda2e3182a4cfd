r"""Lookup of images by the names that tables, JSON files and text files state.

FileNames     names match exactly; otherwise with `\` as `/`, without `./` and in Unicode's composed form (NFC), if exactly one
              file matches. Folders, suffix and case must agree: a path of another machine matches nothing.
ImageNames    for JSON files of other authors, whose images have other folders: `train2017/000000000009.jpg`,
              `000000000009.jpg` and `000000000009` may be one image. The suffix of an image format is compared if both
              names have one, and of two names the one with fewer folders must be the end of the other: `b/9.jpg` matches `a/b/9.jpg` and not `a/9.jpg`.
"""

import logging
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from fineclip.errors import DataError
from fineclip.readers.files import IMAGE_SUFFIXES, JPEG_SUFFIXES, Listing, is_image
from fineclip.readers.text import to_valid_utf8

log = logging.getLogger(__name__)

MOST_SHOWN = 200  # characters of a name in a message

Parts = tuple[str, ...]


def canonical_name(name: str) -> str:
    r"""Return the form of a name in which spellings of one path are equal: `/` between folders, no `./`, Unicode NFC.

    Args:
        name: Path as a table, a JSON or a folder states it.

    Returns:
        Path that is absolute if `name` is; `..` stays.

    Examples:
        >>> canonical_name("./sub\\1.jpg"), canonical_name("/data/1.jpg"), canonical_name("../1.jpg")
        ('sub/1.jpg', '/data/1.jpg', '../1.jpg')
    """
    parts = unicodedata.normalize("NFC", name).replace("\\", "/").split("/")
    beginning = "/" if len(parts) > 1 and not parts[0] else ""
    return beginning + "/".join(part for part in parts if part not in ("", "."))


class FileNames:
    """Names of existing files, for lookup. Only one of these names is ever returned, so no name leaves their folder."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)

    @cached_property
    def _by_form(self) -> dict[str, str | None]:
        """Return the one file of each form, or None where there are several."""
        found: dict[str, str | None] = {}
        for name in self._names:
            form = canonical_name(name)
            found[form] = None if form in found else name
        return found

    def find(self, name: str) -> str | None:
        """Return the file that a name means, or None.

        Args:
            name: Path relative to the folder of the files, as written.

        Returns:
            The equal name, or else the only one of equal form.
        """
        return name if name in self._names else self._by_form.get(canonical_name(name))

    def find_below(self, name: str, folder: str) -> str | None:
        """Return the file that a name means, whether or not it begins with the folder of the files.

        Args:
            name: Path as written, such as `train2017/1.jpg` or `1.jpg`.
            folder: Name of the folder of the files, such as `train2017`.

        Returns:
            The file, or None.
        """
        found = self.find(name)
        if found is not None:
            return found
        path, inside = PurePosixPath(canonical_name(name)), canonical_name(folder)
        return self.find(path.relative_to(inside).as_posix()) if inside and path.is_relative_to(inside) else None


class FolderNames(FileNames):
    """Names of the files and broken links of a folder, also through links to folders that are listed under another path."""

    def __init__(self, listing: Listing) -> None:
        super().__init__([*listing.files, *listing.broken])
        self._listing = listing

    def find(self, name: str) -> str | None:
        """Return the path under which the file is listed, or None."""
        return super().find(name) or self._listing.find_through_link(canonical_name(name))


def warn_of_unmatched(unmatched: Collection[str], *, of: int, where: Path, folder: Path) -> None:
    """Warn of image names that match no file, with their number and the first of them.

    Args:
        unmatched: Names as written; no warning if there is none.
        of: Number of all names.
        where: File that states the names.
        folder: Folder of the images.
    """
    if unmatched:
        log.warning(
            "%s: %d of %d image names match no file in %s, such as %s. They are dropped as missing-image.",
            where, len(unmatched), of, folder, to_valid_utf8(next(iter(unmatched)))[:MOST_SHOWN],
        )  # fmt: skip


class ImageNames:
    """Names of the images of a JSON, in order, for lookup of samples."""

    def __init__(self, names: Sequence[str], *, where: str) -> None:
        self._names, self._where = names, where
        self._exact = {name: place for place, name in enumerate(names)}
        self._by_last: defaultdict[Parts, list[tuple[Parts, str, int]]] = defaultdict(list)
        for place, name in enumerate(names):
            parts = parts_of(name)
            self._by_last[parts[-1:]].append((parts, _format_of(name), place))

    def find(self, sample: str) -> int | None:
        """Return the index of the image that a source key names, or None.

        Args:
            sample: Source key: a path, with or without folders and suffix.

        Returns:
            Index in the order of the JSON; None if no image matches.

        Raises:
            DataError: The key matches several images equally well.
        """
        if sample in self._exact:
            return self._exact[sample]
        parts, image_format = parts_of(sample), _format_of(sample)
        similar = self._by_last.get(parts[-1:], ())
        agreeing = {
            place: n
            for found, other, place in similar
            if (not other or not image_format or other == image_format) and (n := _agreement(parts, found))
        }
        longest = max(agreeing.values(), default=0)
        places = [place for place, n in agreeing.items() if n == longest]
        if len(places) > 1:
            raise DataError(
                f"{self._where}: the sample {sample} could be {self._names[places[0]]} as well as"
                f" {self._names[places[1]]}. Give one of them another name, in the JSON or in the source."
            )
        return places[0] if places else None


def parts_of(name: str) -> Parts:
    """Return folders and file name without the suffix of an image format."""
    parts = [part for part in canonical_name(name).split("/") if part]
    if parts and is_image(parts[-1]):
        parts[-1] = parts[-1].rpartition(".")[0]
    return tuple(parts)


def _format_of(name: str) -> str:
    """Return the suffix of an image format, in one spelling; empty for a name without one."""
    suffix = PurePosixPath(name).suffix.lower()
    return ".jpg" if suffix in JPEG_SUFFIXES else suffix if suffix in IMAGE_SUFFIXES else ""


def _agreement(one: Parts, other: Parts) -> int:
    """Return the number of shared parts if the shorter name is the end of the longer one, else 0."""
    shared = min(len(one), len(other))
    return shared if one[-shared:] == other[-shared:] else 0

"""Lookup of an image by name: `train2017/000000000009.jpg`, `000000000009.jpg` and `000000000009` may be one image.

The suffix of an image format is ignored, and of two names the one with fewer folders must be the end of the other: `b/9.jpg`
matches `a/b/9.jpg` and not `a/9.jpg`.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

from fineclip.errors import DataError
from fineclip.readers.files import is_image

Parts = tuple[str, ...]


class ImageNames:
    """Names of the images of a JSON, in order, for lookup of samples."""

    def __init__(self, names: Sequence[str], *, where: str) -> None:
        self._names, self._where = names, where
        self._exact = {name: place for place, name in enumerate(names)}
        self._by_last: defaultdict[Parts, list[tuple[Parts, int]]] = defaultdict(list)
        for place, name in enumerate(names):
            parts = parts_of(name)
            self._by_last[parts[-1:]].append((parts, place))

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
        parts = parts_of(sample)
        similar = self._by_last.get(parts[-1:], ())
        agreeing = {place: n for found, place in similar if (n := _agreement(parts, found))}
        longest = max(agreeing.values(), default=0)
        places = [place for place, n in agreeing.items() if n == longest]
        if len(places) > 1:
            raise DataError(
                f"{self._where}: the sample {sample} could be {self._names[places[0]]} as well as"
                f" {self._names[places[1]]}. Give one of them another name, in the JSON or in the source."
            )
        return places[0] if places else None


def canonical_name(name: str) -> str:
    r"""Return the form that all spellings of one name share: `/` between folders, no `./`, Unicode NFC.

    Args:
        name: Name of an image in a file of a user.

    Returns:
        Name for comparison only; the file on disk may be spelled otherwise.

    Examples:
        >>> canonical_name(r".\train2017\1.jpg")
        'train2017/1.jpg'
    """
    return PurePosixPath(unicodedata.normalize("NFC", name).replace("\\", "/")).as_posix()


def parts_of(name: str) -> Parts:
    """Return folders and file name without the suffix of an image format."""
    parts = [part for part in canonical_name(name).split("/") if part not in ("", ".")]
    if parts and is_image(parts[-1]):
        parts[-1] = parts[-1].rpartition(".")[0]
    return tuple(parts)


def _agreement(one: Parts, other: Parts) -> int:
    """Return the number of shared parts if the shorter name is the end of the longer one, else 0."""
    shared = min(len(one), len(other))
    return shared if one[-shared:] == other[-shared:] else 0

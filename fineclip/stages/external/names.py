"""Which image of a JSON a sample is, by their file names.

A data set may call an image `train2017/000000000009.jpg`, a folder `000000000009.jpg`, a tar `000000000009`. So the end of
a name that is an image's does not count, and of two names of which one has more folders the shorter must be the end of
the longer: `b/9.jpg` is `a/b/9.jpg`, and is not `a/9.jpg`.
"""

from collections import defaultdict
from collections.abc import Sequence

from fineclip.errors import DataError
from fineclip.stages.source.files import is_image

Parts = tuple[str, ...]


class ImageNames:
    """The names of the images of a JSON, in order, to look samples up in."""

    def __init__(self, names: Sequence[str], *, where: str) -> None:
        self._names, self._where = names, where
        self._exact = {name: place for place, name in enumerate(names)}
        self._by_last: defaultdict[str, list[tuple[Parts, int]]] = defaultdict(list)
        for place, name in enumerate(names):
            if parts := parts_of(name):
                self._by_last[parts[-1]].append((parts, place))

    def find(self, sample: str) -> int | None:
        """Where the image stands that a sample of this source key is; None if it is none of them.

        Raises:
            DataError: it could as well be one as another.
        """
        if sample in self._exact:
            return self._exact[sample]
        parts = parts_of(sample)
        agreeing = {place: n for found, place in self._last(parts) if (n := _agreement(parts, found))}
        longest = max(agreeing.values(), default=0)
        places = [place for place, n in agreeing.items() if n == longest]
        if len(places) > 1:
            raise DataError(
                f"{self._where}: the sample {sample} could be {self._names[places[0]]} as well as"
                f" {self._names[places[1]]}. Give one of them another name, in the JSON or in the source."
            )
        return places[0] if places else None

    def _last(self, parts: Parts) -> Sequence[tuple[Parts, int]]:
        return self._by_last.get(parts[-1], ()) if parts else ()


def parts_of(name: str) -> Parts:
    """Folders and name, without an image's suffix."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if parts and is_image(parts[-1]):
        parts[-1] = parts[-1].rpartition(".")[0]
    return tuple(parts)


def _agreement(one: Parts, other: Parts) -> int:
    """How many parts both have, if the shorter is the end of the longer; else 0."""
    shared = min(len(one), len(other))
    return shared if one[-shared:] == other[-shared:] else 0

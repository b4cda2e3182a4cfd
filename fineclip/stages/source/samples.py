"""Contents of the index of a source, common to its kinds."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from fineclip.shards import SourceRow
from fineclip.stages.source.text_encoding import to_valid_utf8


class Samples(NamedTuple):
    """Hashes of the inputs by name, and rows without keys, made lazily."""

    inputs: dict[str, str]
    rows: Iterator[SourceRow]


def fingerprint(images: Mapping[str, int], texts: Mapping[str, list[str]]) -> str:
    """Return the SHA-256 of names and sizes of images and of the lines of texts. Images are not read."""
    digest = hashlib.sha256()
    for name, size in images.items():
        digest.update(f"{to_valid_utf8(name)}\0{size}\n".encode())
    for name, lines in texts.items():
        digest.update(f"{to_valid_utf8(name)}\0{to_valid_utf8(repr(lines))}\n".encode())
    return digest.hexdigest()

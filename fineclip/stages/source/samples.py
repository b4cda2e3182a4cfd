"""What a listing is made of, whichever kind of source it lists."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from fineclip.shards import SourceRow
from fineclip.stages.source.texts import to_valid_utf8


class Samples(NamedTuple):
    """Names of inputs with their hashes, and rows without keys, made when they are asked for."""

    inputs: dict[str, str]
    rows: Iterator[SourceRow]


def fingerprint(images: Mapping[str, int], texts: Mapping[str, list[str]]) -> str:
    """sha256 over names and sizes of images and over the lines of texts; no image is read."""
    digest = hashlib.sha256()
    for name, size in images.items():
        digest.update(f"{to_valid_utf8(name)}\0{size}\n".encode())
    for name, lines in texts.items():
        digest.update(f"{to_valid_utf8(name)}\0{to_valid_utf8(repr(lines))}\n".encode())
    return digest.hexdigest()

"""Samples of a source, common to its kinds."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from fineclip.readers.boxes import ImageAnnotations
from fineclip.readers.files import Listing
from fineclip.readers.names import canonical_name
from fineclip.readers.text import to_valid_utf8
from fineclip.shards import SourceRow


class Samples(NamedTuple):
    """Hashes of the inputs by name, and rows without keys, made lazily."""

    inputs: dict[str, str]
    rows: Iterator[SourceRow]


def sample_row(
    folder: Path,
    name: str,
    sizes: Mapping[str, int],
    captions: list[str],
    *,
    needs_text: bool = True,
    url: str | None = None,
    annotations: ImageAnnotations | None = None,
    unread: Mapping[str, str] = MappingProxyType({}),
) -> SourceRow:
    """Return the row of an image, without a key.

    Args:
        folder: Folder of the images.
        name: Name of the image, relative to `folder`.
        sizes: Size in bytes of each image in the folder.
        captions: Captions of the image.
        needs_text: Whether an image without captions is dropped.
        url: Address of the image, if the data set states it.
        annotations: Boxes of the image and the size that they refer to; None where the data set has none.
        unread: Reasons of files that exist and are not read, by name, as `unread_reasons` returns them.

    Returns:
        Kept row, or a dropped one with its reason.
    """
    reason = None
    if name not in sizes:
        reason = unread.get(name, "missing-image")
    elif to_valid_utf8(name) != name:
        reason = "bad-name"
    elif needs_text and not captions:
        reason = "no-text"
    return SourceRow(
        key="",
        kept=reason is None,
        reason=reason,
        source_key=to_valid_utf8(name),
        file=(folder / name).as_posix() if reason in (None, "no-text") else None,
        size=sizes.get(name, 0),
        captions=captions,
        url=url,
        annotations=None if annotations is None else annotations.boxes,
        stated_width=annotations.size.width if annotations else None,
        stated_height=annotations.size.height if annotations else None,
    )


def unread_reasons(names: Iterable[str], sizes: Mapping[str, int], listing: Listing) -> dict[str, str]:
    """Return why a file is not read, by name, for names of existing files that are not among the images.

    Args:
        names: Names of images, as listed if a file matches.
        sizes: Size in bytes of each image that can be read.
        listing: Files of the folder.

    Returns:
        Reasons; a name that no file matches has none.
    """
    reasons = {}
    for name in names:
        if name in sizes:
            continue
        if name in listing.files:
            reasons[name] = "bad-name" if to_valid_utf8(name) != name else "unsupported-format"
        elif listing.is_unlisted_file(canonical_name(name)):
            reasons[name] = "hidden-file"
    return reasons


def fingerprint(images: Mapping[str, int], texts: Mapping[str, list[str]]) -> str:
    """Return the SHA-256 of names and sizes of images and of the lines of texts. Images are not read."""
    digest = hashlib.sha256()
    for name, size in images.items():
        digest.update(f"{to_valid_utf8(name)}\0{size}\n".encode())
    for name, lines in texts.items():
        digest.update(f"{to_valid_utf8(name)}\0{to_valid_utf8(repr(lines))}\n".encode())
    return digest.hexdigest()

"""Source kind folder: images with captions in NAME.txt beside NAME.jpg, one per line, or in one table.

There is a row for every image, for every image that is a broken link, and for every image that the table names and that does
not exist or is not read. If NAME.json beside NAME.txt states the whole text as its `caption`, the text is one caption, as in
a tar. A blank text counts as a caption; the filter decides about it.
"""

import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from fineclip.config import FolderSource
from fineclip.errors import DataError
from fineclip.readers.caption_tables import captions_by_image
from fineclip.readers.files import Listing, is_image, list_files, log_unread, require_images
from fineclip.readers.json_documents import parse_json
from fineclip.readers.names import FileNames, FolderNames, warn_of_unmatched
from fineclip.readers.text import captions_of, captions_of_file, log_encodings, read_bytes, stated_captions
from fineclip.shards import sha256_of
from fineclip.stages.source.samples import Samples, fingerprint, sample_row, unread_reasons
from fineclip.stages.source.shard_plan import captions_table

log = logging.getLogger(__name__)

BROKEN, UNREAD = -1, -2  # in place of the size of a file, for the fingerprint


class Captions(NamedTuple):
    """Captions by image, why named files are not read, and the hashes of the texts or of the table."""

    of: Mapping[str, list[str]]
    unread: Mapping[str, str]
    texts: Mapping[str, list[str]]
    inputs: Mapping[str, str]


def folder_samples(config: FolderSource) -> Samples:
    """Return every sample of a folder.

    Args:
        config: Folder, and the table of captions if there is one.

    Returns:
        Hashes of the folder and of the table, and lazily made rows.

    Raises:
        ConfigError: The table of captions does not exist.
        DataError: The folder holds no image, or the table cannot be read, lacks a column, or names no image under root.
    """
    root = Path(config.root)
    listing = list_files(root)
    require_images(listing)
    images = {name: size for name, size in listing.sizes().items() if is_image(name)}
    broken = dict.fromkeys(sorted(filter(is_image, listing.broken)), BROKEN)
    table = captions_table(config)
    captions = _beside(images | broken, listing) if table is None else _in_table(table, images, listing)
    log_unread(listing, named=captions.unread)
    named = images | broken | dict.fromkeys(captions.unread, UNREAD)
    inputs = {config.root: fingerprint(named, captions.texts), **captions.inputs}
    names = dict.fromkeys([*images, *broken, *captions.of])
    rows = (
        sample_row(root, name, images, captions_of(captions.of.get(name, ())), unread=captions.unread) for name in names
    )
    return Samples(inputs, rows)


def _beside(images: Collection[str], listing: Listing) -> Captions:
    """Return the captions in text files beside images."""
    beside = texts_beside(images, [name for name in sorted(listing.files) if name.lower().endswith(".txt")])
    if alone := len({name for name in listing.files if name.lower().endswith(".txt")} - set(beside.values())):
        log.info("%d .txt files have no image beside them and are skipped", alone)
    jsons = texts_beside(
        set(beside.values()), [name for name in sorted(listing.files) if name.lower().endswith(".json")]
    )
    contents = {name: read_bytes(Path(listing.files[name].path)) for name in sorted(set(beside.values()))}
    log_encodings(contents.values(), str(listing.root))
    texts = {name: _captions_in(content, listing, jsons.get(name)) for name, content in contents.items()}
    return Captions({name: texts[text] for name, text in beside.items()}, {}, texts, {})


def _captions_in(content: bytes, listing: Listing, in_json: str | None) -> list[str]:
    """Return the captions of a text file; the JSON beside it is read if it can matter: there are several lines."""
    captions = captions_of_file(content)
    if len(captions) < 2 or in_json is None:
        return captions
    try:
        values = parse_json(read_bytes(Path(listing.files[in_json].path)))
    except (ValueError, RecursionError):
        return captions
    return captions_of_file(content, stated_captions(values)) if isinstance(values, dict) else captions


def _in_table(table: Path, images: Mapping[str, int], listing: Listing) -> Captions:
    """Return the captions of a table. Several names of one image are one image."""
    names, found = FolderNames(listing), dict[str, list[str]]()
    stated = captions_by_image(table)
    listed = {name: names.find(name) or name for name in stated}
    for name, texts in stated.items():
        found.setdefault(listed[name], []).extend(texts)
    unread = unread_reasons(found, images, listing)
    unmatched = [name for name in stated if listed[name] not in images and listed[name] not in unread]
    if stated and len(unmatched) == len(stated):
        raise DataError(
            f"{table}: none of its {len(stated)} images is under {listing.root}; the first is {unmatched[0]!r:.200}. The column"
            f" `image` must hold paths relative to source.root{_with_suffix(unmatched[0], images)}."
        )
    warn_of_unmatched(unmatched, of=len(stated), where=table, folder=listing.root)
    return Captions(found, unread, {}, {table.as_posix(): sha256_of(table)})


def _with_suffix(name: str, images: Iterable[str]) -> str:
    """Return the end of a message about a name that lacks its suffix, if an image has it."""
    image = next((image for image in images if _stem(image) == name), None)
    return f" with their suffix, such as {image}" if image else ""


def texts_beside(images: Collection[str], texts: Collection[str]) -> dict[str, str]:
    """Return the text file of each image that has one: in the same folder, with the same name up to the last dot.

    Args:
        images: Names of images.
        texts: Names of text files.

    Returns:
        Text file by image. One of a name that is written otherwise, as `FileNames` compares them, counts if no image has
        exactly its name.
    """
    by_stem = {_stem(name): name for name in texts}
    beside = {name: by_stem[_stem(name)] for name in images if _stem(name) in by_stem}
    left = FileNames(by_stem.keys() - map(_stem, beside))
    for name in images:
        if name not in beside and (stem := left.find(_stem(name))) is not None:
            beside[name] = by_stem[stem]
    return beside


def _stem(name: str) -> str:
    return name[: name.rindex(".")]

"""Source kind coco: captions and instances JSON of COCO or LVIS with a folder of images.

There is a row for every image of the captions JSON or, without one, of the instances JSON. All captions of an image are
kept. LVIS states no `file_name`; the last two parts of `coco_url`, folder and file, replace it, and the folder may be the one
that `source.images` names. Boxes are in pixels as stated, also outside the image; crowds (`iscrowd: 1`) are skipped.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path

from fineclip.config import CocoSource
from fineclip.errors import DataError
from fineclip.readers.files import Listing, is_image, list_files, log_unread
from fineclip.readers.json_documents import Document, Entry, Id, images_by_id
from fineclip.readers.names import FolderNames, warn_of_unmatched
from fineclip.readers.text import captions_of, to_valid_utf8
from fineclip.shards import SourceRow, sha256_of
from fineclip.stages.source.samples import Samples, fingerprint, sample_row, unread_reasons
from fineclip.types import LabeledBox

log = logging.getLogger(__name__)


def coco_samples(config: CocoSource) -> Samples:
    """Return every sample of a data set in COCO's layout.

    Args:
        config: Paths are relative to its `root`.

    Returns:
        Hashes of the folder and of each JSON, and lazily made rows.

    Raises:
        DataError: A JSON is absent, truncated or lacks a key, or names no image of the folder.
    """
    root = Path(config.root)
    folder = root / config.images
    listing = list_files(folder)
    sizes = {name: size for name, size in listing.sizes().items() if is_image(name) and to_valid_utf8(name) == name}
    others = dict.fromkeys(sorted(listing.files.keys() - sizes.keys()), 0)
    jsons = [root / name for name in (config.captions, config.instances) if name is not None]
    for path in jsons:
        if not path.is_file():
            raise DataError(f"{path}: no such file. Provide it, or name another in source.")
    inputs = {folder.as_posix(): fingerprint(sizes | others, {})} | {path.as_posix(): sha256_of(path) for path in jsons}
    return Samples(inputs, _rows(config, listing, sizes))


def _rows(config: CocoSource, listing: Listing, sizes: Mapping[str, int]) -> Iterator[SourceRow]:
    root, folder, in_folder = Path(config.root), listing.root, FolderNames(listing)
    captioned = Document(root / config.captions) if config.captions is not None else None
    boxed = Document(root / config.instances) if config.instances is not None else None
    naming = captioned or boxed
    if naming is None:
        raise AssertionError("captions and instances are both null")
    images = images_by_id(naming)
    stated = {number: entry.image_name() for number, entry in images.items()}
    names = {number: in_folder.find_below(name, folder.name) or name for number, name in stated.items()}
    unread = unread_reasons(names.values(), sizes, listing)
    log_unread(listing, named=unread)
    _require_some(names.values(), sizes.keys() | unread.keys(), folder, naming.path)
    captions = _captions(captioned, images) if captioned else None
    boxes = _boxes(boxed, images) if boxed else None
    for number, entry in images.items():
        texts = [] if captions is None else captions_of(captions[number])
        url = entry.values.get("coco_url") or entry.values.get("flickr_url")
        yield sample_row(
            folder,
            names[number],
            sizes,
            texts,
            needs_text=captions is not None,
            url=to_valid_utf8(url) if isinstance(url, str) else None,
            annotations=None if boxes is None else boxes[number],
            unread=unread,
        )


def _require_some(names: Iterable[str], sizes: Set[str], folder: Path, naming: Path) -> None:
    named = dict.fromkeys(names)
    unmatched = [name for name in named if name not in sizes]
    if named and len(unmatched) == len(named):
        raise DataError(
            f"{naming}: none of its {len(named)} images is in {folder}; the first is {unmatched[0]}."
            " source.images and the JSON must be of the same split."
        )
    warn_of_unmatched(unmatched, of=len(named), where=naming, folder=folder)
    if unnamed := len(sizes - named.keys()):
        log.info("%d of %d images in %s are not in %s and are ignored", unnamed, len(sizes), folder, naming)


def _captions(document: Document, images: Mapping[Id, Entry]) -> defaultdict[Id, list[str]]:
    captions: defaultdict[Id, list[str]] = defaultdict(list)
    for entry in document.entries("annotations"):
        captions[entry.id("image_id")].append(entry.text("caption"))
    if strays := len(captions.keys() - images.keys()):
        log.warning("%s: %d images have captions but no entry in 'images' and are skipped", document.path, strays)
    return captions


def _boxes(document: Document, images: Mapping[Id, Entry]) -> defaultdict[Id, list[LabeledBox]]:
    names = {entry.id("id"): to_valid_utf8(entry.text("name")) for entry in document.entries("categories")}
    boxes: defaultdict[Id, list[LabeledBox]] = defaultdict(list)
    crowds = 0
    for entry in document.entries("annotations"):
        if entry.values.get("iscrowd"):
            crowds += 1
            continue
        label = entry.look_up("category_id", names, "the id of one of 'categories'")
        boxes[entry.id("image_id")].append(LabeledBox(entry.box("bbox"), label))
    strays = len(boxes.keys() - images.keys())
    log.info("%s: %d crowds left out, and the boxes of %d images that are not samples", document.path, crowds, strays)
    return boxes

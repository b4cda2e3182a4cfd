"""Source kind coco: captions and instances JSON of COCO or LVIS with a folder of images.

There is a row for every image of the captions JSON or, without one, of the instances JSON. All captions of an image are
kept. LVIS states no `file_name`; the last two parts of `coco_url`, folder and file, replace it, and the folder may be the one
that `source.images` names. Boxes are in pixels as stated, also outside the image; crowds (`iscrowd: 1`) are skipped.
"""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath

from fineclip.config import CocoSource
from fineclip.errors import DataError
from fineclip.readers.files import files_below, is_image
from fineclip.readers.json_documents import Document, Entry, Id, images_by_id
from fineclip.readers.text import captions_of, to_valid_utf8
from fineclip.shards import SourceRow, sha256_of
from fineclip.stages.source.samples import Samples, fingerprint, sample_row
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
    found = sorted((name, entry.stat().st_size) for name, entry in files_below(folder) if is_image(name))
    sizes = {name: size for name, size in found if to_valid_utf8(name) == name}
    jsons = [root / name for name in (config.captions, config.instances) if name is not None]
    for path in jsons:
        if not path.is_file():
            raise DataError(f"{path}: no such file. Provide it, or name another in source.")
    inputs = {folder.as_posix(): fingerprint(sizes, {})} | {path.as_posix(): sha256_of(path) for path in jsons}
    return Samples(inputs, _rows(config, folder, sizes))


def _rows(config: CocoSource, folder: Path, sizes: Mapping[str, int]) -> Iterator[SourceRow]:
    root = Path(config.root)
    captioned = Document(root / config.captions) if config.captions is not None else None
    boxed = Document(root / config.instances) if config.instances is not None else None
    naming = captioned or boxed
    if naming is None:
        raise AssertionError("captions and instances are both null")
    images = images_by_id(naming)
    names = {number: _name_in(folder, entry.image_name(), sizes) for number, entry in images.items()}
    _require_some(names.values(), sizes, folder, naming.path)
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
        )


def _name_in(folder: Path, name: str, sizes: Mapping[str, int]) -> str:
    """Return the name of an image in the folder: `train2017/1.jpg` may be `1.jpg` of a folder `train2017`."""
    if name in sizes or not PurePosixPath(name).is_relative_to(folder.name):
        return name
    inside = PurePosixPath(name).relative_to(folder.name).as_posix()
    return inside if inside in sizes else name


def _require_some(names: Collection[str], sizes: Mapping[str, int], folder: Path, naming: Path) -> None:
    named = set(names)
    if named and not named & sizes.keys():
        raise DataError(
            f"{naming}: none of its {len(named)} images is in {folder}; the first is {min(named)}."
            " source.images and the JSON must be of the same split."
        )
    if unnamed := len(sizes.keys() - named):
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

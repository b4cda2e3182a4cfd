"""Source kind coco: captions and instances JSON of COCO or LVIS with a folder of images.

There is a row for every image of the captions JSON or, without one, of the instances JSON. All captions of an image are
kept, of all its entries. Boxes belong to an image by its name, since the two files may use other ids. LVIS states no `file_name`; the last two parts of `coco_url`, folder and file, replace it, and the folder may be the one
that `source.images` names. Boxes are in pixels as stated, also outside the image; crowds (`iscrowd: 1`) are skipped. The size that
the instances JSON states is part of the row, and the stage `detect` compares it with the stored image.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from pathlib import Path, PurePosixPath

from fineclip.config import CocoSource
from fineclip.errors import DataError
from fineclip.readers.boxes import ImageAnnotations, require_no_fractions
from fineclip.readers.files import Listing, is_image, list_files, log_unread, require_images
from fineclip.readers.json_documents import Document, Entry, Id, with_content
from fineclip.readers.listed_images import ListedImage, boxes_by_id, by_name, images_by_id, listed_once, referring
from fineclip.readers.names import FolderNames, canonical_name, warn_of_unmatched
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
    require_images(listing)
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

    def name_of(entry: Entry) -> str:
        name = entry.image_name()
        return in_folder.find_below(name, folder.name) or name

    images = images_by_id(naming, name_of)
    names = [image.name for image in images.values()]
    unread = unread_reasons(names, sizes, listing)
    log_unread(listing, named=unread)
    _require_some(names, sizes.keys() | unread.keys(), folder, naming.path)
    captions = _captions(captioned, images) if captioned else None
    boxes = _boxes(boxed, name_of, images) if boxed else None
    for image in listed_once(images):
        texts = [] if captions is None else captions_of(captions[image.name])
        url = image.entry.values.get("coco_url") or image.entry.values.get("flickr_url")
        yield sample_row(
            folder,
            image.name,
            sizes,
            texts,
            needs_text=captions is not None,
            url=to_valid_utf8(url) if isinstance(url, str) else None,
            annotations=None if boxes is None else boxes.get(image.name, ImageAnnotations([])),
            unread=unread,
        )


def _require_some(names: Iterable[str], sizes: Set[str], folder: Path, naming: Path) -> None:
    named = dict.fromkeys(names)
    if not named:
        raise DataError(f"{naming}: its list 'images' is empty. Check that it is the right file.")
    unmatched = [name for name in named if name not in sizes]
    if len(unmatched) == len(named):
        raise DataError(
            f"{naming}: none of its {len(named)} images is in {folder}; the first is {unmatched[0]}."
            " source.images and the JSON must be of the same split."
        )
    warn_of_unmatched(unmatched, of=len(named), where=naming, folder=folder)
    if unnamed := len(sizes - named.keys()):
        log.info("%d of %d images in %s are not in %s and are ignored", unnamed, len(sizes), folder, naming)


def _captions(document: Document, images: Mapping[Id, ListedImage]) -> dict[str, list[str]]:
    """Return the captions of each image by its name."""
    captions: defaultdict[Id, list[str]] = defaultdict(list)
    for number, entry in referring(with_content(document.entries("annotations"), "caption"), images):
        captions[number].append(entry.text("caption"))
    return by_name(captions, images)


def _boxes(
    document: Document, name_of: Callable[[Entry], str], samples: Mapping[Id, ListedImage]
) -> dict[str, ImageAnnotations]:
    """Return the boxes of each image by its name, with the size that the document states.

    Args:
        document: Instances JSON. Without a list `images` its ids are those of `samples`.
        name_of: Function from an entry of `images` to its name.
        samples: Images of the data set by id.

    Returns:
        Boxes of each image that the document lists.

    Raises:
        DataError: The document lists none of the samples, lacks a key, or its boxes are fractions.
    """
    known = {image.name for image in samples.values()}

    def sample_of(entry: Entry) -> str:
        """Return the name of the sample of this file or, if folders are written otherwise, of this id and base name."""
        name, sample = name_of(entry), samples.get(entry.id("id"))
        if name in known or sample is None or _base_name(sample.name) != _base_name(name):
            return name
        return sample.name

    images = images_by_id(document, sample_of) if document.lists_any("images") else samples
    if images and known.isdisjoint(image.name for image in images.values()):
        raise DataError(
            f"{document.path}: lists none of the {len(known)} images of the captions JSON; its first is"
            f" {next(iter(images.values())).name}. Both must be of the same split."
        )
    stated = boxes_by_id(document, images, document.categories())
    boxes = {number: [LabeledBox(*one) for one in of_image] for number, of_image in stated.items()}
    sizes = {image.name: image.stated_size() for image in [*listed_once(samples), *listed_once(images)]}
    for image in listed_once(samples):
        sizes[image.name] = sizes[image.name].or_else(image.stated_size())
    found = {name: ImageAnnotations(of_image, sizes[name]) for name, of_image in by_name(boxes, images).items()}
    require_no_fractions((one.framed(name) for name, one in found.items()), where=document.path.as_posix())
    boxed = [name for name, one in found.items() if one.boxes]
    if others := [name for name in boxed if name not in known]:
        log.warning(
            "%s: %d of %d images with boxes are not among the samples, such as %s. Their boxes are left out.",
            document.path, len(others), len(boxed), to_valid_utf8(others[0]),
        )  # fmt: skip
    return found


def _base_name(name: str) -> str:
    return PurePosixPath(canonical_name(name)).name

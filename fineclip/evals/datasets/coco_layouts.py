"""Layouts coco_panoptic and coco_captions: COCO's JSON files, a folder of images, a folder of masks.

Panoptic segments become boxes: a thing has the box of its segment, stuff has the tight box of its mask. Crowds count like any
other segment.

Source: CLIPSelf, training/data.py, COCOPanopticDataset. Deviation: the box of a mask ends after its last pixel; theirs ends
on it, one pixel too narrow and too low.

Legend: H W pixels.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from fineclip.config.evaluation import CocoCaptions, CocoInstances, CocoPanoptic
from fineclip.errors import DataError
from fineclip.evals.datasets.benchmark_image import BenchmarkClass, BenchmarkImage, Contents, read_image
from fineclip.readers.files import files_below
from fineclip.readers.json_documents import Document, Entry, Id
from fineclip.readers.masks import tight_box
from fineclip.readers.text import captions_of, to_valid_utf8
from fineclip.shards import BenchmarkBox, sha256_of
from fineclip.shards.images import UndecodableImage, decode
from fineclip.stages.source.samples import fingerprint

log = logging.getLogger(__name__)


def coco_inputs(source: CocoPanoptic | CocoInstances | CocoCaptions) -> dict[str, str]:
    """Return the hash of the JSON, and of the names and sizes in each folder."""
    root = Path(source.root)
    folders = [root / source.images, *([root / source.masks] if isinstance(source, CocoPanoptic) else [])]
    annotations = root / source.annotations
    return {annotations.as_posix(): sha256_of(annotations)} | {
        folder.as_posix(): fingerprint(dict(sorted(_sizes(folder).items())), {}) for folder in folders
    }


def captions_contents(source: CocoCaptions) -> Contents:
    """Return every image that the JSON names, with its captions.

    Args:
        source: Folder and names of the JSON and the images.

    Returns:
        Images with all captions that are not blank; an image may have none. No classes.

    Raises:
        DataError: An image is absent or broken, or an entry lacks a key.
    """
    document = Document(Path(source.root) / source.annotations)
    images = _by_id(document, "images")
    captions: defaultdict[Id, list[str]] = defaultdict(list)
    for entry in document.entries("annotations"):
        captions[entry.id("image_id")].append(entry.text("caption"))
    _warn_about_unknown_images(document, captions, images)
    paths = _image_paths(images, Path(source.root) / source.images)
    with_captions = (
        read_image(path, captions=[text for text in captions_of(captions[number]) if text]) for number, path in paths
    )
    return Contents([], with_captions)


def panoptic_contents(source: CocoPanoptic) -> Contents:
    """Return the categories, and every image that the JSON names with one box per segment.

    Args:
        source: Folder and names of the JSON, the images and the masks.

    Returns:
        Classes in the order of their ids, and images in the order of the JSON.

    Raises:
        DataError: An image or a mask is absent or broken, a mask has another size than its image, or an entry lacks a key.
    """
    document = Document(Path(source.root) / source.annotations)
    classes = _classes(document)
    return Contents(list(classes.values()), _panoptic_images(source, document, classes))


def _panoptic_images(
    source: CocoPanoptic, document: Document, classes: Mapping[Id, BenchmarkClass]
) -> Iterator[BenchmarkImage]:
    images, masks = _by_id(document, "images"), Path(source.root) / source.masks
    annotations = _by_id(document, "annotations", key="image_id")
    _warn_about_unknown_images(document, annotations, images)
    names = _sizes(masks).keys()
    for number, path in _image_paths(images, Path(source.root) / source.images):
        image = read_image(path, captions=[])
        if number in annotations:
            entry = annotations[number]
            if entry.text("file_name") not in names:
                raise entry.wrong("file_name", f"the name of a mask in {masks}")
            image = replace(image, boxes=_boxes(entry, document.path, masks, classes, image))
        yield image


def segment_ids(png: Image.Image) -> np.ndarray:
    """Return the segment id of each pixel of an RGB image, R + 256 G + 65536 B: (H, W), int64."""
    rgb_HW3 = np.asarray(png, dtype=np.int64)
    ids_HW: np.ndarray = rgb_HW3 @ np.array([1, 256, 256 * 256])
    return ids_HW


def _classes(document: Document) -> dict[Id, BenchmarkClass]:
    """Return the classes by their ids, in the order of the ids."""
    entries = sorted(_by_id(document, "categories").items(), key=lambda item: (str(type(item[0])), item[0]))
    classes = {number: _class_of(entry) for number, entry in entries}
    twice = [name for name, count in Counter(one.name for one in classes.values()).items() if count > 1]
    if twice:
        raise DataError(f"{document.path}: two categories have the name {twice[0]!r}. Is it the right file?")
    return classes


def _class_of(entry: Entry) -> BenchmarkClass:
    if entry.values.get("isthing") not in (0, 1):
        raise entry.wrong("isthing", "0 or 1, as in COCO's panoptic files")
    return BenchmarkClass(to_valid_utf8(entry.text("name")), is_thing=bool(entry.values["isthing"]))


def _boxes(
    annotation: Entry, document: Path, masks: Path, classes: Mapping[Id, BenchmarkClass], image: BenchmarkImage
) -> list[BenchmarkBox]:
    """Return the boxes of the segments of one image. Its mask is read only if one of them is stuff."""
    mask = masks / annotation.text("file_name")
    segments = annotation.values.get("segments_info")
    if not isinstance(segments, list) or not all(isinstance(values, dict) for values in segments):
        raise annotation.wrong("segments_info", "a list of objects")
    boxes: list[BenchmarkBox] = []
    ids_HW: np.ndarray | None = None
    for index, values in enumerate(segments):
        segment = Entry(document, f"annotations of {mask.name}: segments_info", index, values)
        category = segment.id("category_id")
        if category not in classes:
            raise segment.wrong("category_id", "the id of one of 'categories'")
        label = list(classes).index(category)
        if classes[category].is_thing:
            boxes.append(BenchmarkBox(segment.box("bbox"), label))
            continue
        ids_HW = _read_mask(mask, image) if ids_HW is None else ids_HW
        is_inside_HW = ids_HW == segment.id("id")
        if not is_inside_HW.any():
            raise segment.wrong("id", f"the id of a pixel of {mask}")
        boxes.append(BenchmarkBox(tight_box(is_inside_HW), label))
    return boxes


def _read_mask(path: Path, image: BenchmarkImage) -> np.ndarray:
    try:
        mask = decode(path.read_bytes())
    except (OSError, UndecodableImage) as error:
        raise DataError(f"{path}: cannot be read as a mask: {error}. Download it again.") from None
    if mask.size != (image.width, image.height):
        raise DataError(
            f"{path}: is {mask.width} x {mask.height} pixels, but its image {image.file} is {image.width} x {image.height}."
            " Masks and images must be of the same data set, neither of them resized."
        )
    return segment_ids(mask)


def _by_id(document: Document, section: str, *, key: str = "id") -> dict[Id, Entry]:
    """Return the entries of a section by an id that no two of them share."""
    entries: dict[Id, Entry] = {}
    for entry in document.entries(section):
        number = entry.id(key)
        if number in entries:
            raise entry.wrong(key, "one of its own: another entry has it too")
        entries[number] = entry
    return entries


def _warn_about_unknown_images(document: Document, found: Mapping[Id, object], images: Mapping[Id, Entry]) -> None:
    if unknown := len(found.keys() - images.keys()):
        log.warning("%s: %d images have annotations but no entry in 'images': left out", document.path, unknown)


def _image_paths(images: Mapping[Id, Entry], folder: Path) -> Iterator[tuple[Id, Path]]:
    """Yield the id and file of each image, in the order of the JSON."""
    present = _sizes(folder)
    for number, entry in images.items():
        name = entry.text("file_name")
        if name not in present:
            raise entry.wrong("file_name", f"the name of an image in {folder}")
        yield number, folder / name


def _sizes(folder: Path) -> dict[str, int]:
    return {name: entry.stat().st_size for name, entry in files_below(folder) if to_valid_utf8(name) == name}

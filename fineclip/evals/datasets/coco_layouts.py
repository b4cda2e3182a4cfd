"""Layouts coco_panoptic and coco_captions: COCO's JSON files, a folder of images, a folder of masks.

Panoptic segments become boxes: a thing has the box of its segment, stuff has the tight box of its mask. Crowds count like any
other segment.

Source: CLIPSelf, training/data.py, COCOPanopticDataset. Deviation: the box of a mask ends after its last pixel; theirs ends
on it, one pixel too narrow and too low.

Legend: H W pixels.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from fineclip.config.evaluation import CocoCaptions, CocoInstances, CocoPanoptic
from fineclip.errors import DataError
from fineclip.evals.datasets.benchmark_image import BenchmarkClass, BenchmarkImage, Contents, read_image
from fineclip.readers.boxes import FramedBoxes, StatedSize, require_pixels, require_stated_size
from fineclip.readers.files import files_below, list_files
from fineclip.readers.json_documents import Document, Entry, Id, report_left_out, with_content
from fineclip.readers.listed_images import ListedImage, by_name, distinct, images_by_id, listed_once, referring
from fineclip.readers.masks import tight_box
from fineclip.readers.names import FileNames, FolderNames
from fineclip.readers.text import captions_of, to_valid_utf8
from fineclip.shards import BenchmarkBox, sha256_of
from fineclip.shards.images import UndecodableImage, decode
from fineclip.stages.source.samples import fingerprint


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
    document, folder = Document(Path(source.root) / source.annotations), Path(source.root) / source.images
    images = images_by_id(document, name_among(folder))
    captions: defaultdict[Id, list[str]] = defaultdict(list)
    for number, entry in referring(with_content(document.entries("annotations"), "caption"), images):
        captions[number].append(entry.text("caption"))
    of_images = by_name(captions, images).items()
    with_captions = (
        read_image(folder / name, captions=[text for text in captions_of(texts) if text]) for name, texts in of_images
    )
    return Contents([], with_captions)


def panoptic_contents(source: CocoPanoptic) -> Contents:
    """Return the categories, and every image that the JSON names with one box per segment.

    Args:
        source: Folder and names of the JSON, the images and the masks.

    Returns:
        Classes in the order of their ids, and images in the order of the JSON.

    Raises:
        DataError: An image or a mask is absent or broken, an image has another size than its mask or than the JSON states, boxes
            are not in pixels, or an entry lacks a key.
    """
    document = Document(Path(source.root) / source.annotations)
    classes = _classes(document)
    return Contents(list(classes.values()), _panoptic_images(source, document, classes))


def _panoptic_images(
    source: CocoPanoptic, document: Document, classes: Mapping[Id, BenchmarkClass]
) -> Iterator[BenchmarkImage]:
    folder, masks = Path(source.root) / source.images, Path(source.root) / source.masks
    images = images_by_id(document, name_among(folder))
    annotations = _segments_by_image(document, images, classes)
    names, things, stated = FileNames(_sizes(masks).keys()), _things(classes), list[FramedBoxes]()
    for listed in listed_once(images):
        image, boxes = read_image(folder / listed.name, captions=[]), list[list[BenchmarkBox]]()
        size = StatedSize(image.width, image.height)
        require_stated_size(listed.stated_size(), size, image=image.file.as_posix(), where=document.path.as_posix())
        for entry, segments in (annotations[number] for number in listed.ids if number in annotations):
            boxes.append(
                _boxes(
                    segments, masks / _file_in(masks, names, entry, entry.text("file_name"), "a mask"), classes, image
                )
            )
        of_image = distinct(boxes)
        stated.append(FramedBoxes(listed.name, [one.box for one in of_image if one.label in things], size))
        yield replace(image, boxes=of_image)
    require_pixels(stated, where=document.path.as_posix())


def _things(classes: Mapping[Id, BenchmarkClass]) -> set[int]:
    """Return the labels of things, whose boxes the JSON states."""
    return {label for label, one in enumerate(classes.values()) if one.is_thing}


def _segments_by_image(
    document: Document, images: Mapping[Id, ListedImage], classes: Mapping[Id, BenchmarkClass]
) -> dict[Id, tuple[Entry, list[Entry]]]:
    """Return the annotation of each image with its segments that have content: a category, and a box if they are things."""
    annotations: dict[Id, tuple[Entry, list[Entry]]] = {}
    things = {number for number, one in classes.items() if one.is_thing}
    total, left_out = 0, list[Entry]()
    for number, annotation in referring(document.entries("annotations"), images):
        if number in annotations:
            raise annotation.wrong("image_id", "one of its own: another entry has it too")
        segments = _segments(annotation)
        usable = [one for one in segments if _has_content(one, things)]
        total += len(segments)
        left_out += [one for one in segments if one not in usable]
        annotations[number] = annotation, usable
    report_left_out(left_out, total=total, what="segments", keys=("category_id", "bbox"))
    return annotations


def _has_content(segment: Entry, things: Collection[Id]) -> bool:
    """Return whether a segment has a category and, if that is a thing, a box. The box of stuff is that of its mask."""
    return not segment.is_empty("category_id") and not (
        segment.is_empty("bbox") and segment.id("category_id") in things
    )


def _segments(annotation: Entry) -> list[Entry]:
    segments, mask = annotation.values.get("segments_info"), annotation.values.get("file_name")
    if not isinstance(segments, list) or not all(isinstance(values, dict) for values in segments):
        raise annotation.wrong("segments_info", "a list of objects")
    section = f"annotations of {mask}: segments_info"
    return [Entry(annotation.path, section, index, values) for index, values in enumerate(segments)]


def segment_ids(png: Image.Image) -> np.ndarray:
    """Return the segment id of each pixel of an RGB image, R + 256 G + 65536 B: (H, W), int64."""
    rgb_HW3 = np.asarray(png, dtype=np.int64)
    ids_HW: np.ndarray = rgb_HW3 @ np.array([1, 256, 256 * 256])
    return ids_HW


def _classes(document: Document) -> dict[Id, BenchmarkClass]:
    """Return the classes by their ids, in the order of the ids."""
    entries: dict[Id, Entry] = {}
    for entry in document.entries("categories"):
        number = entry.id("id")
        if number in entries:
            raise entry.wrong("id", "one of its own: another entry has it too")
        entries[number] = entry
    ordered = sorted(entries.items(), key=lambda item: (str(type(item[0])), item[0]))
    classes = {number: _class_of(entry) for number, entry in ordered}
    twice = [name for name, count in Counter(one.name for one in classes.values()).items() if count > 1]
    if twice:
        raise DataError(f"{document.path}: two categories have the name {twice[0]!r}. Is it the right file?")
    return classes


def _class_of(entry: Entry) -> BenchmarkClass:
    if entry.values.get("isthing") not in (0, 1):
        raise entry.wrong("isthing", "0 or 1, as in COCO's panoptic files")
    return BenchmarkClass(to_valid_utf8(entry.text("name")), is_thing=bool(entry.values["isthing"]))


def _boxes(
    segments: Sequence[Entry], mask: Path, classes: Mapping[Id, BenchmarkClass], image: BenchmarkImage
) -> list[BenchmarkBox]:
    """Return the boxes of the segments of one mask. The mask is read only if one of them is stuff."""
    boxes: list[BenchmarkBox] = []
    ids_HW: np.ndarray | None = None
    for segment in segments:
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


def name_among(folder: Path) -> Callable[[Entry], str]:
    """Return a function from an entry of `images` to the name of its file in the folder."""
    names = FolderNames(list_files(folder))

    def name_of(entry: Entry) -> str:
        return _file_in(folder, names, entry, entry.image_name(), "an image")

    return name_of


def _file_in(folder: Path, names: FileNames, entry: Entry, stated: str, kind: str) -> str:
    """Return the name of the file in a folder that an entry means."""
    found = names.find_below(stated, folder.name)
    if found is None or to_valid_utf8(found) != found:
        raise entry.wrong(
            "file_name" if entry.values.get("file_name") else "coco_url", f"the name of {kind} in {folder}"
        )
    return found


def _sizes(folder: Path) -> dict[str, int]:
    return {name: entry.stat().st_size for name, entry in files_below(folder) if to_valid_utf8(name) == name}

"""Layout coco_instances: any JSON in the form of COCO's instances, with a folder of images.

Every category is a thing, unless it states `isthing: 0`. Crowds are left out, as in the stages: their boxes are around groups. An
annotation without `bbox` has the tight box of its `segmentation`. An image without boxes is dropped as `no-box` by the index.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fineclip.config.evaluation import CocoInstances
from fineclip.errors import DataError
from fineclip.evals.datasets.benchmark_image import BenchmarkClass, BenchmarkImage, Contents, read_image
from fineclip.evals.datasets.coco_layouts import name_among
from fineclip.readers.boxes import FramedBoxes, StatedSize, require_pixels, require_stated_size
from fineclip.readers.json_documents import Document, Entry, Id
from fineclip.readers.listed_images import boxes_by_id, by_name, images_by_id, listed_once
from fineclip.readers.text import to_valid_utf8
from fineclip.shards import BenchmarkBox

log = logging.getLogger(__name__)


def instances_contents(source: CocoInstances) -> Contents:
    """Return the categories, and every image that the JSON names with its boxes.

    Args:
        source: Folder and names of the JSON and the images.

    Returns:
        Classes in the order of their ids, and images in the order of the JSON.

    Raises:
        DataError: An image is absent, broken or of another size than stated, boxes are not in pixels, or an entry lacks a key.
    """
    document = Document(Path(source.root) / source.annotations)
    classes = _classes(document)
    return Contents(list(classes.values()), _images(source, document, list(classes)))


def _classes(document: Document) -> dict[Id, BenchmarkClass]:
    document.categories()  # one id has one name
    entries = {entry.id("id"): entry for entry in document.entries("categories")}
    order = sorted(entries, key=lambda number: (isinstance(number, str), number))
    classes = {number: _class_of(entries[number]) for number in order}
    twice = [name for name, count in Counter(one.name for one in classes.values()).items() if count > 1]
    if twice:
        raise DataError(f"{document.path}: two categories have the name {twice[0]!r}. Rename one, or merge them.")
    return classes


def _class_of(entry: Entry) -> BenchmarkClass:
    is_thing = entry.values.get("isthing", 1)
    if is_thing not in (0, 1):
        raise entry.wrong("isthing", "0 or 1")
    return BenchmarkClass(to_valid_utf8(entry.text("name")), is_thing=bool(is_thing))


def _images(source: CocoInstances, document: Document, categories: list[Id]) -> Iterator[BenchmarkImage]:
    folder, where = Path(source.root) / source.images, document.path.as_posix()
    images = images_by_id(document, name_among(folder))
    stated = boxes_by_id(document, images, {category: label for label, category in enumerate(categories)})
    boxes = {number: [BenchmarkBox(*one) for one in of_image] for number, of_image in stated.items()}
    of_images, framed = by_name(boxes, images), list[FramedBoxes]()
    for listed in listed_once(images):
        image = replace(read_image(folder / listed.name, captions=[]), boxes=of_images[listed.name])
        file, size = image.file.as_posix(), StatedSize(image.width, image.height)
        require_stated_size(listed.stated_size(), size, image=file, where=where)
        framed.append(FramedBoxes(file, [one.box for one in image.boxes], size))
        yield image
    require_pixels(framed, where=where)

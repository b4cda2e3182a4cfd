"""External boxes in the form of COCO's instances: coco_proposals.json of FineCLIP, coco_pseudo_4764.json of CLIPSelf.

Every listed image is a row, even without boxes. All boxes are read, crowds included.

Source: FineCLIP and CLIPSelf, training/data.py, which use only the image, the box and, for pseudo-labels, the category of an
annotation.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from fineclip.config import BoxesJsonDetect
from fineclip.errors import DataError
from fineclip.stages.external.annotation_tables import ExternalBox, ExternalBoxesRow
from fineclip.stages.source.coco import Document, Entry, Id, images_by_id
from fineclip.stages.source.text_encoding import to_valid_utf8

log = logging.getLogger(__name__)


def boxes_in(path: Path, config: BoxesJsonDetect) -> Iterator[ExternalBoxesRow]:
    """Yield a row for each image of the JSON, in file order.

    Args:
        path: JSON in the form of COCO's instances.
        config: Keys `labels` and `score`; limits are not applied here.

    Yields:
        Rows with boxes in pixels; an image without boxes has an empty list.

    Raises:
        DataError: The JSON is absent, truncated or lacks a key, or two images have equal names.
    """
    document = Document(path)
    categories = _categories(document) if config.labels else {}
    boxes: defaultdict[Id, list[ExternalBox]] = defaultdict(list)
    for entry in document.entries("annotations"):
        label = ""
        if config.labels:
            label = entry.look_up("category_id", categories, "the id of one of 'categories' (or labels: false)")
        boxes[entry.id("image_id")].append(ExternalBox(*entry.xywh("bbox"), score=_score(entry, config), label=label))
    images, names = images_by_id(document), set[str]()
    for number, image in images.items():
        name = to_valid_utf8(image.image_name())
        if name in names:
            key = "file_name" if "file_name" in image.values else "coco_url"
            raise image.wrong(key, "a name that no other image has")
        names.add(name)
        width, height = (_side(image, side) for side in ("width", "height"))
        yield ExternalBoxesRow(key=name, kept=True, width=width, height=height, regions=boxes.get(number, []))
    if strays := len(boxes.keys() - images.keys()):
        log.warning("%s: %d images have boxes but no entry in 'images' and are skipped", path, strays)


def _categories(document: Document) -> dict[Id, str]:
    try:
        return {entry.id("id"): to_valid_utf8(entry.text("name")) for entry in document.entries("categories")}
    except DataError as error:
        raise DataError(f"{error} If the categories are placeholders, set labels: false.") from None


def _score(entry: Entry, config: BoxesJsonDetect) -> float:
    if config.score is None or config.score not in entry.values:
        return 1.0
    score = entry.number(config.score)
    if not 0 <= score <= 1:
        raise entry.wrong(config.score, "a score from 0 to 1 (or score: null)")
    return score


def _side(image: Entry, side: str) -> int | None:
    if image.values.get(side) is None:
        return None
    pixels = image.number(side)
    if pixels < 1 or pixels != int(pixels):
        raise image.wrong(side, "a whole number of pixels")
    return int(pixels)

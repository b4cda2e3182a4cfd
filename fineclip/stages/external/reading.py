"""Stage `import-annotations`: read released or own boxes, or released captions, once into a table with one row per image.

Boxes have the form of COCO's instances: coco_proposals.json of FineCLIP, coco_pseudo_4764.json of CLIPSelf. Every listed image is a
row, even without boxes, and all boxes are read, crowds included. Entries of one image are one row. Captions are a flat object: coco_captions.json of FineCLIP.

    {"000000000009.jpg_1_187_611_285.jpg": "a table with bowls of food", ...}

Own boxes are read by fineclip/readers/box_files.py; every image with a file or a line in the table is a row.

A JSON of several hundred megabytes takes about ten seconds and several gigabytes of memory to parse. Jobs of shards read only
the rows of their own images from the table.

Source: FineCLIP and CLIPSelf, training/data.py, which use only the image, the box and, for pseudo-labels, the category of an
annotation.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field

from fineclip.config import BoxesFilesDetect, BoxesJsonDetect, CaptionsJsonCaption
from fineclip.errors import DataError
from fineclip.readers.box_files import BoxFiles, box_files, boxes_in_files
from fineclip.readers.boxes import require_no_fractions
from fineclip.readers.json_documents import Document, Entry, Id, read_json, with_content
from fineclip.readers.listed_images import by_name, images_by_id, listed_once, referring
from fineclip.readers.names import canonical_name
from fineclip.readers.text import to_valid_utf8
from fineclip.shards import sha256_of
from fineclip.stages.declaration import Stage, catalog_entry, stage
from fineclip.stages.external.annotation_tables import (
    ExternalBox,
    ExternalBoxesRow,
    ExternalCaption,
    ExternalCaptionsRow,
    ExternalConfig,
    OwnBoxesRow,
    table_identity,
)

log = logging.getLogger(__name__)

R = TypeVar("R", ExternalBoxesRow, ExternalCaptionsRow)

KEY = re.compile(r"(?P<image>.+)" + r"_(-?[0-9]{1,9})" * 4 + r"\.jpg", re.DOTALL)

IMPORT_ANNOTATIONS = Stage(
    name="given",
    verb="import-annotations",
    version=2,
    help="read released boxes or captions, or own boxes, into one table",
    config=Annotated[ExternalConfig, Field(discriminator="engine")],
    section="{kind}.{name}",
    row=ExternalBoxesRow,
    options=catalog_entry("detect", "caption"),
    key=table_identity,
)


@stage(IMPORT_ANNOTATIONS)
def import_annotations(manifest: Path, config: ExternalConfig, *, kind: str, name: str) -> None:
    """Write the table of a JSON or of own boxes in file order, and then its manifest.

    Args:
        manifest: Path of the manifest to write; the table is written beside it.
        config: Entry of `detect` or `caption`.
        kind: `detect` or `caption`, for messages.
        name: Name of the entry, for messages.

    Raises:
        DataError: The JSON or a file of boxes is absent, truncated, of another form, or lists no image.
    """
    if isinstance(config, BoxesFilesDetect):
        _import_own(manifest, config, where=f"{kind}.{name}")
        return
    path = Path(config.path)
    if not path.is_file():
        raise DataError(f"{path}: no such file. Put it there, or name another.")
    declared = IMPORT_ANNOTATIONS
    if isinstance(config, CaptionsJsonCaption):
        declared = replace(declared, row=ExternalCaptionsRow)

    def rows() -> list[ExternalBoxesRow] | list[ExternalCaptionsRow]:
        log.info("%s.%s: reading %s, %.0f MB", kind, name, path, path.stat().st_size / 1e6)
        rows = boxes_of_entry(config) if isinstance(config, BoxesJsonDetect) else captions_of_entry(config)
        log.info("%d regions of %d images", sum(len(row.regions) for row in rows), len(rows))
        return rows

    declared.write_table(manifest, table_identity(config), {path.as_posix(): sha256_of(path)}, rows)


def _import_own(manifest: Path, config: BoxesFilesDetect, *, where: str) -> None:
    files = box_files(config)

    def rows() -> list[OwnBoxesRow]:
        log.info("%s: reading %s, %d files", where, config.path, len(files.labels))
        rows = _own_boxes(config, files)
        log.info("%d regions of %d images", sum(len(row.regions) for row in rows), len(rows))
        return rows

    declared = replace(IMPORT_ANNOTATIONS, row=OwnBoxesRow)
    declared.write_table(manifest, table_identity(config), files.hashes(config.path), rows)


def boxes_of_entry(config: BoxesJsonDetect | BoxesFilesDetect) -> list[ExternalBoxesRow]:
    """Return the rows of the table of an entry of `detect`.

    Args:
        config: Entry with a JSON or with own boxes; its limits are not applied here.

    Returns:
        Rows in file order.

    Raises:
        DataError: A file is absent, cannot be read or has another form, or boxes in pixels are fractions.
    """
    if isinstance(config, BoxesFilesDetect):
        return list(_own_boxes(config, box_files(config)))
    return _some(list(boxes_in(Path(config.path), config)), config.path)


def _some(rows: list[R], path: str) -> list[R]:
    """Return the rows of a JSON, which must have at least one."""
    if not rows:
        raise DataError(f"{path}: holds no image. Check that it is the right file.")
    return rows


def captions_of_entry(config: CaptionsJsonCaption) -> list[ExternalCaptionsRow]:
    """Return the rows of the table of an entry of `caption`.

    Args:
        config: Entry with a JSON.

    Returns:
        Rows in the order of first keys.

    Raises:
        DataError: The JSON is absent, has another form, or names no image.
    """
    return _some(list(captions_in(Path(config.path))), config.path)


def _own_boxes(config: BoxesFilesDetect, files: BoxFiles) -> list[OwnBoxesRow]:
    rows = list(own_boxes_in(config, files))
    require_no_fractions((row.framed() for row in rows if not row.fractions), where=config.path)
    return rows


def own_boxes_in(config: BoxesFilesDetect, files: BoxFiles) -> Iterator[OwnBoxesRow]:
    """Yield a row for each image with a file or a line in the table.

    Args:
        config: Format, path and keys of labels; limits are not applied here.
        files: The files of the entry.

    Yields:
        Rows in the order of the files, with corner and size of boxes in pixels or fractions.

    Raises:
        DataError: A file cannot be read or has another form.
    """
    for found in boxes_in_files(config, files):
        regions = [
            ExternalBox(box.x1, box.y1, box.width, box.height, score=score, label=label)
            for box, label, score in found.boxes
        ]
        yield OwnBoxesRow(
            key=found.image,
            kept=True,
            width=found.width,
            height=found.height,
            regions=regions,
            fractions=found.fractions,
        )


def boxes_in(path: Path, config: BoxesJsonDetect) -> Iterator[ExternalBoxesRow]:
    """Yield a row for each image of the JSON, in file order.

    Args:
        path: JSON in the form of COCO's instances.
        config: Keys `labels` and `score`; limits are not applied here.

    Yields:
        Rows with boxes in pixels; an image without boxes has an empty list.

    Raises:
        DataError: The JSON is absent, truncated or lacks a key, its ids match no image, or its boxes are fractions.
    """
    document = Document(path)
    categories = _categories(document) if config.labels else {}
    images = images_by_id(document, lambda entry: canonical_name(to_valid_utf8(entry.image_name())))
    boxes: defaultdict[Id, list[ExternalBox]] = defaultdict(list)
    required = ("bbox", "category_id") if config.labels else ("bbox",)
    for number, entry in referring(with_content(document.entries("annotations"), *required), images):
        label = ""
        if config.labels:
            label = entry.look_up("category_id", categories, "the id of one of 'categories' (or labels: false)")
        boxes[number].append(ExternalBox(*entry.xywh("bbox"), score=_score(entry, config), label=label))
    found = by_name(boxes, images)
    rows = []
    for image in listed_once(images):
        (width, height), name = image.stated_size(), to_valid_utf8(image.entry.image_name())
        rows.append(ExternalBoxesRow(key=name, kept=True, width=width, height=height, regions=found[image.name]))
    require_no_fractions((row.framed() for row in rows), where=path.as_posix())
    yield from rows


def _categories(document: Document) -> dict[Id, str]:
    try:
        return document.categories()
    except DataError as error:
        raise DataError(f"{error} If the categories are placeholders, set labels: false.") from None


def _score(entry: Entry, config: BoxesJsonDetect) -> float:
    if config.score is None or config.score not in entry.values:
        return 1.0
    score = entry.number(config.score)
    if not 0 <= score <= 1:
        raise entry.wrong(config.score, "a score from 0 to 1 (or score: null)")
    return score


def captions_in(path: Path) -> Iterator[ExternalCaptionsRow]:
    """Yield a row for each image that a key names, in the order of first keys.

    Args:
        path: JSON object from `IMAGE_X_Y_WIDTH_HEIGHT.jpg` to a caption.

    Yields:
        Rows with the captions of one image, in the order of the keys.

    Raises:
        DataError: The JSON is absent, truncated or not a flat object of texts, or no key has this form.
    """
    captions = read_json(path)
    if not isinstance(captions, dict):
        raise DataError(f"{path}: is not a JSON object of captions by key. Check that it is the right file.")
    by_image: dict[str, list[ExternalCaption]] = {}
    names: dict[str, str] = {}  # first spelling of each name
    others: list[str] = []
    without = [key for key, caption in captions.items() if caption is None]
    for key, caption in captions.items():
        if caption is None:
            continue
        if not isinstance(caption, str):
            raise DataError(
                f"{path}: {key!r} is {caption!r:.60}, expected a caption. Correct it, or download it again."
            )
        found = KEY.fullmatch(key)
        if found is None:
            others.append(key)
            continue
        image, *box = found.groups()
        x, y, width, height = map(int, box)
        one = ExternalCaption(x, y, width, height, to_valid_utf8(caption))
        name = to_valid_utf8(image)
        by_image.setdefault(names.setdefault(canonical_name(name), name), []).append(one)
    if others and not by_image:
        raise DataError(f"{path}: no key is of the form IMAGE_X_Y_WIDTH_HEIGHT.jpg; the first is {others[0]!r:.80}.")
    if others:
        log.warning("%s: %d keys are of another form and are skipped: %r", path, len(others), others[0])
    if without:
        log.warning("%s: %d keys have no caption and are left out, such as %r", path, len(without), without[0])
    for image, regions in by_image.items():
        yield ExternalCaptionsRow(key=image, kept=True, regions=regions)

"""External captions of boxes, a flat JSON object: coco_captions.json of FineCLIP.

    {"000000000009.jpg_1_187_611_285.jpg": "a table with bowls of food", ...}

A key holds the file name of the image, then x, y, width and height of the box in pixels of the original image, each truncated to an
integer. The detect table holds clipped and rounded corners, from which a truncated width cannot always be recovered. Therefore
the original boxes are read again and matched to regions by their clipped and rounded form. Boxes of the source are stored as
corners, and x2 - x1 equals the width up to rounding error; rounding to six decimals restores numbers with the two decimals of
COCO and LVIS exactly.

Source: FineCLIP, training/data.py: f"{image_name}_{int(x)}_{int(y)}_{int(w)}_{int(h)}.jpg".
"""

import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fineclip.boxes import clip_and_round, from_xywh
from fineclip.errors import DataError
from fineclip.shards import DetectRow, SourceRow, input_manifest, read_manifest
from fineclip.stages.external.annotation_tables import ExternalBoxesRow, ExternalCaption, ExternalCaptionsRow, rows_for
from fineclip.stages.source.coco import read_json
from fineclip.stages.source.text_encoding import to_valid_utf8
from fineclip.stages.upstream import kept_by_key, lineage_of, row_of
from fineclip.types import Box, RegionCaption

log = logging.getLogger(__name__)

KEY = re.compile(r"(?P<image>.+)" + r"_(-?[0-9]{1,9})" * 4 + r"\.jpg", re.DOTALL)
DECIMALS = 6


class OriginalBox(NamedTuple):
    """A box before clipping and rounding, in pixels of the original image."""

    x: float
    y: float
    width: float
    height: float

    def whole(self) -> tuple[int, ...]:
        """Return the integers of the box in a key."""
        return tuple(int(number) for number in self)


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
    others: list[str] = []
    for key, caption in captions.items():
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
        by_image.setdefault(to_valid_utf8(image), []).append(one)
    if others and not by_image:
        raise DataError(f"{path}: no key is of the form IMAGE_X_Y_WIDTH_HEIGHT.jpg; the first is {others[0]!r:.80}.")
    if others:
        log.warning("%s: %d keys are of another form and are skipped: %r", path, len(others), others[0])
    for image, regions in by_image.items():
        yield ExternalCaptionsRow(key=image, kept=True, regions=regions)


def look_up_captions(rows: Sequence[DetectRow], detected: Path, *, given: Path) -> Iterator[RegionCaption]:
    """Yield the caption of each region, or None if the JSON lacks its key.

    Args:
        rows: Kept rows of the detect table.
        detected: Manifest of that table.
        given: Manifest of the imported captions.

    Yields:
        Captions of the regions of all rows, in order.

    Raises:
        DataError: The name of a sample matches several images of the JSON.
        ShardError: A table is absent or changed.
    """
    source = lineage_of(detected)["source"]
    sources = kept_by_key(source, SourceRow)
    samples = {row.key: row_of(row.key, sources, source) for row in rows}
    captions = rows_for(given, ExternalCaptionsRow, {key: sample.source_key for key, sample in samples.items()})
    boxes = original_boxes(detected, samples)
    for row in rows:
        of_image = {one[:4]: one.caption for one in captions[row.key].regions} if row.key in captions else {}
        originals = defaultdict[Box, list[OriginalBox]](list)
        for box in boxes.get(row.key, ()):
            originals[clip_and_round(from_xywh(*box), row.width, row.height)].append(box)
        for region in row.regions:
            candidates = originals.get(region.box) or [_from_corners(region.box)]
            found = (of_image.get(box.whole()) for box in candidates)
            yield RegionCaption(next((one for one in found if one is not None), None), None)


def original_boxes(detected: Path, samples: Mapping[str, SourceRow]) -> dict[str, list[OriginalBox]]:
    """Return the boxes of each sample before clipping and rounding; empty if a detector found them."""
    match read_manifest(detected).config.get("engine"):
        case "boxes_json":
            keys = {key: sample.source_key for key, sample in samples.items()}
            rows = rows_for(input_manifest(detected, "given"), ExternalBoxesRow, keys)
            return {key: [OriginalBox(*region[:4]) for region in row.regions] for key, row in rows.items()}
        case "annotations":
            return {
                key: [_from_corners(one.box) for one in sample.annotations or ()] for key, sample in samples.items()
            }
    return {}


def _from_corners(box: Box) -> OriginalBox:
    return OriginalBox(*(round(number, DECIMALS) for number in (box.x1, box.y1, box.width, box.height)))

"""External captions of boxes, a flat JSON object: coco_captions.json of FineCLIP.

    {"000000000009.jpg_1_187_611_285.jpg": "a table with bowls of food", ...}

A key holds the file name of the image, then x, y, width and height of the box in pixels of the original image, each truncated to an
integer. The detect table holds clipped and rounded corners, from which a truncated width cannot always be recovered. Therefore
the original boxes are read again and matched to regions by their clipped and rounded form. Boxes of the source are stored as
corners, and x2 - x1 equals the width up to rounding error; rounding to six decimals restores numbers with the two decimals of
COCO and LVIS exactly.

Source: FineCLIP, training/data.py: f"{image_name}_{int(x)}_{int(y)}_{int(w)}_{int(h)}.jpg".
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fineclip.boxes import clip_and_round, from_xywh
from fineclip.shards import DetectRow, SourceRow, input_manifest, read_manifest
from fineclip.stages.external.annotation_tables import (
    ExternalBoxesRow,
    ExternalCaptionsRow,
    require_one_image_each,
    rows_for,
)
from fineclip.stages.upstream import KeptRows, lineage_of
from fineclip.types import Box, RegionCaption

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
    sources = KeptRows(lineage_of(detected)["source"], SourceRow)
    samples = {row.key: sources[row.key] for row in rows}
    source_keys = {key: sample.source_key for key, sample in samples.items()}
    captions = rows_for(given, ExternalCaptionsRow, source_keys)
    require_one_image_each(source_keys, captions, where=str(given))
    boxes = original_boxes(detected, samples)
    for row in rows:
        of_image: dict[tuple[int, ...], str] = {}
        if row.key in captions:
            of_image = {one[:4]: one.caption for one in captions[row.key].regions}
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

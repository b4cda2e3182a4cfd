"""Boxes that users bring, as regions: those of the data set, of a JSON, or of own files. No pixel is read.

    require_boxes_of_shard   files and units of the boxes of a shard as a whole
    given_rows               the regions of each image, or the reason to drop it

Boxes are in pixels of the stored image, clipped to it and rounded to hundredths.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from fineclip.boxes import clip_and_round, from_fractions, from_xywh, rejection_reason
from fineclip.config import AnnotationsDetect, BoxesFilesDetect, BoxesJsonDetect
from fineclip.errors import ConfigError, DataError
from fineclip.readers.boxes import FramedBoxes, StatedSize, require_pixels
from fineclip.shards import DetectRow, FilterRow, SourceRow
from fineclip.stages.external.annotation_tables import ExternalBoxesRow, OwnBoxesRow, require_one_image_each
from fineclip.types import Region

log = logging.getLogger(__name__)

GivenBoxes = AnnotationsDetect | BoxesJsonDetect | BoxesFilesDetect

ENOUGH = 10  # images of a shard; if so many have no label at all, labels and images probably have other names


class GivenImage(NamedTuple):
    """Boxes of an image in pixels, the size of the image that they refer to, and whether they were given as fractions of it."""

    boxes: list[Region]
    size: StatedSize = StatedSize()
    are_of_fractions: bool = False


class StoredSample(NamedTuple):
    """A sample: its source row, its row without regions, and whether EXIF turns its image."""

    source: SourceRow
    row: DetectRow
    turned: bool


def given_regions(
    boxes: Iterable[Region], *, width: int, height: int, config: GivenBoxes
) -> tuple[list[Region], Counter[str]]:
    """Return the regions of an image from boxes of its data set, largest first, of a JSON, in file order, or of own files, best first.

    Args:
        boxes: Regions in pixels of the stored image, neither clipped nor rounded.
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        config: Limits of side lengths and number.

    Returns:
        Regions, clipped and rounded, and the number of rejected boxes by reason.

    Raises:
        DataError: An edge is not finite.
    """
    regions, left_out = [], Counter[str]()
    max_side_px = None if isinstance(config, AnnotationsDetect) else config.max_side_px
    for one in boxes:
        if not all(map(math.isfinite, one.box)):
            raise DataError(f"a box of {one.label!r} has edges {tuple(one.box)}; expected finite numbers")
        box = clip_and_round(one.box, width, height)
        if why := rejection_reason(box, min_side_px=config.min_side_px, max_side_px=max_side_px):
            left_out[why] += 1
        else:
            regions.append(Region(box, one.score, one.label))
    if isinstance(config, AnnotationsDetect):
        regions.sort(key=lambda region: (-region.box.width * region.box.height, region.box, region.label))
    if isinstance(config, BoxesFilesDetect):
        regions.sort(key=lambda region: -region.score)
    kept = regions[: config.max_regions]
    if len(kept) < len(regions):
        left_out[f"more than {config.max_regions} in their image"] += len(regions) - len(kept)
    return kept, left_out


def boxes_of(
    source: SourceRow, config: GivenBoxes, external: Mapping[str, ExternalBoxesRow], *, width: int, height: int
) -> GivenImage | None:
    """Return the boxes of a sample as its data set, the JSON or its file states them, or None if the JSON does not list it.

    Args:
        source: Row of the sample; under engine annotations it holds boxes in pixels.
        config: Engine.
        external: Rows of the imported table by the keys of samples, for engines boxes_json and boxes_files.
        width: Width of the stored image in pixels, for boxes in fractions.
        height: Height likewise.

    Returns:
        Boxes, and the size of the image that they refer to. Under engine boxes_files an image without a file has no boxes.

    Raises:
        ConfigError: The source has no boxes.
    """
    if isinstance(config, AnnotationsDetect):
        if source.annotations is None:
            raise ConfigError(
                f"sample {source.key}: its source has no boxes of its own, and detect engine annotations needs them."
                " Use an entry of engine yolo or boxes_files, or for kind coco set source.instances."
            )
        boxes = [Region(one.box, 1.0, one.label) for one in source.annotations]
        return GivenImage(boxes, StatedSize(source.stated_width, source.stated_height))
    listed = external.get(source.key)
    if listed is None:
        return GivenImage([]) if isinstance(config, BoxesFilesDetect) else None
    boxes = [Region(from_xywh(*one[:4]), one.score, one.label) for one in listed.regions]
    are_of_fractions = isinstance(listed, OwnBoxesRow) and listed.fractions
    if are_of_fractions:
        boxes = [replace(one, box=from_fractions(one.box, width, height)) for one in boxes]
    return GivenImage(boxes, StatedSize(listed.width, listed.height), are_of_fractions)


def match_labels(source_keys: Mapping[str, str], external: Mapping[str, ExternalBoxesRow], *, where: str) -> None:
    """Check that the labels are those of the images, and log how many have no file of boxes and therefore no boxes.

    Args:
        source_keys: Source key of each sample of a shard by key.
        external: Rows of the imported table by key.
        where: Folder or table of the boxes, for messages.

    Raises:
        DataError: None of `ENOUGH` or more images has one, so the names differ.
    """
    without = [source_key for key, source_key in source_keys.items() if key not in external]
    if len(without) == len(source_keys) >= ENOUGH:
        raise DataError(
            f"{where}: names none of the {len(without)} images of this shard; the first is {without[0]}. Names of labels and images"
            " must be equal but for the suffix and leading folders. An image without objects may have an empty label."
        )
    if without:
        log.warning(
            "%d of %d images have no label in %s, such as %s", len(without), len(source_keys), where, without[0]
        )


def require_pixels_of_shard(
    samples: Iterable[tuple[FilterRow, SourceRow]],
    config: GivenBoxes,
    external: Mapping[str, ExternalBoxesRow],
    *,
    where: str,
) -> None:
    """Check that the boxes of a shard are in pixels of its stored images, before any is decoded.

    Images of another size than stated are dropped later and do not count here.

    Args:
        samples: Filter row and source row of each sample.
        config: Engine. Its limits have no influence.
        external: Rows of the imported table by the keys of samples, for engine boxes_json.
        where: Table or file of the boxes, for messages.

    Raises:
        ConfigError: The source has no boxes.
        DataError: The boxes are fractions, or too many extend beyond the border of their image.
    """

    def images() -> Iterator[FramedBoxes]:
        for header, source in samples:
            given = boxes_of(source, config, external, width=header.width, height=header.height)
            if given is not None and not given.size.is_other_than(header.width, header.height):
                stored = StatedSize(header.width, header.height)
                yield FramedBoxes(source.source_key, [one.box for one in given.boxes], stored)

    require_pixels(images(), where=where)


def _warn_of_unlisted(source_keys: Mapping[str, str], external: Mapping[str, ExternalBoxesRow], *, where: str) -> None:
    unlisted = [source_key for key, source_key in source_keys.items() if key not in external]
    if unlisted:
        log.warning(
            "%s: %d of %d images are not listed and are dropped, such as %s",
            where,
            len(unlisted),
            len(source_keys),
            unlisted[0],
        )


def require_boxes_of_shard(
    samples: Sequence[tuple[FilterRow, SourceRow]],
    config: GivenBoxes,
    external: Mapping[str, ExternalBoxesRow],
    *,
    where: str,
) -> None:
    """Check the boxes of a shard as a whole, before any image is decoded: their files, and that they are in pixels.

    Args:
        samples: Filter row and source row of each sample.
        config: Engine.
        external: Rows of the imported table by the keys of samples, for engines boxes_json and boxes_files.
        where: Table or file of the boxes, for messages.

    Raises:
        ConfigError: The source has no boxes.
        DataError: Boxes are fractions or beyond the border, no image has a file of boxes, or two images have the same.
    """
    source_keys = {source.key: source.source_key for _, source in samples}
    require_one_image_each(source_keys, external, where=where)
    if isinstance(config, BoxesFilesDetect):
        match_labels(source_keys, external, where=where)
    elif isinstance(config, BoxesJsonDetect):
        _warn_of_unlisted(source_keys, external, where=where)
    require_pixels_of_shard(samples, config, external, where=where)


def given_rows(
    samples: Iterable[StoredSample],
    config: GivenBoxes,
    external: Mapping[str, ExternalBoxesRow],
    left_out: Counter[str],
) -> Iterator[DetectRow]:
    """Yield a row for each sample with the boxes of its data set or of a JSON.

    Args:
        samples: Samples; under engine annotations their source rows hold boxes in pixels.
        config: Engine, and limits of side lengths and number.
        external: Rows of the imported table by the keys of samples, for engines boxes_json and boxes_files.
        left_out: The numbers of boxes that are left out, by reason, are added to it.

    Yields:
        Rows in the order of the samples.

    Raises:
        ConfigError: The source has no boxes.
        DataError: A box has an edge that is not finite.
    """
    for source, row, turned in samples:
        given = boxes_of(source, config, external, width=row.width, height=row.height)
        reason, regions = row.reason or _mismatch(row, given, turned=turned), list[Region]()
        if given and not reason:
            try:
                regions, rejected = given_regions(given.boxes, width=row.width, height=row.height, config=config)
            except DataError as error:
                raise DataError(f"sample {source.key} ({source.source_key}): {error}") from None
            left_out.update(rejected)
        yield replace(row, kept=reason is None, reason=reason, regions=regions)


def _mismatch(row: DetectRow, given: GivenImage | None, *, turned: bool) -> str | None:
    if given is None:
        return "not-listed"
    if given.are_of_fractions and given.boxes and turned:
        return "turned"
    return "other-size" if given.size.is_other_than(row.width, row.height) else None

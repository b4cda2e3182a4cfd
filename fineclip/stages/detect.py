"""Find regions in the kept images of one shard: by a detector, or boxes that the data set brought along or a JSON gives.

The first stage that decodes. It drops

    undecodable      the header was fine, but the pixels cannot be read
    size-mismatch    the pixels are of another size than the header said
    not-listed       the JSON of boxes does not list the image
    other-size       it lists the image with another size, so that its boxes are in other pixels

An image in which nothing is found is kept, without regions: it trains what looks at whole images. Boxes are given in
pixels of the stored image, in hundredths, clipped to it.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from tqdm import tqdm

from fineclip.config import AnnotationsDetect, BoxesJsonDetect, DetectConfig, YoloDetect
from fineclip.errors import ConfigError, DataError
from fineclip.models.batches import batches
from fineclip.shards import (
    ByteRangeReader,
    DetectRow,
    FilterRow,
    Job,
    SourceRow,
    TableWriter,
    input_manifest,
    kept_rows,
)
from fineclip.shards.images import UndecodableImage, decode
from fineclip.stages.boxes import fault, stored
from fineclip.stages.given.captions import GivenBox
from fineclip.stages.given.tables import GivenBoxesRow, given_at, rows_for
from fineclip.stages.upstream import content_of, kept_by_key, row_of
from fineclip.stages.weights import weights_at
from fineclip.types import Box, Region

if TYPE_CHECKING:
    from fineclip.models.detector import Detector

log = logging.getLogger(__name__)

VERSION = 1  # of the rows this file writes: a change of it makes them again


@dataclass(frozen=True)
class Picture:
    """A decoded sample: `image` in RGB, or the `reason` why there is none. Width and height are the header's."""

    source: SourceRow
    width: int
    height: int
    image: Image.Image | None = None
    reason: str | None = None


def pictures(samples: Iterable[tuple[FilterRow, SourceRow]], reader: ByteRangeReader) -> Iterator[Picture]:
    """Each sample's pixels, decoded when they are asked for.

    Raises:
        ShardError: a file is gone or cut.
    """
    for header, source in samples:
        try:
            image = decode(content_of(source, reader))
        except UndecodableImage as error:
            log.info("sample %s is dropped: %s", source.key, error)
            yield Picture(source, header.width, header.height, reason="undecodable")
            continue
        same = image.size == (header.width, header.height)
        reason = None if same else "size-mismatch"
        yield Picture(source, header.width, header.height, image if same else None, reason)


def annotated_regions(
    annotations: Sequence[dict[str, Any]], *, width: int, height: int, config: AnnotationsDetect
) -> tuple[list[Region], Counter[str]]:
    """The boxes of an image, largest first, and how many were left out for which reason.

    Args:
        annotations: x1, y1, x2, y2 in pixels, and label.
        width: of the image.
        height: of the image.
        config: limits of side and number.

    Raises:
        DataError: an edge is no finite number.
    """
    regions, left_out = [], Counter[str]()
    for one in annotations:
        box = Box(*(one[edge] for edge in Box._fields))
        if not all(map(math.isfinite, box)):
            raise DataError(f"a box of {one['label']!r} has edges {tuple(box)}; expected finite numbers")
        box = stored(box, width=width, height=height)
        if why := fault(box, min_side_px=config.min_side_px):
            left_out[why] += 1
        else:
            regions.append(Region(box, 1.0, one["label"]))
    regions.sort(key=lambda region: (-region.box.width * region.box.height, region.box, region.label))
    return _first(regions, config.max_regions, left_out), left_out


def given_regions(
    boxes: GivenBoxesRow, *, width: int, height: int, config: BoxesJsonDetect
) -> tuple[list[Region], Counter[str]]:
    """The boxes that a JSON gives of an image, in its order, and how many were left out for which reason."""
    regions, left_out = [], Counter[str]()
    for one in boxes.regions:
        given = GivenBox(*(one[name] for name in GivenBox._fields))
        box = stored(given.corners(), width=width, height=height)
        if why := fault(box, min_side_px=config.min_side_px, max_side_px=config.max_side_px):
            left_out[why] += 1
        else:
            regions.append(Region(box, one["score"], one["label"]))
    return _first(regions, config.max_regions, left_out), left_out


def _first(regions: list[Region], most: int | None, left_out: Counter[str]) -> list[Region]:
    if most is not None and len(regions) > most:
        left_out[f"more than {most} in their image"] += len(regions) - most
    return regions[:most]


def annotated_rows(shown: Iterable[Picture], config: AnnotationsDetect) -> Iterator[DetectRow]:
    """A row for each picture, with the data set's own boxes.

    Raises:
        ConfigError: the source has no boxes.
        DataError: a box makes no sense.
    """
    left_out = Counter[str]()
    for picture in shown:
        if picture.source.annotations is None:
            raise ConfigError(
                f"sample {picture.source.key}: its source has no boxes of its own, and detect engine annotations takes"
                " nothing else. Use an entry of engine yolo, or for kind coco set source.instances."
            )
        try:
            regions, without = annotated_regions(
                picture.source.annotations, width=picture.width, height=picture.height, config=config
            )
        except DataError as error:
            raise DataError(f"sample {picture.source.key} ({picture.source.source_key}): {error}") from None
        left_out.update(without)
        yield _row(picture, regions)
    _log_left_out(left_out)


def given_rows(
    shown: Iterable[Picture], boxes: Mapping[str, GivenBoxesRow], config: BoxesJsonDetect
) -> Iterator[DetectRow]:
    """A row for each picture, with the boxes that a JSON gives of it, by key."""
    left_out = Counter[str]()
    for picture in shown:
        of_image = boxes.get(picture.source.key)
        reason = picture.reason or _unlike(picture, of_image)
        if reason or of_image is None:
            yield _row(replace(picture, reason=reason), ())
            continue
        regions, without = given_regions(of_image, width=picture.width, height=picture.height, config=config)
        left_out.update(without)
        yield _row(picture, regions)
    _log_left_out(left_out)


def _unlike(picture: Picture, boxes: GivenBoxesRow | None) -> str | None:
    if boxes is None:
        return "not-listed"
    sides = ((boxes.width, picture.width), (boxes.height, picture.height))
    return "other-size" if any(told not in (None, found) for told, found in sides) else None


def _log_left_out(left_out: Mapping[str, int]) -> None:
    for what, count in sorted(left_out.items()):
        log.info("%d boxes left out: %s", count, what)


def detected_rows(shown: Iterable[Picture], detector: "Detector", *, batch_size: int) -> Iterator[DetectRow]:
    """A row for each picture, with what a detector finds in it; no more than a batch of pictures is held at once."""
    for batch in batches(shown, batch_size):
        found = iter(detector.find([picture.image for picture in batch if picture.image is not None]))
        for picture in batch:
            yield _row(picture, () if picture.image is None else next(found))


def detect_shard(
    kept: Path,
    manifest: Path,
    config: DetectConfig,
    *,
    weights: Path | None = None,
    given: Path | None = None,
    batch_size: int,
    device: str,
) -> None:
    """Write the table of one shard, a row for each image that the filter kept, and then its `manifest`.

    Args:
        kept: manifest of the filter.
        manifest: what is written last; its table lies beside it.
        config: engine and limits.
        weights: manifest of the detector's weights, for engine yolo.
        given: manifest of the boxes that a JSON gives, for engine boxes_json.
        batch_size: images that the detector sees at once.
        device: auto, cpu, cuda or mps.

    Raises:
        ConfigError: the engine cannot work with this source, is not installed, or lacks an input.
        CheckpointError: the weights cannot be trusted or used.
        DataError: a box of the data set makes no sense, or a sample could be several images of the JSON.
        ShardError: a table or a file of images is gone or changed. Nothing is written then.
    """
    match config:
        case YoloDetect():
            inputs = [kept, _needed(weights)]
        case BoxesJsonDetect():
            inputs = [kept, given_at(given, config)]
        case AnnotationsDetect():
            inputs = [kept]
    job = Job(manifest, stage="detect", version=VERSION, config=config, inputs=inputs)
    if job.is_done():
        return
    samples = _samples(kept)
    with ByteRangeReader() as reader, TableWriter(job, DetectRow) as table:
        bar = tqdm(samples, desc=f"detect {manifest.stem}", unit="image", disable=None)  # shown on a terminal
        shown = pictures(bar, reader)
        rows: Iterable[DetectRow] = ()
        match config:
            case AnnotationsDetect():
                rows = annotated_rows(shown, config)
            case BoxesJsonDetect():
                source_keys = {source.key: source.source_key for _, source in samples}
                rows = given_rows(shown, rows_for(inputs[1], GivenBoxesRow, source_keys), config)
            case YoloDetect() if samples:
                detector = _detector(config, inputs[1], batch_size=batch_size, device=device)
                rows = detected_rows(shown, detector, batch_size=batch_size)
        for row in rows:
            table.write(row)
    found = [len(row.regions) for row in table.rows if row.kept]
    log.info("%d regions in %d images; %d of the images have none", sum(found), len(found), found.count(0))


def _needed(weights: Path | None) -> Path:
    if weights is None:
        raise ConfigError("engine yolo needs the weights of its detector. Name their manifest: --weights FILE")
    return weights


def _detector(config: YoloDetect, weights: Path, *, batch_size: int, device: str) -> "Detector":
    path = weights_at(weights, config.weights)
    try:
        from fineclip.models.detector import UltralyticsDetector
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"engine yolo needs {error.name}, which is not installed: pip install 'fineclip[detect]'"
        ) from None
    log.info("looking for regions with %s, images on squares of %d px", path.name, config.image_size)
    return UltralyticsDetector(path, config, device=device, batch_size=batch_size, name=weights.stem)


def _samples(kept: Path) -> list[tuple[FilterRow, SourceRow]]:
    """What the filter kept, each with where its bytes lie."""
    source = input_manifest(kept, "source")
    sources = kept_by_key(source, SourceRow)
    return [(row, row_of(row.key, sources, source)) for row in kept_rows(kept, FilterRow)]


def _row(picture: Picture, regions: Sequence[Region]) -> DetectRow:
    return DetectRow(
        key=picture.source.key,
        kept=picture.reason is None,
        reason=picture.reason,
        width=picture.width,
        height=picture.height,
        regions=[
            {**region.box._asdict(), "score": region.score, "label": region.label}
            for region in (() if picture.reason else regions)
        ],
    )

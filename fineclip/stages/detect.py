"""Stage `detect`: find regions in the kept images of one shard, by a detector or from boxes of the data set or of a JSON.

This is the first stage that decodes images. An image without regions is kept; it enters only the loss terms of whole images. Boxes
are in pixels of the stored image, clipped to it and rounded to hundredths.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from tqdm import tqdm

from fineclip.boxes import clip_and_round, from_xywh, rejection_reason
from fineclip.config import AnnotationsDetect, BoxesJsonDetect, DetectConfig, YoloDetect
from fineclip.errors import ConfigError, DataError
from fineclip.models.batches import batches
from fineclip.shards import ByteRangeReader, DetectRow, FilterRow, SourceRow, input_manifest, kept_rows
from fineclip.shards.images import UndecodableImage, decode
from fineclip.stages.declaration import Input, Stage, stage
from fineclip.stages.external.annotation_tables import ExternalBoxesRow, annotations_at, annotations_input, rows_for
from fineclip.stages.upstream import content_of, kept_by_key, row_of
from fineclip.stages.weights import weights_at
from fineclip.types import LabeledBox, Region

if TYPE_CHECKING:
    from fineclip.models.detector import Detector

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DecodedSample:
    """A sample with its image in RGB, or the reason why it has none. Width and height are those of the header."""

    source: SourceRow
    width: int
    height: int
    image: Image.Image | None = None
    reason: str | None = None


def decode_samples(samples: Iterable[tuple[FilterRow, SourceRow]], reader: ByteRangeReader) -> Iterator[DecodedSample]:
    """Decode each sample lazily.

    Args:
        samples: Filter row and source row of each sample.
        reader: Reader of the files that the source rows name.

    Yields:
        The samples in order; one that cannot be decoded has a reason and no image.

    Raises:
        ShardError: A file is absent or truncated.
    """
    for header, source in samples:
        try:
            image = decode(content_of(source, reader))
        except UndecodableImage as error:
            log.info("sample %s is dropped: %s", source.key, error)
            yield DecodedSample(source, header.width, header.height, reason="undecodable")
            continue
        same = image.size == (header.width, header.height)
        reason = None if same else "size-mismatch"
        yield DecodedSample(source, header.width, header.height, image if same else None, reason)


def annotated_regions(
    annotations: Sequence[LabeledBox], *, width: int, height: int, config: AnnotationsDetect
) -> tuple[list[Region], Counter[str]]:
    """Return the regions of an image from boxes of its data set, largest first, and counts of rejected boxes by reason.

    Args:
        annotations: Boxes in pixels.
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        config: Limits of side length and number.

    Returns:
        At most `max_regions` regions with score 1, and counts of the others.

    Raises:
        DataError: An edge is not finite.
    """
    regions, left_out = [], Counter[str]()
    for one in annotations:
        if not all(map(math.isfinite, one.box)):
            raise DataError(f"a box of {one.label!r} has edges {tuple(one.box)}; expected finite numbers")
        box = clip_and_round(one.box, width, height)
        if why := rejection_reason(box, min_side_px=config.min_side_px):
            left_out[why] += 1
        else:
            regions.append(Region(box, 1.0, one.label))
    regions.sort(key=lambda region: (-region.box.width * region.box.height, region.box, region.label))
    return _first(regions, config.max_regions, left_out), left_out


def external_regions(
    boxes: ExternalBoxesRow, *, width: int, height: int, config: BoxesJsonDetect
) -> tuple[list[Region], Counter[str]]:
    """Return the regions of an image from a released JSON.

    Args:
        boxes: Row of the image in the table of the JSON; boxes as x, y, width, height in pixels.
        width: Width of the stored image in pixels.
        height: Height of the stored image in pixels.
        config: Limits of the sides.

    Returns:
        Regions in file order, clipped and rounded, and the number of rejected boxes by reason.
    """
    regions, left_out = [], Counter[str]()
    for one in boxes.regions:
        box = clip_and_round(from_xywh(*one[:4]), width, height)
        if why := rejection_reason(box, min_side_px=config.min_side_px, max_side_px=config.max_side_px):
            left_out[why] += 1
        else:
            regions.append(Region(box, one.score, one.label))
    return _first(regions, config.max_regions, left_out), left_out


def _first(regions: list[Region], most: int | None, left_out: Counter[str]) -> list[Region]:
    if most is not None and len(regions) > most:
        left_out[f"more than {most} in their image"] += len(regions) - most
    return regions[:most]


def annotated_rows(shown: Iterable[DecodedSample], config: AnnotationsDetect) -> Iterator[DetectRow]:
    """Yield a row for each sample with the boxes of its data set.

    Args:
        shown: Samples whose source rows hold boxes in pixels.
        config: Limits of side length and number.

    Yields:
        Rows in the order of the samples.

    Raises:
        ConfigError: The source has no boxes.
        DataError: A box has an edge that is not finite.
    """
    left_out = Counter[str]()
    for sample in shown:
        if sample.source.annotations is None:
            raise ConfigError(
                f"sample {sample.source.key}: its source has no boxes of its own, and detect engine annotations needs them."
                " Use an entry of engine yolo, or for kind coco set source.instances."
            )
        try:
            regions, without = annotated_regions(
                sample.source.annotations, width=sample.width, height=sample.height, config=config
            )
        except DataError as error:
            raise DataError(f"sample {sample.source.key} ({sample.source.source_key}): {error}") from None
        left_out.update(without)
        yield _row(sample, regions)
    _log_left_out(left_out)


def external_rows(
    shown: Iterable[DecodedSample], boxes: Mapping[str, ExternalBoxesRow], config: BoxesJsonDetect
) -> Iterator[DetectRow]:
    """Yield a row for each sample with the boxes of a JSON; `boxes` maps keys of samples to rows of the imported table."""
    left_out = Counter[str]()
    for sample in shown:
        of_image = boxes.get(sample.source.key)
        reason = sample.reason or _unlike(sample, of_image)
        if reason or of_image is None:
            yield _row(replace(sample, reason=reason), ())
            continue
        regions, without = external_regions(of_image, width=sample.width, height=sample.height, config=config)
        left_out.update(without)
        yield _row(sample, regions)
    _log_left_out(left_out)


def _unlike(sample: DecodedSample, boxes: ExternalBoxesRow | None) -> str | None:
    if boxes is None:
        return "not-listed"
    sides = ((boxes.width, sample.width), (boxes.height, sample.height))
    return "other-size" if any(stated not in (None, actual) for stated, actual in sides) else None


def _log_left_out(left_out: Mapping[str, int]) -> None:
    for reason, count in sorted(left_out.items()):
        log.info("%d boxes left out: %s", count, reason)


def detected_rows(shown: Iterable[DecodedSample], detector: "Detector", *, batch_size: int) -> Iterator[DetectRow]:
    """Yield a row for each sample with the regions that a detector finds. At most one batch of images is in memory."""
    for batch in batches(shown, batch_size):
        found = iter(detector.find([sample.image for sample in batch if sample.image is not None]))
        for sample in batch:
            yield _row(sample, () if sample.image is None else next(found))


DETECT = Stage(
    name="detect",
    version=1,
    help="find regions in the kept images of a shard",
    config=DetectConfig,
    section="detect.{regions}",
    inputs={
        "kept": Input(stage="filter", reads=(FilterRow, SourceRow), help="manifest of `filter`"),
        "weights": Input(stage="weights", help="manifest of `weights`, for engine yolo", required=False),
        "annotations": annotations_input(ExternalBoxesRow, engine="boxes_json"),
    },
    row=DetectRow,
    reasons={
        "undecodable": "the header was read, but the pixels cannot be decoded",
        "size-mismatch": "the pixels have another size than the header states",
        "not-listed": "the JSON of boxes does not list the image",
        "other-size": "the JSON of boxes lists the image with another size",
    },
    batch_size=16,
)


@stage(DETECT)
def detect_shard(
    kept: Path,
    manifest: Path,
    config: DetectConfig,
    *,
    weights: Path | None = None,
    annotations: Path | None = None,
    batch_size: int,
    device: str,
) -> None:
    """Write the table of one shard, one row per image that the filter kept, and then its manifest.

    Args:
        kept: Manifest of `filter`.
        manifest: Path of the manifest to write; the table is written beside it.
        config: Engine and its limits.
        weights: Manifest of the weights of the detector, for engine yolo.
        annotations: Manifest of `import-annotations`, for engine boxes_json.
        batch_size: Images per batch of the detector.
        device: auto, cpu, cuda or mps.

    Raises:
        ConfigError: The engine does not support this source, is not installed, or lacks an input.
        CheckpointError: The weights cannot be verified or loaded.
        DataError: A box is invalid, or the name of a sample matches several images of the JSON.
        ShardError: A table or an image file is absent or changed. Nothing is written then.
    """
    match config:
        case YoloDetect():
            inputs = [kept, _needed(weights)]
        case BoxesJsonDetect():
            inputs = [kept, annotations_at(annotations, config)]
        case AnnotationsDetect():
            inputs = [kept]
    job = DETECT.job(manifest, config, inputs)
    if job.is_up_to_date():
        return
    samples = _samples(kept)
    with ByteRangeReader() as reader, DETECT.table(job) as table:
        bar = tqdm(samples, desc=f"detect {manifest.stem}", unit="image", disable=None)  # shown on a terminal
        shown = decode_samples(bar, reader)
        rows: Iterable[DetectRow] = ()
        match config:
            case AnnotationsDetect():
                rows = annotated_rows(shown, config)
            case BoxesJsonDetect():
                source_keys = {source.key: source.source_key for _, source in samples}
                rows = external_rows(shown, rows_for(inputs[1], ExternalBoxesRow, source_keys), config)
            case YoloDetect() if samples:
                detector = _detector(config, inputs[1], batch_size=batch_size, device=device)
                rows = detected_rows(shown, detector, batch_size=batch_size)
        for row in rows:
            table.write(row)
    found = [len(row.regions) for row in table.rows if row.kept]
    log.info("%d regions in %d images; %d of the images have none", sum(found), len(found), found.count(0))


def _needed(weights: Path | None) -> Path:
    if weights is None:
        raise ConfigError("engine yolo needs the weights of its detector. Pass their manifest: --weights FILE")
    return weights


def _detector(config: YoloDetect, weights: Path, *, batch_size: int, device: str) -> "Detector":
    path = weights_at(weights, config.weights)
    try:
        from fineclip.models.detector import UltralyticsDetector
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"engine yolo needs {error.name}, which is not installed: pip install 'fineclip[detect]'"
        ) from None
    log.info("detecting regions with %s, images on squares of %d px", path.name, config.image_size)
    return UltralyticsDetector(path, config, device=device, batch_size=batch_size, name=weights.stem)


def _samples(kept: Path) -> list[tuple[FilterRow, SourceRow]]:
    """Return the kept filter rows, each with its source row."""
    source = input_manifest(kept, "source")
    sources = kept_by_key(source, SourceRow)
    return [(row, row_of(row.key, sources, source)) for row in kept_rows(kept, FilterRow)]


def _row(sample: DecodedSample, regions: Sequence[Region]) -> DetectRow:
    return DetectRow(
        key=sample.source.key,
        kept=sample.reason is None,
        reason=sample.reason,
        width=sample.width,
        height=sample.height,
        regions=[] if sample.reason else list(regions),
    )

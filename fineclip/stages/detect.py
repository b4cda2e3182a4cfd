"""Stage `detect`: find regions in the kept images of one shard, by a detector or from boxes of the data set, of a JSON or of own files.

This is the first stage that decodes images. An image without regions is kept; it enters only the loss terms of whole images. Boxes
are in pixels of the stored image, clipped to it and rounded to hundredths.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image
from tqdm import tqdm

from fineclip.config import AnnotationsDetect, BoxesFilesDetect, BoxesJsonDetect, DetectConfig, YoloDetect
from fineclip.errors import ConfigError
from fineclip.models.batches import batches
from fineclip.shards import ByteRangeReader, DetectRow, FilterRow, SourceRow, input_manifest, kept_rows
from fineclip.shards.images import UndecodableImage, decode, is_turned
from fineclip.stages.declaration import Input, Stage, stage
from fineclip.stages.external.annotation_tables import (
    ExternalBoxesRow,
    OwnBoxesRow,
    annotations_input,
    engine_inputs,
    rows_for,
)
from fineclip.stages.given_boxes import StoredSample, given_rows, require_boxes_of_shard
from fineclip.stages.upstream import KeptRows, content_of
from fineclip.stages.weights import weights_at

if TYPE_CHECKING:
    from fineclip.models.detector import Detector

log = logging.getLogger(__name__)


class DecodedSample(NamedTuple):
    """A sample: source row, row without regions, image in RGB or None for a dropped sample, and whether EXIF turns the image."""

    source: SourceRow
    row: DetectRow
    image: Image.Image | None
    turned: bool = False


def decode_samples(samples: Iterable[tuple[FilterRow, SourceRow]], reader: ByteRangeReader) -> Iterator[DecodedSample]:
    """Decode each sample lazily.

    Args:
        samples: Filter row and source row of each sample.
        reader: Reader of the files that the source rows name.

    Yields:
        The samples in order; one that cannot be decoded, or has another size than its header states, is dropped.

    Raises:
        ShardError: A file is absent or truncated.
    """
    for header, source in samples:
        width, height, image, reason = header.width, header.height, None, None
        try:
            image = decode(content_of(source, reader))
        except UndecodableImage as error:
            log.info("sample %s is dropped: %s", source.key, error)
            reason = "undecodable"
        if image is not None and image.size != (width, height):
            image, reason = None, "size-mismatch"
        row = DetectRow(key=source.key, kept=not reason, reason=reason, width=width, height=height, regions=[])
        yield DecodedSample(source, row, image, turned=image is not None and is_turned(image))


def stored(sample: DecodedSample) -> StoredSample:
    """Return what `given_rows` needs of a decoded sample."""
    return StoredSample(sample.source, sample.row, sample.turned)


def detected_rows(shown: Iterable[DecodedSample], detector: "Detector", *, batch_size: int) -> Iterator[DetectRow]:
    """Yield a row for each sample with the regions that a detector finds. At most one batch of images is in memory.

    Args:
        shown: Samples of a shard; the image is None if it cannot be decoded.
        detector: Finds the regions of a list of images.
        batch_size: Images at once.

    Yields:
        Rows in the order of the samples.
    """
    for batch in batches(shown, batch_size):
        found = iter(detector.find([one.image for one in batch if one.image is not None]))
        for _, row, image, _ in batch:
            yield row if image is None else replace(row, regions=list(next(found)))


DETECT = Stage(
    name="detect",
    version=2,
    help="find regions in the kept images of a shard",
    config=DetectConfig,
    section="detect.{regions}",
    inputs={
        "kept": Input(stage="filter", reads=(FilterRow, SourceRow)),
        "weights": Input(stage="weights", note="for engine yolo", required=False),
        "annotations": annotations_input(ExternalBoxesRow, engine="boxes_json or boxes_files"),
    },
    row=DetectRow,
    reasons={
        "undecodable": "the header was read, but the pixels cannot be decoded",
        "size-mismatch": "the pixels have another size than the header states",
        "not-listed": "the JSON of boxes does not list the image",
        "other-size": "the boxes refer to an image of another size: it was resized or turned since",
        "turned": "EXIF turns the image, and its boxes are fractions, which do not tell whether of the stored or the shown image",
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
        annotations: Manifest of `import-annotations`, for engines boxes_json and boxes_files.
        batch_size: Images per batch of the detector.
        device: auto, cpu, cuda or mps.

    Raises:
        ConfigError: The engine does not support this source, is not installed, or lacks an input.
        CheckpointError: The weights cannot be verified or loaded.
        DataError: A box is invalid, boxes are not in pixels of the images, or the name of a sample matches several images of the JSON.
        ShardError: A table or an image file is absent or changed. Nothing is written then.
    """
    inputs = engine_inputs(kept, config, weights=weights, annotations=annotations)

    def rows() -> list[DetectRow]:
        sources = KeptRows(input_manifest(kept, "source"), SourceRow)
        samples = [(row, sources[row.key]) for row in kept_rows(kept, FilterRow)]
        bar = tqdm(samples, desc=f"detect {manifest.stem}", unit="image", disable=None)  # shown on a terminal
        found: Iterable[DetectRow] = ()
        left_out = Counter[str]()
        with ByteRangeReader() as reader:
            shown = decode_samples(bar, reader)
            match config:
                case AnnotationsDetect():
                    require_boxes_of_shard(samples, config, {}, where=str(input_manifest(kept, "source")))
                    found = given_rows(map(stored, shown), config, {}, left_out)
                case BoxesJsonDetect() | BoxesFilesDetect():
                    source_keys = {source.key: source.source_key for _, source in samples}
                    row_type = ExternalBoxesRow if isinstance(config, BoxesJsonDetect) else OwnBoxesRow
                    external = rows_for(inputs[1], row_type, source_keys)
                    require_boxes_of_shard(samples, config, external, where=config.path)
                    found = given_rows(map(stored, shown), config, external, left_out)
                case YoloDetect() if samples:
                    detector = _detector(config, inputs[1], batch_size=batch_size, device=device)
                    found = detected_rows(shown, detector, batch_size=batch_size)
            rows = list(found)
        for why, count in sorted(left_out.items()):
            log.info("%d boxes left out: %s", count, why)
        regions = [len(row.regions) for row in rows if row.kept]
        log.info("%d regions in %d images; %d of the images have none", sum(regions), len(regions), regions.count(0))
        return rows

    DETECT.write_table(manifest, config, inputs, rows)


def _detector(config: YoloDetect, weights: Path, *, batch_size: int, device: str) -> "Detector":
    path = weights_at(weights, config.weights)
    try:
        from fineclip.models.detector import UltralyticsDetector
    except ModuleNotFoundError as error:
        raise ConfigError(f"engine yolo needs {error.name}. Install it: pip install 'fineclip[detect]'") from None
    log.info("detecting regions with %s, images on squares of %d px", path.name, config.image_size)
    return UltralyticsDetector(path, config, device=device, batch_size=batch_size, name=weights.stem)

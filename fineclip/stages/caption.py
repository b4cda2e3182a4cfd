"""Write a caption for every region of one shard: by a captioner that looks at its crop, from its label, or from a JSON.

No sample is dropped. A region may stay without a caption, and then has no partner in a regional contrast; the manifest
counts such regions as `uncaptioned`, for one of the reasons

    empty          the captioner says nothing of it, or it has no label for the template
    missing-key    the JSON of captions has no key of it
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from PIL import Image
from tqdm import tqdm

from fineclip.config import Blip2Caption, CaptionConfig, CaptionsJsonCaption, TemplateCaption
from fineclip.errors import ConfigError, ShardError
from fineclip.models.batches import batches
from fineclip.models.captioner import Captioner, RegionCaption, TemplateCaptioner, region_view
from fineclip.shards import ByteRangeReader, CaptionRow, DetectRow, Job, SourceRow, TableWriter, kept_rows
from fineclip.shards.images import UndecodableImage, decode
from fineclip.stages.given.captions import looked_up
from fineclip.stages.given.tables import given_at
from fineclip.stages.upstream import chain, content_of, kept_by_key, row_of
from fineclip.stages.weights import weights_at
from fineclip.types import Box

log = logging.getLogger(__name__)

VERSION = 2  # of the rows this file writes: a change of it makes them again

T = TypeVar("T")


def described(regions: Iterable[T], captioner: Captioner[T], *, batch_size: int) -> Iterator[RegionCaption]:
    """A caption for each region, in order; regions of several images fill a batch, and are taken when it needs them."""
    return (caption for batch in batches(regions, batch_size) for caption in captioner.describe(batch))


def captioned_rows(rows: Iterable[DetectRow], captions: Iterator[RegionCaption]) -> Iterator[CaptionRow]:
    """A row for each image, from the captions of all regions of all images, in order."""
    for row in rows:
        yield CaptionRow(key=row.key, kept=True, regions=[next(captions)._asdict() for _ in row.regions])


def crops(rows: Iterable[DetectRow], detected: Path, config: Blip2Caption) -> Iterator[Image.Image]:
    """What the captioner sees of each region, in order; one image is held at a time.

    Raises:
        ShardError: an image is gone, or not the one that it was when its regions were found.
    """
    source = chain(detected)["source"]
    sources = kept_by_key(source, SourceRow)
    with ByteRangeReader() as reader:
        for row in rows:
            if not row.regions:
                continue
            place = row_of(row.key, sources, source)
            image = _same_image(row, place, reader)
            for region in row.regions:
                yield region_view(image, Box(*(region[edge] for edge in Box._fields)), config)


def _same_image(row: DetectRow, place: SourceRow, reader: ByteRangeReader) -> Image.Image:
    try:
        image = decode(content_of(place, reader))
    except UndecodableImage as error:
        found = str(error)
    else:
        if image.size == (row.width, row.height):
            return image
        found = f"is of {image.width} x {image.height} px"
    raise ShardError(
        f"{place.file}: sample {row.key} {found}, but was an image of {row.width} x {row.height} px when its regions were"
        " found. Bring the old file back, or make the source stage again."
    )


def caption_shard(
    detected: Path,
    manifest: Path,
    config: CaptionConfig,
    *,
    weights: Path | None = None,
    given: Path | None = None,
    batch_size: int,
    device: str,
) -> None:
    """Write the table of one shard, a row for each image that detect kept, and then its `manifest`.

    Args:
        detected: manifest of detect.
        manifest: what is written last; its table lies beside it.
        config: engine and how it is asked.
        weights: manifest of the captioner's weights, for engine blip2.
        given: manifest of the captions that a JSON gives, for engine captions_json.
        batch_size: regions that the captioner sees at once.
        device: auto, cpu, cuda or mps.

    Raises:
        ConfigError: the engine is not installed, or lacks an input.
        CheckpointError: the weights cannot be used.
        DataError: a sample could be several images of the JSON.
        ShardError: a table or an image is gone or changed. Nothing is written then.
    """
    match config:
        case Blip2Caption():
            inputs = [detected, _needed(weights)]
        case CaptionsJsonCaption():
            inputs = [detected, given_at(given, config)]
        case TemplateCaption():
            inputs = [detected]
    job = Job(manifest, stage="caption", version=VERSION, config=config, inputs=inputs)
    if job.is_done():
        return
    rows = list(kept_rows(detected, DetectRow))
    with TableWriter(job, CaptionRow) as table:
        for row in _captioned(rows, config, inputs, batch_size=batch_size, device=device):
            table.write(row)
    _log_counts(table.rows)


def _captioned(
    rows: Sequence[DetectRow], config: CaptionConfig, inputs: Sequence[Path], *, batch_size: int, device: str
) -> Iterator[CaptionRow]:
    captions: Iterator[RegionCaption] = iter(())
    count = sum(len(row.regions) for row in rows)
    match config:
        case CaptionsJsonCaption():
            return looked_up(rows, inputs[0], given=inputs[1])
        case TemplateCaption():
            labels = (region["label"] for row in rows for region in row.regions)
            captions = described(labels, TemplateCaptioner(config), batch_size=batch_size)
        case Blip2Caption() if count:
            captioner = _captioner(config, inputs[1], batch_size=batch_size, device=device)
            captions = described(crops(rows, inputs[0], config), captioner, batch_size=batch_size)
    return captioned_rows(rows, iter(tqdm(captions, desc="caption", total=count, unit="region", disable=None)))


def _log_counts(rows: Sequence[CaptionRow]) -> None:
    regions = sum(len(row.regions) for row in rows)
    without = Counter(reason for row in rows for reason in row.uncaptioned)
    counted = ", ".join(f"{count} {reason}" for reason, count in sorted(without.items()))
    log.info("%d regions of %d images; without a caption: %s", regions, len(rows), counted or "none")
    if regions and without["missing-key"] == regions:
        log.warning(
            "no region at all has its key in the JSON: are its captions of these boxes, and of images of this size?"
        )


def _needed(weights: Path | None) -> Path:
    if weights is None:
        raise ConfigError("engine blip2 needs the weights of its captioner. Name their manifest: --weights FILE")
    return weights


def _captioner(config: Blip2Caption, weights: Path, *, batch_size: int, device: str) -> Captioner[Image.Image]:
    folder = weights_at(weights, config.weights)
    try:
        from fineclip.models.captioner.blip2 import Blip2Captioner
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"engine blip2 needs {error.name}, which is not installed: pip install 'fineclip[caption]'"
        ) from None
    log.info("captioning regions with %s, prompt %r, %s", folder.name, config.prompt, config.precision)
    return Blip2Captioner(folder, config, device=device, batch_size=batch_size)

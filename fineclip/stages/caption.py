"""Write a caption for every region of one shard: by a captioner that looks at its crop, or from its label.

No sample is dropped. A captioner may say nothing of a region: its caption is empty then, and `pack` leaves the region
out.
"""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from PIL import Image
from tqdm import tqdm

from fineclip.config import Blip2Caption, CaptionConfig, TemplateCaption
from fineclip.errors import ConfigError, ShardError
from fineclip.models.batches import batches
from fineclip.models.captioner import Captioner, RegionCaption, TemplateCaptioner, region_view
from fineclip.shards import CaptionRow, DetectRow, Job, PieceReader, SourceRow, TableWriter, kept_rows
from fineclip.shards.images import UndecodableImage, decode
from fineclip.stages.upstream import chain, content_of, kept_by_key, row_of
from fineclip.stages.weights import weights_at
from fineclip.types import Box

log = logging.getLogger(__name__)

VERSION = 1  # of the rows this file writes: a change of it makes them again

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
    with PieceReader() as reader:
        for row in rows:
            if not row.regions:
                continue
            place = row_of(row.key, sources, source)
            image = _same_image(row, place, reader)
            for region in row.regions:
                yield region_view(image, Box(*(region[edge] for edge in Box._fields)), config)


def _same_image(row: DetectRow, place: SourceRow, reader: PieceReader) -> Image.Image:
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
    detected: Path, manifest: Path, config: CaptionConfig, *, weights: Path | None, batch_size: int, device: str
) -> None:
    """Write the table of one shard, a row for each image that detect kept, and then its `manifest`.

    Args:
        detected: manifest of detect.
        manifest: what is written last; its table lies beside it.
        config: engine and how it is asked.
        weights: manifest of the captioner's weights, for engine blip2.
        batch_size: regions that the captioner sees at once.
        device: auto, cpu, cuda or mps.

    Raises:
        ConfigError: the engine is not installed, or its weights are not named.
        CheckpointError: the weights cannot be used.
        ShardError: a table or an image is gone or changed. Nothing is written then.
    """
    inputs = [detected, _needed(weights)] if isinstance(config, Blip2Caption) else [detected]
    job = Job(manifest, stage="caption", version=VERSION, config=config, inputs=inputs)
    if job.is_done():
        return
    rows = list(kept_rows(detected, DetectRow))
    count = sum(len(row.regions) for row in rows)
    captions: Iterator[RegionCaption] = iter(())
    if isinstance(config, TemplateCaption):
        labels = (region["label"] for row in rows for region in row.regions)
        captions = described(labels, TemplateCaptioner(config), batch_size=batch_size)
    elif count:
        captioner = _captioner(config, _needed(weights), batch_size=batch_size, device=device)
        captions = described(crops(rows, detected, config), captioner, batch_size=batch_size)
    bar = tqdm(captions, desc=f"caption {manifest.stem}", total=count, unit="region", disable=None)
    with TableWriter(job, CaptionRow) as table:
        for row in captioned_rows(rows, iter(bar)):
            table.write(row)
    silent = sum(not region["caption"] for row in table.rows for region in row.regions)
    log.info("%d regions of %d images captioned; of %d the captioner says nothing", count, len(rows), silent)


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

"""Stage `caption`: write a caption for every region of one shard, by a captioner, from a template, or from a JSON.

No sample is dropped. A region without a caption takes no part in the regional contrastive loss. The manifest counts such
regions as `uncaptioned`, by reason:

    empty          the captioner returned an empty text, or the region has no label for the template
    missing-key    the JSON of captions has no key for the region
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from fineclip.config import Blip2Caption, CaptionConfig, CaptionsJsonCaption, TemplateCaption
from fineclip.errors import ConfigError, ShardError
from fineclip.models.batches import batches
from fineclip.models.captioner import Captioner, TemplateCaptioner, region_crop
from fineclip.shards import ByteRangeReader, CaptionRow, DetectRow, SourceRow, kept_rows
from fineclip.shards.images import UndecodableImage, decode
from fineclip.stages.declaration import Input, Stage, stage
from fineclip.stages.external.annotation_tables import ExternalCaptionsRow, annotations_input, engine_inputs
from fineclip.stages.external.keyed_captions import look_up_captions
from fineclip.stages.upstream import KeptRows, content_of, lineage_of
from fineclip.stages.weights import weights_at
from fineclip.types import RegionCaption

log = logging.getLogger(__name__)


def captions_of_regions(
    rows: Sequence[DetectRow], config: CaptionConfig, inputs: Sequence[Path], *, batch_size: int, device: str
) -> Iterator[RegionCaption]:
    """Yield a caption for each region, in order. Batches are filled across images.

    Args:
        rows: Kept rows of the detect table.
        config: Engine and its settings.
        inputs: Manifest of that table, and the manifest that the engine needs.
        batch_size: Regions per batch of the captioner.
        device: auto, cpu, cuda or mps.

    Yields:
        Captions; None in one that the JSON of captions lacks.
    """
    match config:
        case CaptionsJsonCaption():
            yield from look_up_captions(rows, inputs[0], given=inputs[1])
        case TemplateCaption():
            yield from TemplateCaptioner(config).describe([region.label for row in rows for region in row.regions])
        case Blip2Caption() if any(row.regions for row in rows):
            captioner = _captioner(config, inputs[1], batch_size=batch_size, device=device)
            for batch in batches(crops(rows, inputs[0], config), batch_size):
                yield from captioner.describe(batch)


def crops(rows: Iterable[DetectRow], detected: Path, config: Blip2Caption) -> Iterator[Image.Image]:
    """Yield the crop of each region, in order. One image is in memory at a time.

    Args:
        rows: Rows of the detect table; those without regions are skipped.
        detected: Manifest of that table.
        config: Settings of the crop.

    Yields:
        RGB images, one per region.

    Raises:
        ShardError: An image is absent, or has another size than when its regions were detected.
    """
    sources = KeptRows(lineage_of(detected)["source"], SourceRow)
    with ByteRangeReader() as reader:
        for row in rows:
            if row.regions:
                image = _same_image(row, sources[row.key], reader)
                yield from (region_crop(image, region.box, config) for region in row.regions)


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
        " detected. Restore the old file, or run stage source again."
    )


CAPTION = Stage(
    name="caption",
    version=3,
    help="caption the regions of a shard",
    config=CaptionConfig,
    section="caption.{captions}",
    inputs={
        "detected": Input(stage="detect", reads=(DetectRow, SourceRow)),
        "weights": Input(stage="weights", note="for engine blip2", required=False),
        "annotations": annotations_input(ExternalCaptionsRow, engine="captions_json"),
    },
    row=CaptionRow,
    batch_size=128,
)


@stage(CAPTION)
def caption_shard(
    detected: Path,
    manifest: Path,
    config: CaptionConfig,
    *,
    weights: Path | None = None,
    annotations: Path | None = None,
    batch_size: int,
    device: str,
) -> None:
    """Write the table of one shard, one row per image that `detect` kept, and then its manifest.

    Args:
        detected: Manifest of `detect`.
        manifest: Path of the manifest to write; the table is written beside it.
        config: Engine and its settings.
        weights: Manifest of the weights of the captioner, for engine blip2.
        annotations: Manifest of `import-annotations`, for engine captions_json.
        batch_size: Regions per batch of the captioner.
        device: auto, cpu, cuda or mps.

    Raises:
        ConfigError: The engine is not installed, or lacks an input.
        CheckpointError: The weights cannot be loaded.
        DataError: The name of a sample matches several images of the JSON.
        ShardError: A table or an image is absent or changed. Nothing is written then.
    """
    inputs = engine_inputs(detected, config, weights=weights, annotations=annotations)

    def rows() -> list[CaptionRow]:
        found = list(kept_rows(detected, DetectRow))
        described = captions_of_regions(found, config, inputs, batch_size=batch_size, device=device)
        count = sum(len(row.regions) for row in found)
        captions = iter(tqdm(described, desc="caption", total=count, unit="region", disable=None))
        captioned = [CaptionRow(key=row.key, kept=True, regions=[next(captions) for _ in row.regions]) for row in found]
        _log_counts(captioned)
        return captioned

    CAPTION.write_table(manifest, config, inputs, rows)


def _log_counts(rows: Sequence[CaptionRow]) -> None:
    regions = sum(len(row.regions) for row in rows)
    without = Counter(reason for row in rows for reason in row.uncaptioned)
    counted = ", ".join(f"{count} {reason}" for reason, count in sorted(without.items()))
    log.info("%d regions of %d images; without a caption: %s", regions, len(rows), counted or "none")
    if regions and without["missing-key"] == regions:
        log.warning("no region has its key in the JSON: check that it is of these boxes and of images of this size")


def _captioner(config: Blip2Caption, weights: Path, *, batch_size: int, device: str) -> Captioner[Image.Image]:
    folder = weights_at(weights, config.weights)
    try:
        from fineclip.models.captioner.blip2 import Blip2Captioner
    except ModuleNotFoundError as error:
        raise ConfigError(f"engine blip2 needs {error.name}. Install it: pip install 'fineclip[caption]'") from None
    log.info("captioning regions with %s, prompt %r, %s", folder.name, config.prompt, config.precision)
    return Blip2Captioner(folder, config, device=device, batch_size=batch_size)

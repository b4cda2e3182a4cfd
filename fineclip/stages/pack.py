"""Stage `pack`: write the training shard, a WebDataset tar of images with their captions and regions.

    key.jpg    the original image, byte for byte (.png, .webp, ... for other formats)
    key.txt    its first caption
    key.json   captions that pass the filter, width, height, url, and regions with box, score, label and caption

No sample and no region is dropped. A region without a caption has `"caption": null`; it is used by distillation and not by
the regional contrastive loss. The index beside the tar holds the byte range of each sample.
"""

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from fineclip.config import FilterConfig, PackConfig
from fineclip.errors import ShardError
from fineclip.shards import (
    ByteRangeReader,
    CaptionRow,
    DetectRow,
    FilterRow,
    PackRow,
    SourceRow,
    TarAppender,
    add_sample,
    atomic,
    kept_rows,
)
from fineclip.stages.declaration import Input, Stage, stage
from fineclip.stages.filter import allows_empty_caption, good_captions, limits_of
from fineclip.stages.upstream import KeptRows, content_of, lineage_of
from fineclip.types import Region, Sample

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JoinedRow:
    """Rows of one sample in the tables of `source`, `filter`, `detect` and `caption`."""

    source: SourceRow
    header: FilterRow
    detected: DetectRow
    captioned: CaptionRow


def joined_rows(manifests: dict[str, Path]) -> Iterator[JoinedRow]:
    """Yield the samples that every stage kept, in order.

    Args:
        manifests: Manifest of each stage of the shard.

    Yields:
        Rows of one sample, in the order of the caption table.

    Raises:
        ShardError: The tables are not of the same samples.
    """
    sources = KeptRows(manifests["source"], SourceRow)
    headers = KeptRows(manifests["filter"], FilterRow)
    detected = KeptRows(manifests["detect"], DetectRow)
    for row in kept_rows(manifests["caption"], CaptionRow):
        yield JoinedRow(sources[row.key], headers[row.key], detected[row.key], row)


def regions_of(row: JoinedRow) -> list[Region]:
    """Return the regions of a sample with their captions; an empty caption becomes None.

    Args:
        row: Rows of the sample.

    Returns:
        Regions in the order of the detect table.

    Raises:
        ShardError: The numbers of captions and regions differ.
    """
    boxes, captions = row.detected.regions, row.captioned.regions
    if len(boxes) != len(captions):
        raise ShardError(f"sample {row.source.key} has {len(boxes)} regions but {len(captions)} captions")
    return [replace(region, caption=caption.caption or None) for region, caption in zip(boxes, captions, strict=True)]


PACK = Stage(
    name="pack",
    version=2,
    help="write the training shard: images, captions and regions in one WebDataset tar",
    config=PackConfig,
    inputs={
        "captioned": Input(
            stage="caption", reads=(CaptionRow, DetectRow, FilterRow, SourceRow), help="manifest of `caption`"
        )
    },
    row=PackRow,
)


@stage(PACK)
def pack_shard(captioned: Path, manifest: Path, config: PackConfig) -> None:
    """Write tar and index of one shard, one sample per captioned image, and then its manifest.

    Args:
        captioned: Manifest of `caption`.
        manifest: Path of the manifest to write; tar and index are written beside it.
        config: Section without keys.

    Raises:
        ShardError: A table or an image is absent or changed, or the tables are not of the same samples. Nothing is written
            then.
    """
    tar = manifest.with_suffix(".tar")
    PACK.write_table(manifest, config, [captioned], lambda: packed_rows(lineage_of(captioned), tar), also=(tar,))


def packed_rows(manifests: dict[str, Path], path: Path) -> Iterator[PackRow]:
    """Write the tar of a shard, and yield the row of each sample.

    Args:
        manifests: Manifest of each stage of the shard.
        path: Path of the tar; it is complete after the last row.

    Yields:
        Rows in the order of the caption table.
    """
    limits = limits_of(manifests["filter"])
    samples = regions = uncaptioned = 0
    with atomic(path) as temporary, closing(TarAppender(temporary)) as tar, ByteRangeReader() as reader:
        for row in joined_rows(manifests):
            sample = _sample(row, limits, manifests, reader=reader)
            samples += 1
            regions += len(sample.regions)
            uncaptioned += sum(region.caption is None for region in sample.regions)
            yield add_sample(tar, sample, image_format=row.header.format or "")
    log.info("packed %d samples with %d regions; %d of the regions have no caption", samples, regions, uncaptioned)


def _sample(row: JoinedRow, limits: FilterConfig, manifests: dict[str, Path], *, reader: ByteRangeReader) -> Sample:
    captions = good_captions(row.source.captions, limits)
    if not captions and not allows_empty_caption(row.source.captions, limits):
        raise ShardError(
            f"{manifests['filter'].with_suffix('.parquet')}: keeps sample {row.source.key}, but none of its captions passes"
            f" the filter. Delete {manifests['filter']} and run again."
        )
    try:
        regions = regions_of(row)
    except ShardError as error:
        raise ShardError(
            f"{manifests['caption'].with_suffix('.parquet')}: {error}. Delete its manifest and run again."
        ) from None
    return Sample(
        key=row.source.key,
        image=content_of(row.source, reader),
        width=row.detected.width,
        height=row.detected.height,
        captions=tuple(captions),
        url=row.source.url,
        regions=tuple(regions),
    )

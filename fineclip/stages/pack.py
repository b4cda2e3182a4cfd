"""Stage `pack`: write the training shard, a WebDataset tar of images with their captions and regions.

    key.jpg    the original image, byte for byte (.png, .webp, ... for other formats)
    key.txt    its first caption
    key.json   captions that pass the filter, width, height, url, and regions with box, score, label and caption

No sample and no region is dropped. A region without a caption has `"caption": null`; it is used by distillation and not by
the regional contrastive loss. The index beside the tar holds the byte range of each sample.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from fineclip.config import PackConfig
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
from fineclip.types import Sample

log = logging.getLogger(__name__)


PACK = Stage(
    name="pack",
    version=3,
    help="write the training shard: images, captions and regions in one WebDataset tar",
    config=PackConfig,
    inputs={
        "captioned": Input(stage="caption", reads=(CaptionRow, DetectRow, FilterRow, SourceRow)),
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


def packed_rows(manifests: Mapping[str, Path], path: Path) -> Iterator[PackRow]:
    """Write the tar of a shard with the samples that every stage kept, and yield the row of each.

    Args:
        manifests: Manifest of each stage of the shard.
        path: Path of the tar; it is complete after the last row.

    Yields:
        Rows in the order of the caption table.

    Raises:
        ShardError: The tables are not of the same samples.
    """
    sources = KeptRows(manifests["source"], SourceRow)
    headers = KeptRows(manifests["filter"], FilterRow)
    detected = KeptRows(manifests["detect"], DetectRow)
    limits = limits_of(manifests["filter"])
    samples = regions = uncaptioned = 0
    with atomic(path) as temporary, closing(TarAppender(temporary)) as tar, ByteRangeReader() as reader:
        for row in kept_rows(manifests["caption"], CaptionRow):
            source, boxes = sources[row.key], detected[row.key]
            captions = good_captions(source.captions, limits)
            if not captions and not allows_empty_caption(source.captions, limits):
                raise ShardError(
                    f"{manifests['filter'].with_suffix('.parquet')}: keeps sample {row.key}, but none of its captions passes"
                    " the filter. Delete its manifest and run again."
                )
            if len(boxes.regions) != len(row.regions):
                raise ShardError(
                    f"{manifests['caption'].with_suffix('.parquet')}: sample {row.key} has {len(boxes.regions)} regions but"
                    f" {len(row.regions)} captions. Delete its manifest and run again."
                )
            sample = _sample(source, boxes, row, captions=captions, image=content_of(source, reader))
            samples += 1
            regions += len(sample.regions)
            uncaptioned += sum(region.caption is None for region in sample.regions)
            yield add_sample(tar, sample, image_format=headers[row.key].format or "")
    log.info("packed %d samples with %d regions; %d of the regions have no caption", samples, regions, uncaptioned)


def _sample(
    source: SourceRow, detected: DetectRow, captioned: CaptionRow, *, captions: list[str], image: bytes
) -> Sample:
    """Return the sample; an empty caption of a region becomes None."""
    described = zip(detected.regions, captioned.regions, strict=True)
    return Sample(
        key=source.key,
        image=image,
        width=detected.width,
        height=detected.height,
        captions=tuple(captions),
        url=source.url,
        regions=tuple(replace(region, caption=one.caption or None) for region, one in described),
    )

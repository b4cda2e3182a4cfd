"""Write the training shard: what the stages before found out, beside the bytes that came in, in one WebDataset tar.

    key.jpg    the image as it came, byte for byte (.png, .webp, ... where it is one)
    key.txt    its first caption
    key.json   its captions that pass the filter, its size, its url, its regions with box, score, label and caption

No sample is dropped, and no region: one without a caption has `"caption": null`. It has no partner in a regional
contrast, but its box can be drawn towards its crop all the same. The index beside the tar says where the
bytes of each sample lie.
"""

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fineclip.config import FilterConfig, PackConfig, parse
from fineclip.errors import ShardError
from fineclip.shards import (
    ByteRangeReader,
    CaptionRow,
    DetectRow,
    FilterRow,
    Job,
    PackRow,
    SourceRow,
    TableWriter,
    TarAppender,
    add_sample,
    atomic,
    kept_rows,
    read_manifest,
)
from fineclip.stages.filter import good_captions, may_be_silent
from fineclip.stages.upstream import chain, content_of, kept_by_key, row_of
from fineclip.types import Box, Region, Sample

log = logging.getLogger(__name__)

VERSION = 2  # of the bytes this file writes: a change of it makes them again


@dataclass(frozen=True)
class Joined:
    """What the tables of one shard say of a sample."""

    source: SourceRow
    header: FilterRow
    detected: DetectRow
    captioned: CaptionRow


def joined_rows(manifests: dict[str, Path]) -> Iterator[Joined]:
    """The samples of a shard that every stage kept, in order.

    Raises:
        ShardError: the tables do not belong together.
    """
    sources = kept_by_key(manifests["source"], SourceRow)
    headers = kept_by_key(manifests["filter"], FilterRow)
    detected = kept_by_key(manifests["detect"], DetectRow)
    for row in kept_rows(manifests["caption"], CaptionRow):
        yield Joined(
            row_of(row.key, sources, manifests["source"]),
            row_of(row.key, headers, manifests["filter"]),
            row_of(row.key, detected, manifests["detect"]),
            row,
        )


def regions_of(row: Joined) -> list[Region]:
    """Boxes with their captions; None where there are no words.

    Raises:
        ShardError: there are not as many captions as regions.
    """
    boxes, captions = row.detected.regions, row.captioned.regions
    if len(boxes) != len(captions):
        raise ShardError(f"sample {row.source.key} has {len(boxes)} regions but {len(captions)} captions")
    return [
        Region(Box(*(box[edge] for edge in Box._fields)), box["score"], box["label"], caption["caption"] or None)
        for box, caption in zip(boxes, captions, strict=True)
    ]


def pack_shard(captioned: Path, manifest: Path, config: PackConfig) -> None:
    """Write tar and index of one shard, a sample for each image that was captioned, and then its `manifest`.

    Args:
        captioned: manifest of caption.
        manifest: what is written last; tar and index lie beside it.
        config: nothing to choose.

    Raises:
        ShardError: a table or an image is gone or changed, or the tables do not belong together. Nothing is written then.
    """
    job = Job(manifest, stage="pack", version=VERSION, config=config, inputs=[captioned])
    if job.is_done():
        return
    manifests = chain(captioned)
    limits = parse(FilterConfig, dict(read_manifest(manifests["filter"]).config), where=str(manifests["filter"]))
    path, silent = manifest.with_suffix(".tar"), 0
    with (
        TableWriter(job, PackRow, also=(path,)) as index,
        atomic(path) as temporary,
        closing(TarAppender(temporary)) as tar,
        ByteRangeReader() as reader,
    ):
        for row in joined_rows(manifests):
            sample = _sample(row, limits, manifests, reader=reader)
            silent += sum(region.caption is None for region in sample.regions)
            index.write(add_sample(tar, sample, image_format=row.header.format or ""))
    log.info(
        "%d samples with %d regions packed; %d of the regions have no caption",
        len(index.rows),
        sum(row.regions for row in index.rows),
        silent,
    )


def _sample(row: Joined, limits: FilterConfig, manifests: dict[str, Path], *, reader: ByteRangeReader) -> Sample:
    captions = good_captions(row.source.captions, limits)
    if not captions and not may_be_silent(row.source.captions, limits):
        raise ShardError(
            f"{manifests['filter'].with_suffix('.parquet')}: keeps sample {row.source.key}, none of whose captions passes"
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

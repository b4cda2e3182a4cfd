"""Images of the page: packed samples with their boxes and captions, and one example of each drop reason.

An example whose bytes cannot be decoded has a description of them instead of a thumbnail.
"""

import base64
import io
import itertools
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import pyarrow.parquet as pq
from PIL import Image

from fineclip.errors import DataError, ShardError
from fineclip.report.funnel import Funnel
from fineclip.report.result_files import ResultFiles
from fineclip.shards import ByteRangeReader, PackRow, SourceRow, kept_rows, read_rows, read_sample, table_of
from fineclip.shards.images import decode, read_header
from fineclip.types import Sample

T = TypeVar("T")

MOST_KEPT = 12
LONGEST_SIDE_PX = 360
JPEG_QUALITY = 80
MOST_DROPPED = 16
MOST_SHARDS = 8  # shards that are searched for examples
MOST_BYTES = 32_000_000  # of one image
READABLE = re.compile(rb"[\t\r\n\x20-\x7e]{12,}")
BEGINNING = 36


class KeptTile(NamedTuple):
    """Packed sample, and the data URI of its thumbnail."""

    sample: Sample
    thumbnail: str


class DroppedTile(NamedTuple):
    """Dropped sample as the page shows it.

    Attributes:
        stage: Stage that dropped it.
        reason: Drop reason.
        caption: First caption.
        thumbnail: Data URI of the thumbnail; empty if the image cannot be decoded.
        note: Size of the image, or why there is no thumbnail.
    """

    stage: str
    reason: str
    caption: str
    thumbnail: str
    note: str


def kept_tiles(funnel: Funnel, files: ResultFiles) -> tuple[KeptTile, ...]:
    """Return at most `MOST_KEPT` samples, evenly spaced over the packed shards that exist."""
    manifests = [funnel.stages["pack"].folder / f"{shard}.json" for shard in funnel.shards]
    chosen = evenly([manifest for manifest in manifests if manifest.is_file()], MOST_KEPT)
    tiles: list[KeptTile] = []
    with ByteRangeReader() as reader:
        for index, manifest in enumerate(chosen):
            wanted = -(-(MOST_KEPT - len(tiles)) // (len(chosen) - index))
            tiles += files.attempt(f"images of {files.shown(manifest)}", _kept_tiles, manifest, wanted, reader) or []
    return tuple(tiles)


def _kept_tiles(manifest: Path, wanted: int, reader: ByteRangeReader) -> list[KeptTile]:
    rows = list(kept_rows(manifest, PackRow))
    chosen = evenly([row for row in rows if row.regions] or rows, wanted)
    samples = (read_sample(reader, manifest.with_suffix(".tar"), row) for row in chosen)
    return [KeptTile(sample, data_uri(decode(sample.image))) for sample in samples]


def evenly(items: Sequence[T], most: int) -> list[T]:
    """Select evenly spaced items.

    Args:
        items: Any number.
        most: Maximum number of selected items, at least 1.

    Returns:
        All items if there are at most `most`.

    Examples:
        >>> evenly(range(10), 2)
        [2, 7]
    """
    if len(items) <= most:
        return list(items)
    return [items[(2 * index + 1) * len(items) // (2 * most)] for index in range(most)]


def data_uri(image: Image.Image) -> str:
    """Return the image as the data URI of a small JPEG."""
    small = image.convert("RGB")
    small.thumbnail((LONGEST_SIDE_PX, LONGEST_SIDE_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def dropped_tiles(funnel: Funnel, files: ResultFiles) -> tuple[DroppedTile, ...]:
    """Return one example of each reason that the funnel counts, in the order of the stages; at most `MOST_DROPPED`."""
    keys = dict(itertools.islice(_example_keys(funnel, files).items(), MOST_DROPPED))
    rows: dict[str, SourceRow] = {}
    for shard in dict.fromkeys(key.rpartition("-")[0] for key in keys.values()):
        manifest = funnel.stages["source"].folder / f"{shard}.json"
        found = files.attempt(f"dropped images of {files.shown(manifest)}", source_rows, manifest, keys.values())
        rows |= {row.key: row for row in found or []}
    with ByteRangeReader() as reader:
        return tuple(
            dropped_tile(stage, reason, rows[key], reader, files.root)
            for (stage, reason), key in keys.items()
            if key in rows
        )


def dropped_tile(stage: str, reason: str, row: SourceRow, reader: ByteRangeReader, root: Path) -> DroppedTile:
    """Return the tile of one example.

    Args:
        stage: Stage that dropped the sample.
        reason: Drop reason.
        row: Row of the source table.
        reader: Reads the image.
        root: Folder that the jobs ran in.

    Returns:
        Tile with the thumbnail, or with a note on the bytes if they cannot be decoded.
    """
    thumbnail, note = _thumbnail(row, reader, root)
    return DroppedTile(stage, reason, row.captions[0] if row.captions else "", thumbnail, note)


def _example_keys(funnel: Funnel, files: ResultFiles) -> dict[tuple[str, str], str]:
    """Return the key of one sample by stage and drop reason, in the order of the stages."""
    smallest_first = sorted(funnel.scales, key=lambda scale: scale.kept or 0)
    shards = evenly(funnel.shards, MOST_SHARDS)
    tables: list[tuple[str, Path, Collection[str]]] = []
    for counts in funnel.stages.values():
        if counts.stage == "detect":  # scales are selected from the filter tables, before detection
            selects = files.path("data", "select")
            tables += [("select", selects / f"{scale.name}.json", scale.dropped) for scale in smallest_first]
        tables += [(counts.stage, counts.folder / f"{shard}.json", counts.dropped) for shard in shards]
    keys: dict[tuple[str, str], str] = {}
    for stage, manifest, reasons in tables:
        sought = {reason for reason in reasons if (stage, reason) not in keys}
        first = files.read(manifest, first_key_by_reason) if sought else None
        keys |= {(stage, reason): key for reason, key in (first or {}).items() if reason in sought}
    return keys


def source_rows(manifest: Path, keys: Collection[str]) -> list[SourceRow]:
    """Return the source rows of these keys."""
    return [row for row in read_rows(manifest, SourceRow) if row.key in keys]


def first_key_by_reason(manifest: Path) -> dict[str | None, str]:
    """Return the key of the first row of each drop reason in the table of a manifest; None is the reason of kept rows."""
    table = pq.ParquetFile(table_of(manifest)).read(columns=["reason", "key"])
    first = table.group_by("reason", use_threads=False).aggregate([("key", "first")])
    return dict(zip(first["reason"].to_pylist(), first["key_first"].to_pylist(), strict=True))


def _thumbnail(row: SourceRow, reader: ByteRangeReader, root: Path) -> tuple[str, str]:
    """Return thumbnail and note of a source row; the thumbnail is empty if the image cannot be decoded."""
    if row.file is None:
        return "", row.error or "has no image"
    try:
        content = reader.read(root / row.file, row.offset, min(row.size, MOST_BYTES))
    except ShardError:
        return "", f"{row.file} no longer exists"
    try:
        image = decode(content)
    except DataError as error:
        return "", describe_bytes(content, str(error))
    return data_uri(image), size_text(image.width, image.height)


def describe_bytes(content: bytes, why: str) -> str:
    """Describe bytes that are not an image: empty, text, a truncated image, or `why`."""
    if not content:
        return "an empty file"
    if READABLE.match(content):
        return f"text instead of an image: {content[:BEGINNING].decode('ascii', errors='ignore').strip()}\N{HORIZONTAL ELLIPSIS}"
    header = read_header(content)
    if header and not header.is_too_large:
        return f"{size_text(header.width, header.height)} in the header, but the image data is truncated"
    return why


def size_text(width: int, height: int) -> str:
    """Return the size of an image with a multiplication sign."""
    return f"{width} \N{MULTIPLICATION SIGN} {height} px"

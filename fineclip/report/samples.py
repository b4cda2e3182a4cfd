"""Images of the page: packed samples with their boxes and captions, and one example of each drop reason.

An example whose bytes cannot be decoded has a description of them instead of a thumbnail.
"""

import base64
import io
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image

from fineclip.errors import DataError, ShardError
from fineclip.report.funnel import Funnel
from fineclip.report.result_files import ResultFiles
from fineclip.shards import ByteRangeReader, PackRow, Row, SourceRow, kept_rows, read_rows, read_sample
from fineclip.shards.images import decode, read_header
from fineclip.stages.declaration import lineage, stages
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


@dataclass(frozen=True)
class KeptTile:
    """Packed sample, and the data URI of its thumbnail."""

    sample: Sample
    thumbnail: str


@dataclass(frozen=True)
class Example:
    """Key of a sample that a stage dropped, and the reason."""

    stage: str
    reason: str
    key: str


@dataclass(frozen=True)
class DroppedTile:
    """Dropped sample as the page shows it.

    Attributes:
        example: Stage, reason and key.
        caption: First caption.
        thumbnail: Data URI of the thumbnail; empty if the image cannot be decoded.
        note: Size of the image, or why there is no thumbnail.
    """

    example: Example
    caption: str
    thumbnail: str
    note: str


def kept_tiles(packed: Path, shards: Sequence[str], files: ResultFiles) -> tuple[KeptTile, ...]:
    """Return samples that are evenly spaced over the packed shards that exist.

    Args:
        packed: Folder of the pack manifests.
        shards: Names of the planned shards.
        files: Files of the data set; receives the problems.

    Returns:
        At most `MOST_KEPT` tiles, in the order of the shards.
    """
    manifests = [packed / f"{shard}.json" for shard in shards]
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


def dropped_tiles(funnel: Funnel, folders: Mapping[str, Path], files: ResultFiles) -> tuple[DroppedTile, ...]:
    """Return one example of each reason that the funnel counts, in the order of the stages.

    Args:
        funnel: Counts of the stages.
        folders: Folder of each stage's manifests.
        files: Files of the data set; receives the problems.

    Returns:
        At most `MOST_DROPPED` tiles.
    """
    examples = _examples(funnel, folders, files)[:MOST_DROPPED]
    keys_by_shard: dict[str, set[str]] = {}
    for example in examples:
        keys_by_shard.setdefault(example.key.rpartition("-")[0], set()).add(example.key)
    rows: dict[str, SourceRow] = {}
    for shard, keys in keys_by_shard.items():
        manifest = folders["source"] / f"{shard}.json"
        found = files.attempt(f"dropped images of {files.shown(manifest)}", source_rows, manifest, keys)
        rows |= {row.key: row for row in found or []}
    with ByteRangeReader() as reader:
        return tuple(
            dropped_tile(example, rows[example.key], reader, files.root) for example in examples if example.key in rows
        )


def dropped_tile(example: Example, row: SourceRow, reader: ByteRangeReader, root: Path) -> DroppedTile:
    """Return the tile of one example.

    Args:
        example: Stage, reason and key.
        row: Row of the source table.
        reader: Reads the image.
        root: Folder that the jobs ran in.

    Returns:
        Tile with the thumbnail, or with a note on the bytes if they cannot be decoded.
    """
    return DroppedTile(example, row.captions[0] if row.captions else "", *_thumbnail(row, reader, root))


def _examples(funnel: Funnel, folders: Mapping[str, Path], files: ResultFiles) -> list[Example]:
    found: dict[tuple[str, str], Example] = {}
    for stage, manifest, reasons in _tables(funnel, folders, files):
        row_type = stages()[stage].row
        sought = {reason for reason in reasons if (stage, reason) not in found}
        if row_type and sought and manifest.is_file():
            what = f"table of {files.shown(manifest)}"
            rows = files.attempt(what, first_row_by_reason, manifest, row_type, sought) or {}
            found |= {(stage, reason): Example(stage, reason, row.key) for reason, row in rows.items()}
    return list(found.values())


def _tables(
    funnel: Funnel, folders: Mapping[str, Path], files: ResultFiles
) -> Iterator[tuple[str, Path, Collection[str]]]:
    """Yield stage, manifest and drop reasons of each table that is searched, in the order of the stages."""
    for name in lineage("pack"):
        if name == "detect":  # scales are selected from the filter tables, before detection
            for scale in sorted(funnel.scales, key=lambda scale: scale.kept or 0):
                yield "select", files.data("select", f"{scale.name}.json"), scale.dropped
        for shard in evenly(funnel.shards, MOST_SHARDS):
            yield name, folders[name] / f"{shard}.json", funnel.stage(name).dropped


def source_rows(manifest: Path, keys: Collection[str]) -> list[SourceRow]:
    """Return the source rows of these keys."""
    return [row for row in read_rows(manifest, SourceRow) if row.key in keys]


def first_row_by_reason(manifest: Path, row_type: type[Row], reasons: Collection[str]) -> dict[str, Row]:
    """Return the first row of each reason; reading stops when each is found."""
    found: dict[str, Row] = {}
    for row in read_rows(manifest, row_type):
        if row.reason in reasons:
            found.setdefault(row.reason, row)
            if len(found) == len(reasons):
                break
    return found


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
    if header:
        return f"{size_text(header.width, header.height)} in the header, but the image data is truncated"
    return why


def size_text(width: int, height: int) -> str:
    """Return the size of an image with a multiplication sign."""
    return f"{width} \N{MULTIPLICATION SIGN} {height} px"

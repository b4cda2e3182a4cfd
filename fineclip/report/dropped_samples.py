"""One example of each drop reason: a thumbnail, or a description of the bytes if they cannot be decoded."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fineclip.errors import DataError, ShardError
from fineclip.report.funnel import Funnel
from fineclip.report.kept_samples import data_uri, evenly
from fineclip.report.result_files import ProblemLog, ResultPaths
from fineclip.shards import ByteRangeReader, Row, SelectRow, SourceRow, read_rows
from fineclip.shards.images import decode, read_header
from fineclip.stages.declaration import lineage, stages

R = TypeVar("R", bound=Row)

MOST_SHARDS = 8  # shards that are searched for examples
MOST_TILES = 16
MOST_BYTES = 32_000_000  # of one image
READABLE = re.compile(rb"[\t\r\n\x20-\x7e]{12,}")
BEGINNING = 36


@dataclass(frozen=True)
class Example:
    """Key of a sample that a stage dropped, and the reason."""

    stage: str
    reason: str
    shard: str
    key: str


@dataclass(frozen=True)
class DroppedTile:
    """Dropped sample as the page shows it.

    Attributes:
        stage: Stage that dropped it.
        reason: Drop reason.
        key: Key of the sample.
        picture: Data URI of the thumbnail; empty if the image cannot be decoded.
        note: Size of the image, or why there is no thumbnail.
        caption: First caption.
    """

    stage: str
    reason: str
    key: str
    picture: str
    note: str
    caption: str


def dropped_tiles(
    funnel: Funnel, folders: Mapping[str, Path], place: ResultPaths, problems_log: ProblemLog
) -> tuple[DroppedTile, ...]:
    """Return one example of each reason that the funnel counts, in the order of the stages.

    Args:
        funnel: Counts of the stages.
        folders: Folder of each stage's manifests.
        place: Folders of the data set.
        problems_log: Receives the files that cannot be read.

    Returns:
        At most `MOST_TILES` tiles.
    """
    examples = list(_examples(funnel, folders, place, problems_log))[:MOST_TILES]
    tiles: dict[Example, DroppedTile] = {}
    with ByteRangeReader() as reader:
        for shard in dict.fromkeys(example.shard for example in examples):
            mine = {example.key: example for example in examples if example.shard == shard}
            manifest = folders["source"] / f"{shard}.json"
            rows = problems_log.attempt(
                f"dropped images of {place.shown(manifest)}", source_rows, manifest, mine.keys()
            )
            for row in rows or []:
                tiles[mine[row.key]] = dropped_tile(mine[row.key], row, reader, place.root)
    return tuple(tiles[example] for example in examples if example in tiles)


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
    picture, note = _thumbnail(row, reader, root)
    return DroppedTile(
        stage=example.stage,
        reason=example.reason,
        key=example.key,
        picture=picture,
        note=note,
        caption=row.captions[0] if row.captions else "",
    )


def _examples(
    funnel: Funnel, folders: Mapping[str, Path], place: ResultPaths, problems_log: ProblemLog
) -> Iterator[Example]:
    for name in lineage("pack"):
        if name == "detect":  # scales are selected from the filter tables, before detection
            yield from _select_examples(funnel, place, problems_log)
        row_type, sought = stages()[name].row, set(funnel.stage(name).dropped)
        assert row_type is not None, name
        for shard in evenly(funnel.shards, MOST_SHARDS):
            manifest = folders[name] / f"{shard}.json"
            if not sought or not manifest.is_file():
                continue
            found = problems_log.attempt(
                f"table of {place.shown(manifest)}", first_row_by_reason, manifest, row_type, sought
            )
            for reason, row in (found or {}).items():
                sought.discard(reason)
                yield Example(name, reason, shard, row.key)


def _select_examples(funnel: Funnel, place: ResultPaths, problems_log: ProblemLog) -> Iterator[Example]:
    sought = {reason for scale in funnel.scales for reason in scale.dropped}
    for scale in sorted(funnel.scales, key=lambda scale: scale.kept or 0):
        wanted = sought & set(scale.dropped)
        manifest = place.data("select", f"{scale.name}.json")
        if not wanted or not manifest.is_file():
            continue
        found = problems_log.attempt(
            f"table of {place.shown(manifest)}", first_row_by_reason, manifest, SelectRow, wanted
        )
        for reason, row in (found or {}).items():
            sought.discard(reason)
            yield Example("select", reason, row.shard, row.key)


def source_rows(manifest: Path, keys: Collection[str]) -> list[SourceRow]:
    """Return the source rows of these keys."""
    return [row for row in read_rows(manifest, SourceRow) if row.key in keys]


def first_row_by_reason(manifest: Path, row_type: type[R], reasons: Collection[str]) -> dict[str, R]:
    """Return the first row of each reason; reading stops when each is found."""
    open_reasons, found = set(reasons), {}
    for row in read_rows(manifest, row_type):
        if row.reason in open_reasons:
            open_reasons.discard(row.reason)
            found[row.reason] = row
            if not open_reasons:
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

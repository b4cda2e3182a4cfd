"""One example of every reason for which a sample was dropped, as a thumbnail, or as what its bytes are instead."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fineclip.errors import DataError, ShardError
from fineclip.report.funnel import Funnel
from fineclip.report.gallery import data_uri, evenly
from fineclip.report.reading import Ledger, Place
from fineclip.shards import (
    ByteRangeReader,
    CaptionRow,
    DetectRow,
    FilterRow,
    PackRow,
    Row,
    SelectRow,
    SourceRow,
    read_rows,
)
from fineclip.shards.images import decode, read_header

R = TypeVar("R", bound=Row)

ROWS: Mapping[str, type[Row]] = {
    "source": SourceRow,
    "filter": FilterRow,
    "detect": DetectRow,
    "caption": CaptionRow,
    "pack": PackRow,
}
MOST_SHARDS = 8  # looked into for examples
MOST_TILES = 16
MOST_BYTES = 32_000_000  # of one example
READABLE = re.compile(rb"[\t\r\n\x20-\x7e]{12,}")
BEGINNING = 36


@dataclass(frozen=True)
class Example:
    """A sample that a stage dropped."""

    stage: str
    reason: str
    shard: str
    key: str


@dataclass(frozen=True)
class DroppedTile:
    """An example as it is shown. `picture` is a data URI, empty where nothing can be shown; `note` says why, or the size."""

    stage: str
    reason: str
    key: str
    picture: str
    note: str
    caption: str


def dropped_tiles(funnel: Funnel, folders: Mapping[str, Path], place: Place, ledger: Ledger) -> tuple[DroppedTile, ...]:
    """An example of each reason that the funnel counts, in the order of the stages."""
    examples = list(_examples(funnel, folders, place, ledger))[:MOST_TILES]
    tiles: dict[Example, DroppedTile] = {}
    with ByteRangeReader() as reader:
        for shard in dict.fromkeys(example.shard for example in examples):
            mine = {example.key: example for example in examples if example.shard == shard}
            manifest = folders["source"] / f"{shard}.json"
            rows = ledger.attempt(f"dropped pictures of {place.shown(manifest)}", rows_of, manifest, mine.keys())
            for row in rows or []:
                tiles[mine[row.key]] = dropped_tile(mine[row.key], row, reader, place.root)
    return tuple(tiles[example] for example in examples if example in tiles)


def dropped_tile(example: Example, row: SourceRow, reader: ByteRangeReader, root: Path) -> DroppedTile:
    """What can be shown of one example."""
    picture, note = _look(row, reader, root)
    return DroppedTile(
        stage=example.stage,
        reason=example.reason,
        key=example.key,
        picture=picture,
        note=note,
        caption=row.captions[0] if row.captions else "",
    )


def _examples(funnel: Funnel, folders: Mapping[str, Path], place: Place, ledger: Ledger) -> Iterator[Example]:
    for name, row_type in ROWS.items():
        if name == "detect":  # a scale is drawn from the filter tables, so its reasons come between the two
            yield from _select_examples(funnel, place, ledger)
        sought = set(funnel.stage(name).dropped)
        for shard in evenly(funnel.shards, MOST_SHARDS):
            manifest = folders[name] / f"{shard}.json"
            if not sought or not manifest.is_file():
                continue
            found = ledger.attempt(f"table of {place.shown(manifest)}", first_of_each, manifest, row_type, sought)
            for reason, row in (found or {}).items():
                sought.discard(reason)
                yield Example(name, reason, shard, row.key)


def _select_examples(funnel: Funnel, place: Place, ledger: Ledger) -> Iterator[Example]:
    sought = {reason for scale in funnel.scales for reason in scale.dropped}
    for scale in sorted(funnel.scales, key=lambda scale: scale.kept or 0):
        wanted = sought & set(scale.dropped)
        manifest = place.data("select", f"{scale.name}.json")
        if not wanted or not manifest.is_file():
            continue
        found = ledger.attempt(f"table of {place.shown(manifest)}", first_of_each, manifest, SelectRow, wanted)
        for reason, row in (found or {}).items():
            sought.discard(reason)
            yield Example("select", reason, row.shard, row.key)


def rows_of(manifest: Path, keys: Collection[str]) -> list[SourceRow]:
    """The source rows of some samples."""
    return [row for row in read_rows(manifest, SourceRow) if row.key in keys]


def first_of_each(manifest: Path, row_type: type[R], reasons: Collection[str]) -> dict[str, R]:
    """The first row of each reason; stops as soon as every one was met."""
    open_reasons, found = set(reasons), {}
    for row in read_rows(manifest, row_type):
        if row.reason in open_reasons:
            open_reasons.discard(row.reason)
            found[row.reason] = row
            if not open_reasons:
                break
    return found


def _look(row: SourceRow, reader: ByteRangeReader, root: Path) -> tuple[str, str]:
    """Picture and note of a source row; no picture where there is none to decode."""
    if row.file is None:
        return "", row.error or "has no image"
    try:
        content = reader.read(root / row.file, row.offset, min(row.size, MOST_BYTES))
    except ShardError:
        return "", f"{row.file} is not there any more"
    try:
        image = decode(content)
    except DataError as error:
        return "", what_it_is(content, str(error))
    return data_uri(image), size_text(image.width, image.height)


def what_it_is(content: bytes, why: str) -> str:
    """Bytes that are no picture, in a few words: empty, a text that begins so, a picture cut short, or `why`."""
    if not content:
        return "an empty file"
    if READABLE.match(content):
        return (
            f"no image but text: {content[:BEGINNING].decode('ascii', errors='ignore').strip()}\N{HORIZONTAL ELLIPSIS}"
        )
    header = read_header(content)
    if header:
        return f"{size_text(header.width, header.height)} says its header, but the pixels break off"
    return why


def size_text(width: int, height: int) -> str:
    """120 x 80 px, with a proper cross."""
    return f"{width} \N{MULTIPLICATION SIGN} {height} px"

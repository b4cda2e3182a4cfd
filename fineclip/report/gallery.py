"""Contact sheets: packed samples with their boxes and captions, chosen evenly and by no one's taste."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image

from fineclip.report.reading import Ledger, Place
from fineclip.shards import ByteRangeReader, PackRow, kept_rows, read_sample
from fineclip.shards.images import decode
from fineclip.types import Region, Sample

T = TypeVar("T")

TILES = 12
MOST_REGIONS = 6  # shown of an image; more cover one another
LONGEST_SIDE_PX = 360
JPEG_QUALITY = 80


@dataclass(frozen=True)
class Mark:
    """A region as it is drawn: x, y, width and height in pixels of the stored image."""

    x: float
    y: float
    width: float
    height: float
    caption: str
    about: str


@dataclass(frozen=True)
class Tile:
    """One packed sample. `picture` is a data URI, `width` and `height` those of the stored image in pixels."""

    key: str
    picture: str
    width: int
    height: int
    captions: tuple[str, ...]
    marks: tuple[Mark, ...]
    more_regions: int


def kept_tiles(packed: Path, shards: Sequence[str], place: Place, ledger: Ledger) -> tuple[Tile, ...]:
    """Samples spread evenly over the packed shards that are there.

    Args:
        packed: folder of the pack manifests.
        shards: names of the shards.
        place: the data set.
        ledger: takes what cannot be read.
    """
    there = [shard for shard in shards if (packed / f"{shard}.json").is_file()]
    chosen = evenly(there, TILES)
    tiles: list[Tile] = []
    with ByteRangeReader() as reader:
        for index, shard in enumerate(chosen):
            wanted = -(-(TILES - len(tiles)) // (len(chosen) - index))
            manifest = packed / f"{shard}.json"
            what = f"pictures of {place.shown(manifest)}"
            found = ledger.attempt(what, _tiles, manifest, wanted, reader)
            tiles.extend(found or [])
    return tuple(tiles)


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most so many of the items, at equal distances."""
    if len(items) <= most:
        return list(items)
    return [items[(2 * index + 1) * len(items) // (2 * most)] for index in range(most)]


def data_uri(image: Image.Image) -> str:
    """The image, not larger than the page needs it, as a JPEG inside its own address."""
    small = image.convert("RGB")
    small.thumbnail((LONGEST_SIDE_PX, LONGEST_SIDE_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _tiles(manifest: Path, wanted: int, reader: ByteRangeReader) -> list[Tile]:
    rows = list(kept_rows(manifest, PackRow))
    chosen = evenly([row for row in rows if row.regions] or rows, wanted)
    return [tile_of(read_sample(reader, manifest.with_suffix(".tar"), row)) for row in chosen]


def tile_of(sample: Sample) -> Tile:
    """One sample, its best regions first as they were stored."""
    shown = sample.regions[:MOST_REGIONS]
    return Tile(
        key=sample.key,
        picture=data_uri(decode(sample.image)),
        width=sample.width,
        height=sample.height,
        captions=sample.captions,
        marks=tuple(_mark(region) for region in shown),
        more_regions=len(sample.regions) - len(shown),
    )


def _mark(region: Region) -> Mark:
    box = region.box
    return Mark(
        x=box.x1,
        y=box.y1,
        width=box.width,
        height=box.height,
        caption=region.caption or region.label,
        about=f"{region.label}, score {region.score:.2f}",
    )

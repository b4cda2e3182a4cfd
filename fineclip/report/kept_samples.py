"""Contact sheet: packed samples with their boxes and captions, evenly spaced over the shards."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image

from fineclip.report.result_files import ProblemLog, ResultPaths
from fineclip.shards import ByteRangeReader, PackRow, kept_rows, read_sample
from fineclip.shards.images import decode
from fineclip.types import Region, Sample

T = TypeVar("T")

TILES = 12
MOST_REGIONS = 6  # drawn on one image; more would cover each other
LONGEST_SIDE_PX = 360
JPEG_QUALITY = 80


@dataclass(frozen=True)
class Tile:
    """Packed sample as the page shows it.

    Attributes:
        key: Key of the sample.
        picture: Data URI of the thumbnail.
        width: Width of the stored image, pixels.
        height: Height of the stored image, pixels.
        captions: All captions.
        regions: Regions that are drawn.
        more_regions: Number of regions that are not drawn.
    """

    key: str
    picture: str
    width: int
    height: int
    captions: tuple[str, ...]
    regions: tuple[Region, ...]
    more_regions: int


def kept_tiles(packed: Path, shards: Sequence[str], place: ResultPaths, problems_log: ProblemLog) -> tuple[Tile, ...]:
    """Return samples that are evenly spaced over the packed shards that exist.

    Args:
        packed: Folder of the pack manifests.
        shards: Names of the planned shards.
        place: Folders of the data set.
        problems_log: Receives the files that cannot be read.

    Returns:
        At most `TILES` tiles, in the order of the shards.
    """
    there = [shard for shard in shards if (packed / f"{shard}.json").is_file()]
    chosen = evenly(there, TILES)
    tiles: list[Tile] = []
    with ByteRangeReader() as reader:
        for index, shard in enumerate(chosen):
            wanted = -(-(TILES - len(tiles)) // (len(chosen) - index))
            manifest = packed / f"{shard}.json"
            what = f"images of {place.shown(manifest)}"
            found = problems_log.attempt(what, _tiles, manifest, wanted, reader)
            tiles.extend(found or [])
    return tuple(tiles)


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


def _tiles(manifest: Path, wanted: int, reader: ByteRangeReader) -> list[Tile]:
    rows = list(kept_rows(manifest, PackRow))
    chosen = evenly([row for row in rows if row.regions] or rows, wanted)
    return [tile_of(read_sample(reader, manifest.with_suffix(".tar"), row)) for row in chosen]


def tile_of(sample: Sample) -> Tile:
    """Return the tile of one sample; its first regions are drawn."""
    shown = sample.regions[:MOST_REGIONS]
    return Tile(
        key=sample.key,
        picture=data_uri(decode(sample.image)),
        width=sample.width,
        height=sample.height,
        captions=sample.captions,
        regions=shown,
        more_regions=len(sample.regions) - len(shown),
    )

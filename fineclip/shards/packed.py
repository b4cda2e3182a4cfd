"""Sample <-> packed WebDataset shard: key.jpg (or .png, .webp), key.txt, key.json in a plain tar.

The json holds everything but the pixels:

    {"captions": [...], "width": w, "height": h, "url": ..., "regions": [{"box": [x1, y1, x2, y2], "score", "label", "caption"}]}

The txt holds the first caption, for readers that know no json. Tars are the same bytes for the same samples.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fineclip.errors import ShardError
from fineclip.shards.pieces import PieceReader
from fineclip.shards.tables import PackRow
from fineclip.types import Box, Region, Sample

BLOCK = tarfile.BLOCKSIZE
EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "MPO": "jpg"}


@dataclass(frozen=True, slots=True)
class Piece:
    """Where a member's bytes begin in its tar, and how many there are."""

    offset: int
    size: int


class TarAppender:
    """Writes members one after another, each with the same owner and time, and says where their bytes lie."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115 (closed by close)

    def add(self, name: str, content: bytes) -> Piece:
        """Append one member."""
        header = tarfile.TarInfo(name)
        header.size, header.mode = len(content), 0o644
        self._tar.addfile(header, io.BytesIO(content))
        padded = -(-len(content) // BLOCK) * BLOCK
        return Piece(self._tar.offset - padded, len(content))

    def close(self) -> None:
        """Write the end of the tar."""
        self._tar.close()


def add_sample(tar: TarAppender, sample: Sample, *, image_format: str) -> PackRow:
    """Append one sample's members; the row says where they lie."""
    described = json.dumps(description(sample), ensure_ascii=False).encode()
    image = tar.add(f"{sample.key}.{EXTENSIONS.get(image_format, 'jpg')}", sample.image)
    tar.add(f"{sample.key}.txt", (sample.captions[0] if sample.captions else "").encode())
    record = tar.add(f"{sample.key}.json", described)
    return PackRow(
        key=sample.key,
        kept=True,
        image_offset=image.offset,
        image_size=image.size,
        json_offset=record.offset,
        json_size=record.size,
        regions=len(sample.regions),
    )


def description(sample: Sample) -> dict[str, Any]:
    """The json of a sample."""
    return {
        "captions": list(sample.captions),
        "width": sample.width,
        "height": sample.height,
        "url": sample.url,
        "regions": [
            {"box": list(r.box), "score": r.score, "label": r.label, "caption": r.caption} for r in sample.regions
        ],
    }


def sample_of(key: str, image: bytes, record: Mapping[str, Any]) -> Sample:
    """The sample that a json describes."""
    regions = (Region(Box(*r["box"]), r["score"], r["label"], r["caption"]) for r in record["regions"])
    return Sample(
        key=key,
        image=image,
        width=record["width"],
        height=record["height"],
        captions=tuple(record["captions"]),
        url=record["url"],
        regions=tuple(regions),
    )


def read_sample(reader: PieceReader, tar: Path, row: PackRow) -> Sample:
    """One sample by its row of the index.

    Raises:
        ShardError: the tar is gone, cut, or not the one of its index.
    """
    described = read_description(reader, tar, row)
    return replace(described, image=reader.read(tar, row.image_offset, row.image_size))


def read_description(reader: PieceReader, tar: Path, row: PackRow) -> Sample:
    """One sample without its image, which nobody reads then.

    Raises:
        ShardError: the tar is gone, cut, or not the one of its index.
    """
    record = reader.read(tar, row.json_offset, row.json_size)
    try:
        return sample_of(row.key, b"", json.loads(record))
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(
            f"{tar}: sample {row.key} is not where its index says ({error!r}). Make the pack stage again."
        ) from None


def members(tar: Path) -> Iterable[tarfile.TarInfo]:
    """The headers of a tar's files, in order; no content is read.

    Raises:
        ShardError: it is no tar, or is cut short.
    """
    size = tar.stat().st_size
    try:
        with tarfile.open(tar, "r:") as opened:
            for member in opened:
                if member.offset_data + member.size > size:
                    raise ShardError(
                        f"{tar}: is cut short: member {member.name} should end at byte {member.offset_data + member.size:,}"
                        f" of {size:,}. Fetch it again."
                    )
                if member.isfile():
                    yield member
            _require_end(tar, size, opened.offset)
    except tarfile.TarError as error:
        raise ShardError(f"{tar}: is no tar, or a damaged one ({error}). Fetch it again.") from None


def _require_end(tar: Path, size: int, end: int) -> None:
    """A tar ends in zero blocks; one cut exactly between members does not, and tarfile says nothing."""
    with tar.open("rb") as file:
        file.seek(max(0, size - BLOCK))
        last = file.read(BLOCK)
    if size < end or len(last) < BLOCK or last.strip(b"\0"):
        raise ShardError(f"{tar}: is cut short: its end mark is missing. Fetch it again.")

"""Read and write packed WebDataset shards: `key.jpg` (or `.png`, `.webp`, ...), `key.txt` and `key.json` in an uncompressed tar.

The JSON has everything but the pixels:

    {"captions": [...], "width": w, "height": h, "url": ..., "regions": [{"box": [x1, y1, x2, y2], "score", "label", "caption"}]}

The text file has the first caption, for readers without JSON. Equal samples give equal tars, byte for byte. Writing goes through
`tarfile` because the offsets of the members are needed for random access; `webdataset.TarWriter` does not return them.
"""

import io
import json
import tarfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fineclip.errors import ShardError
from fineclip.shards.byte_ranges import ByteRange, ByteRangeReader
from fineclip.shards.tables import PackRow
from fineclip.types import Box, Region, Sample

BLOCK = tarfile.BLOCKSIZE
EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "MPO": "jpg"}


class TarAppender:
    """Append members to a new tar and return where their bytes are. Owner and time of all members are equal.

    Args:
        path: New file.
    """

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115 (closed by close)

    def add(self, name: str, content: bytes) -> ByteRange:
        """Append a member and return the range of its content in the tar."""
        header = tarfile.TarInfo(name)
        header.size, header.mode = len(content), 0o644
        self._tar.addfile(header, io.BytesIO(content))
        padded = -(-len(content) // BLOCK) * BLOCK
        return ByteRange(self._tar.offset - padded, len(content))

    def close(self) -> None:
        """Write the end-of-archive blocks and close the file."""
        self._tar.close()


def add_sample(tar: TarAppender, sample: Sample, *, image_format: str) -> PackRow:
    """Append the members of a sample and return its row of the index.

    Args:
        tar: Open tar.
        sample: Sample with its encoded image.
        image_format: Pillow's name of the image format, which gives the extension; `.jpg` if it is not in `EXTENSIONS`.

    Returns:
        Kept row with the byte ranges of image and JSON.
    """
    record = json.dumps(to_json(sample), ensure_ascii=False).encode()
    image = tar.add(f"{sample.key}.{EXTENSIONS.get(image_format, 'jpg')}", sample.image)
    tar.add(f"{sample.key}.txt", (sample.captions[0] if sample.captions else "").encode())
    written = tar.add(f"{sample.key}.json", record)
    return PackRow(
        key=sample.key,
        kept=True,
        image_offset=image.offset,
        image_size=image.size,
        json_offset=written.offset,
        json_size=written.size,
        regions=len(sample.regions),
    )


def to_json(sample: Sample) -> dict[str, Any]:
    """Return the JSON object of a sample: everything but the key and the image."""
    return {
        "captions": sample.captions,
        "width": sample.width,
        "height": sample.height,
        "url": sample.url,
        "regions": [asdict(region) for region in sample.regions],
    }


def from_json(key: str, record: dict[str, Any]) -> Sample:
    """Return the sample of a JSON object, without its image."""
    regions = (Region(Box(*r["box"]), r["score"], r["label"], r["caption"]) for r in record["regions"])
    width, height, captions = record["width"], record["height"], tuple(record["captions"])
    return Sample(key, b"", width, height, captions, url=record["url"], regions=tuple(regions))


def read_sample(reader: ByteRangeReader, tar: Path, row: PackRow) -> Sample:
    """Read one sample.

    Args:
        reader: Reader that keeps tars open.
        tar: Packed shard.
        row: Row of its index, a kept sample.

    Returns:
        Sample with its encoded image.

    Raises:
        ShardError: The tar is missing, truncated, or does not match its index.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder, ByteRangeReader() as reader:
        ...     tar = TarAppender(Path(folder) / "a.tar")
        ...     row = add_sample(tar, Sample("a-000000", b"...", 640, 480, ("a dog",)), image_format="JPEG")
        ...     tar.close()
        ...     read_sample(reader, Path(folder) / "a.tar", row).captions
        ('a dog',)
    """
    return replace(read_description(reader, tar, row), image=reader.read(tar, row.image_offset, row.image_size))


def read_description(reader: ByteRangeReader, tar: Path, row: PackRow) -> Sample:
    """Read one sample without its image: `image` is empty.

    Args:
        reader: Reader that keeps tars open.
        tar: Packed shard.
        row: Row of its index, a kept sample.

    Returns:
        Sample with captions and regions.

    Raises:
        ShardError: The tar is missing, truncated, or does not match its index.
    """
    record = reader.read(tar, row.json_offset, row.json_size)
    try:
        return from_json(row.key, json.loads(record))
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(
            f"{tar}: sample {row.key} is not where its index says ({error!r}). Run the stage pack again."
        ) from None

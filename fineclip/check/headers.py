"""Size, format and hash of the images of many rows, read by several processes in the order of the rows."""

import hashlib
import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import NamedTuple

from fineclip.errors import ShardError
from fineclip.models.batches import batches
from fineclip.shards import ByteRangeReader, SourceRow
from fineclip.shards.images import read_header_and_turn

ROWS_AT_ONCE = 256
WAITING = 4  # blocks of rows per process that are sent ahead, so that memory does not depend on the number of rows

Place = tuple[str, int, int]


class Measured(NamedTuple):
    """Header and hash of an image.

    Attributes:
        width: Width in pixels; 0 if the header cannot be read.
        height: Height in pixels; 0 if the header cannot be read.
        format: Name of the format; None if the header cannot be read.
        sha256: Hash of the bytes, hexadecimal.
        turned: Whether EXIF states another orientation than that of the stored pixels.
        error: Why the bytes cannot be read; None if they can.
    """

    width: int
    height: int
    format: str | None
    sha256: str
    turned: bool = False
    error: str | None = None


def measured(rows: Iterable[SourceRow], *, processes: int) -> Iterator[tuple[SourceRow, Measured]]:
    """Yield each row with the header and the hash of its image.

    Args:
        rows: Kept rows of a source; they are read a few blocks ahead.
        processes: Processes that read images; 1 reads in this process.

    Yields:
        Rows in order.
    """
    blocks = batches(rows, ROWS_AT_ONCE)
    if processes == 1:
        for block in blocks:
            yield from zip(block, _measure(_places(block)), strict=True)
        return
    waiting = deque[tuple[list[SourceRow], Future[list[Measured]]]]()
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("forkserver")) as pool:
        for block in blocks:
            waiting.append((block, pool.submit(_measure, _places(block))))
            if len(waiting) >= processes * WAITING:
                done, result = waiting.popleft()
                yield from zip(done, result.result(), strict=True)
        while waiting:
            done, result = waiting.popleft()
            yield from zip(done, result.result(), strict=True)


def _places(rows: Sequence[SourceRow]) -> list[Place]:
    return [(row.file or "", row.offset, row.size) for row in rows]


def _measure(places: Sequence[Place]) -> list[Measured]:
    """Read and measure images; only their places and the results pass between processes."""
    with ByteRangeReader() as reader:
        return [_measure_one(place, reader) for place in places]


def _measure_one(place: Place, reader: ByteRangeReader) -> Measured:
    try:
        content = reader.read(*place)
    except ShardError as error:
        return Measured(0, 0, None, "", error=str(error))
    header, turned = read_header_and_turn(content)
    width, height, image_format = header or (0, 0, None)
    return Measured(width, height, image_format, hashlib.sha256(content).hexdigest(), turned)

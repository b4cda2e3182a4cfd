"""The members of a tar of samples: which belong together, and what each is.

A member's name without its last suffix is the key of its sample, folders included: `a/b.c.jpg` and `a/b.c.txt` are the
sample `a/b.c` (WebDataset's rule, up to the first dot, would lose keys that hold dots). Members of a sample need not be
neighbours and may stand in any order. Under a key that is there several times the first image goes with the first text,
the second with the second, and so on.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from fineclip.errors import ShardError
from fineclip.shards import ByteRange, ByteRangeReader, members
from fineclip.stages.source.files import IMAGE_SUFFIXES
from fineclip.stages.source.texts import storable

log = logging.getLogger(__name__)

Kind = Literal["image", "text", "json"]
IMAGE: Kind = "image"
KINDS: dict[str, Kind] = {".txt": "text", ".json": "json", **dict.fromkeys(IMAGE_SUFFIXES, IMAGE)}
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Member(NamedTuple):
    """A member that says something: its sample's key, what it is, where its bytes lie; `content` of texts and jsons."""

    key: str
    kind: Kind
    piece: ByteRange
    content: bytes = b""


@dataclass(slots=True)
class Parts:
    """What a tar holds of one sample. `repeats` counts the samples before it under the same key."""

    key: str
    repeats: int
    image: ByteRange | None = None
    text: bytes | None = None
    json: bytes | None = None


class Stock(NamedTuple):
    """The members of a tar, in order, and the sha256 over their names, places, sizes and texts; no image is read."""

    members: list[Member]
    fingerprint: str


def take_stock(tar: Path) -> Stock:
    """Read headers and texts of a tar. No name in it is ever used as the name of a file.

    Raises:
        ShardError: it is gone, compressed, no tar, or cut short.
    """
    _require_plain(tar)
    digest, found, passed_over = hashlib.sha256(), list[Member](), 0
    headers = list(members(tar))
    with ByteRangeReader() as reader:
        for header in headers:
            name, place = storable(header.name), ByteRange(header.offset_data, header.size)
            digest.update(f"{name}\0{place.offset}\0{place.size}\n".encode())
            split = split_name(name)
            if split is None:
                passed_over += 1
                continue
            key, kind = split
            content = b"" if kind == "image" else reader.read(tar, place.offset, place.size)
            digest.update(content)
            found.append(Member(key, kind, place, content))
    if passed_over:
        log.info("%s: %d members are neither image, .txt nor .json and are passed over", tar, passed_over)
    return Stock(found, digest.hexdigest())


def split_name(name: str) -> tuple[str, Kind] | None:
    """Key and kind of a member; None for a hidden one and for one of another kind."""
    stem, dot, suffix = name.removeprefix("./").rpartition(".")
    kind = KINDS.get(dot + suffix.lower())
    basename = stem.rpartition("/")[2]
    return None if kind is None or not basename or basename.startswith(".") else (stem, kind)


def samples_in(found: Sequence[Member]) -> Iterator[Parts]:
    """The samples of a tar in the order of their first members."""
    samples: dict[tuple[str, int], Parts] = {}
    seen: Counter[tuple[str, Kind]] = Counter()
    for member in found:
        repeats = seen[member.key, member.kind]
        seen[member.key, member.kind] += 1
        parts = samples.setdefault((member.key, repeats), Parts(member.key, repeats))
        match member.kind:
            case "image":
                parts.image = member.piece
            case "text":
                parts.text = member.content
            case "json":
                parts.json = member.content
    yield from samples.values()


def _require_plain(tar: Path) -> None:
    try:
        with tar.open("rb") as file:
            beginning = file.read(8)
    except OSError as error:
        raise ShardError(f"{tar}: cannot be read: {error.strerror}. Bring it back.") from None
    for magic, name in COMPRESSIONS.items():
        if beginning.startswith(magic):
            raise ShardError(
                f"{tar}: is compressed ({name}). Samples are read where they lie: unpack it to a plain tar."
            )

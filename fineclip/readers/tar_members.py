"""Members of a tar of samples: grouping by sample, and the kind of each member.

The key of a sample is the name of its members without the last suffix, folders included: `a/b.c.jpg` and `a/b.c.txt` are the
sample `a/b.c`. (WebDataset cuts at the first dot, which loses keys with dots.) Members of a sample may stand in any order and
apart from each other. If a key occurs several times, its first image goes with its first text, and so on.
"""

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from fineclip.errors import ShardError
from fineclip.readers.files import IMAGE_SUFFIXES
from fineclip.readers.text import to_valid_utf8
from fineclip.shards import ByteRange, ByteRangeReader, members

log = logging.getLogger(__name__)

Kind = Literal["image", "text", "json"]
IMAGE: Kind = "image"
KINDS: dict[str, Kind] = {".txt": "text", ".json": "json", **dict.fromkeys(IMAGE_SUFFIXES, IMAGE)}
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Member(NamedTuple):
    """Byte range of a member of a sample; `content` of texts and JSON."""

    piece: ByteRange
    content: bytes = b""


@dataclass(slots=True)
class Parts:
    """The members of one sample by kind. `repeats` counts earlier samples of the same key."""

    key: str
    repeats: int
    members: dict[Kind, Member] = field(default_factory=dict)

    def content(self, kind: Kind) -> bytes | None:
        """Return the content of the text or JSON; None if there is none."""
        return self.members[kind].content if kind in self.members else None


class TarIndex(NamedTuple):
    """The samples of a tar, and the SHA-256 of names, byte ranges and texts of its members. Images are not read."""

    samples: list[Parts]
    fingerprint: str


def index_tar(tar: Path) -> TarIndex:
    """Read headers and texts of a tar. No member name is used as the name of a file.

    Args:
        tar: Uncompressed tar.

    Returns:
        Samples in the order of their first members; hidden members and those that are neither image, text nor JSON are skipped.

    Raises:
        ShardError: The file is absent, compressed, not a tar, or truncated.
    """
    _require_plain(tar)
    digest, n_skipped = hashlib.sha256(), 0
    samples: dict[tuple[str, int], Parts] = {}
    seen: Counter[tuple[str, Kind]] = Counter()
    headers = list(members(tar))
    with ByteRangeReader() as reader:
        for header in headers:
            name, place = to_valid_utf8(header.name), ByteRange(header.offset_data, header.size)
            digest.update(f"{name}\0{place.offset}\0{place.size}\n".encode())
            split = split_name(name)
            if split is None:
                n_skipped += 1
                continue
            key, kind = split
            content = b"" if kind == "image" else reader.read(tar, place.offset, place.size)
            digest.update(content)
            repeats = seen[split]
            seen[split] += 1
            samples.setdefault((key, repeats), Parts(key, repeats)).members[kind] = Member(place, content)
    if n_skipped:
        log.info("%s: %d members are neither image, .txt nor .json and are skipped", tar, n_skipped)
    return TarIndex(list(samples.values()), digest.hexdigest())


def split_name(name: str) -> tuple[str, Kind] | None:
    """Return key and kind of a member, or None for a hidden member or one of another kind."""
    stem, dot, suffix = name.removeprefix("./").rpartition(".")
    kind = KINDS.get(dot + suffix.lower())
    basename = stem.rpartition("/")[2]
    return None if kind is None or not basename or basename.startswith(".") else (stem, kind)


def _require_plain(tar: Path) -> None:
    try:
        with tar.open("rb") as file:
            beginning = file.read(8)
    except OSError as error:
        raise ShardError(f"{tar}: cannot be read: {error.strerror}. Restore it.") from None
    for magic, name in COMPRESSIONS.items():
        if beginning.startswith(magic):
            raise ShardError(f"{tar}: is compressed ({name}). Samples are read in place: unpack it to a plain tar.")

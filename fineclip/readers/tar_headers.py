"""Headers of a tar: which members it has, where their bytes are, and which parts are damaged. Formats v7, ustar, GNU and pax.

`tarfile` is not used, because it takes a damaged later header, and the end of the first of several joined tars, for the end of the
file; reads an extended header of any size into memory; does not return from a negative size; and keeps an object for every member.

A member is never taken from a place that is not certain. After damage the search continues at the next header with a right
checksum. If the bytes after a member are no header at all, or its padding is not zero, its size is wrong, and it is damaged too.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from fineclip.errors import ShardError

BLOCK = 512
MAX_EXTENDED = 1 << 20  # bytes of a long name or of pax records
MAX_CHUNK = 1 << 20  # bytes read at once in a search
MAX_EXTENSIONS = 1 << 16  # blocks of the map of a sparse file

EntryKind = Literal["file", "hard link", "symbolic link", "folder", "device", "sparse file", "other"]
KINDS: dict[bytes, EntryKind] = {
    b"\0": "file",
    b"0": "file",
    b"7": "file",
    b"1": "hard link",
    b"2": "symbolic link",
    b"3": "device",
    b"4": "device",
    b"5": "folder",
    b"6": "device",
    b"S": "sparse file",
}
WITHOUT_DATA = frozenset({b"1", b"2", b"3", b"4", b"5", b"6"})  # though some writers state a size
EXTENDED = frozenset({b"L", b"K", b"x", b"X", b"g"})
GNU_MAGIC = b"ustar  \0"
MAGIC = re.compile(rb"ustar[\0 ]")
CHECKSUM = re.compile(rb"[0-7 \0]{8}")
OCTAL = re.compile(rb"[0-7]+")
PAX_LENGTH = re.compile(rb"([0-9]{1,7}) ")
PAX_KEYS = ("path", "linkpath", "size")  # those that change what a member is


class Entry(NamedTuple):
    """A member: name as written, place of its content, target of a link.

    `archive` counts the end marks before it: it is 0 in the first of joined tars.
    """

    name: str
    kind: EntryKind
    offset: int
    size: int
    link: str = ""
    archive: int = 0


class Damage(NamedTuple):
    """Bytes `start` to `stop` cannot be read. `name` is empty if none can be recognized."""

    start: int
    stop: int
    name: str
    fault: str


class Header(NamedTuple):
    """One header block."""

    name: str
    type: bytes
    size: int
    link: str
    has_magic: bool
    is_extended: bool


def tar_entries(tar: Path) -> Iterator[Entry | Damage]:
    """Yield the members of a tar and its damaged parts, in order, without reading content.

    Args:
        tar: Uncompressed tar, or several that were joined, with any number of zero blocks between them.

    Yields:
        Members, and parts that cannot be read. Memory does not depend on the size of the tar.

    Raises:
        ShardError: The file is not a tar, cannot be read, is truncated, or has other data after its end.

    Examples:
        >>> import io, tarfile
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a.tar"
        ...     header = tarfile.TarInfo("a.txt")
        ...     header.size = 5
        ...     with tarfile.open(path, "w") as opened:
        ...         opened.addfile(header, io.BytesIO(b"a dog"))
        ...     [(entry.name, entry.offset, entry.size) for entry in tar_entries(path)]
        [('a.txt', 512, 5)]
    """
    try:
        with tar.open("rb") as file:
            yield from _Scan(tar, file).entries()
    except OSError as error:
        raise ShardError(f"{tar}: cannot be read: {error.strerror}. Restore it.") from None


def parse_header(block: bytes) -> Header:
    """Return the fields of a header block that say what a member is. Times, owner and mode are not looked at.

    Args:
        block: 512 bytes.

    Returns:
        The fields; the prefix of the ustar format is part of the name.

    Raises:
        ValueError: Checksum or size is wrong; the message says which.
    """
    if len(block) < BLOCK:
        raise ValueError("the header is cut")
    before, after = block[:148], block[156:]
    unsigned = sum(before) + sum(after) + 8 * ord(" ")
    stated = parse_number(block[148:156], "checksum")
    if stated != unsigned and stated != unsigned - 256 * sum(byte > 127 for byte in before + after):
        raise ValueError("wrong checksum of its header")
    size = parse_number(block[124:136], "size")
    if size < 0:
        raise ValueError(f"its header states the size {size:,}")
    kind, magic = block[156:157], block[257:265]
    name, prefix = _text(block[:100]), "" if magic == GNU_MAGIC or kind in EXTENDED else _text(block[345:500])
    return Header(
        name=f"{prefix}/{name}" if prefix else name,
        type=kind,
        size=size,
        link=_text(block[157:257]),
        has_magic=magic.startswith(b"ustar"),
        is_extended=block[482] != 0,
    )


def parse_number(digits: bytes, name: str) -> int:
    """Return a number of a header: octal digits, or GNU's binary form for large and negative numbers.

    Args:
        digits: Bytes of the field.
        name: Name of the field, for the message.

    Returns:
        The number; 0 for an empty field.

    Raises:
        ValueError: It is neither.
    """
    if digits[0] in {0o200, 0o377}:
        return int.from_bytes(digits[1:], "big") - (256 ** (len(digits) - 1) if digits[0] == 0o377 else 0)
    octal = digits.partition(b"\0")[0].strip()
    if octal and not OCTAL.fullmatch(octal):
        raise ValueError(f"the {name} in its header is {octal!r}, not an octal number")
    return int(octal or b"0", 8)


def parse_pax(content: bytes) -> dict[str, bytes]:
    """Return the records of a pax header, each `LENGTH KEY=VALUE` and a line feed, where the length is that of the record.

    Args:
        content: Bytes of the header; zeros may follow the last record.

    Returns:
        Values by key.

    Raises:
        ValueError: A record has another form.
    """
    records: dict[str, bytes] = {}
    position = 0
    while position < len(content) and content[position]:
        length = PAX_LENGTH.match(content, position)
        stop = position + int(length[1]) if length else 0
        record = content[length.end() : stop] if length else b""
        if stop > len(content) or not record.endswith(b"\n") or b"=" not in record:
            raise ValueError(f"its extended header has a record {content[position : position + 20]!r} of another form")
        key, _, value = record[:-1].partition(b"=")
        records[key.decode("utf-8", "replace")] = value
        position = stop
    return records


def _text(content: bytes) -> str:
    return content.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


@dataclass
class _Extensions:
    """What the extended headers before a member say about it. The first that states a value wins."""

    start: int | None = None
    values: dict[str, str] = field(default_factory=dict)
    is_sparse: bool = False
    fault: str = ""


class _Scan:
    """One pass over a tar.

    Args:
        tar: Its path, for messages.
        file: The open file.
    """

    def __init__(self, tar: Path, file: BinaryIO) -> None:
        self._tar, self._file = tar, file
        self._size = os.fstat(file.fileno()).st_size
        self._position = 0  # of the next header
        self._archive = 0
        self._last = ""  # name of the last member
        self._has_magic = True  # whether the last header had one
        self._is_ended = False  # whether the file ends as a tar does
        self._extensions = _Extensions()
        self._held: tuple[int, Entry] | None = None  # start and entry of a member, sound only if a header follows it

    def entries(self) -> Iterator[Entry | Damage]:
        while self._position < self._size:
            block = self._read(self._position, BLOCK)
            if len(block) < BLOCK and block.strip(b"\0"):
                break
            if not block.strip(b"\0"):
                yield from self._released()
                yield from self._abandoned_extensions(self._position)
                yield from self._past_zeros()
                continue
            try:
                header = parse_header(block)
            except ValueError as error:
                if self._position == 0:
                    raise ShardError(
                        f"{self._tar}: is not a tar, or is damaged at its beginning: {error}. Fetch it again."
                    ) from None
                yield from self._damaged(block, str(error))
                continue
            yield from self._released()
            self._has_magic = header.has_magic
            yield from self._extended(header) if header.type in EXTENDED else self._member(header)
        yield from self._released()
        if not self._is_ended:
            raise self._truncated("its end mark is missing")

    def _released(self) -> Iterator[Entry]:
        """Yield the file that was held back."""
        if self._held is not None:
            yield self._held[1]
            self._held = None

    def _abandoned_extensions(self, stop: int) -> Iterator[Damage]:
        """Yield extended headers that no member follows."""
        found, self._extensions = self._extensions, _Extensions()
        if found.start is not None:
            name = found.values.get("path", "")
            yield Damage(found.start, stop, name, found.fault or "no member follows its extended header")

    def _past_zeros(self) -> Iterator[Damage]:
        """Move to the tar after zeros, or to the end of the file. One zero block alone is no end mark."""
        start, stop = self._position, self._next_nonzero(self._position)
        if stop == self._size:
            if stop - start < BLOCK:
                raise self._truncated("its end mark is missing")
            self._position = stop
            self._is_ended = True
            return
        for position in (start + (stop - start) // BLOCK * BLOCK, stop):
            if self._header_at(position) is not None:
                self._position, self._archive = position, self._archive + 1
                return
        following = self._next_header(stop)
        if stop - start >= 2 * BLOCK or following == self._size:
            raise self._no_tar(start, stop, following)
        self._resume(following)
        yield Damage(start, following, "", "zeros instead of a header")

    def _no_tar(self, mark: int, stop: int, following: int) -> ShardError:
        after = f", after the member {self._last!r:.200}" if self._last else ""
        if following < self._size:
            remedy = f"The next header is at byte {following:,}. Fetch the tar again."
        else:
            length = min(mark + 2 * BLOCK, stop)
            remedy = f"Fetch it again, or cut it if the data is not needed: truncate --size={length} {self._tar.name}"
        return ShardError(
            f"{self._tar}: an end mark is at byte {mark:,}{after}, and the data from byte {stop:,} on is not a tar. {remedy}"
        )

    def _extended(self, header: Header) -> Iterator[Damage]:
        """Read a header about the next member."""
        start, data = self._position, self._position + BLOCK
        if data + header.size > self._size:
            before = self._extensions.start
            for damage in self._beyond_end(start, data, header.name, header.size):
                self._extensions = _Extensions(start if before is None else before, fault=damage.fault)
            return
        self._position = data + _padded(header.size)
        if self._extensions.start is None:
            self._extensions.start = start
        if header.size > MAX_EXTENDED:
            self._extensions.fault = (
                f"its extended header has {header.size:,} bytes; up to {MAX_EXTENDED:,} are allowed"
            )
            return
        try:
            fault = self._take(header.type, self._read(data, header.size))
        except ValueError as error:
            self._extensions.fault = str(error)
            return
        if header.type == b"g":  # is about no single member
            own = self._extensions.start == start
            if fault:
                yield Damage(start, self._position, "", fault)
            if own:
                self._extensions.start = None

    def _take(self, kind: bytes, content: bytes) -> str:
        """Note what an extended header states; return what is wrong with one for all members, which is not followed."""
        known = self._extensions.values
        if kind in {b"L", b"K"}:
            known.setdefault("path" if kind == b"L" else "linkpath", _text(content))
            return ""
        records = parse_pax(content)
        is_sparse = any(key.startswith("GNU.sparse.") for key in records)
        stated = {key: records[key].decode("utf-8", "surrogateescape") for key in PAX_KEYS if records.get(key)}
        if kind == b"g":
            return f"one name or size is stated for all members: {', '.join(stated)}" if stated or is_sparse else ""
        if "size" in stated and not re.fullmatch("[0-9]{1,20}", stated["size"]):
            raise ValueError(f"its extended header states the size {stated['size']!r:.40}")
        if "path" in stated:
            stated["path"] = stated["path"].rstrip("/")
        self._extensions.values = stated | known
        self._extensions.is_sparse |= is_sparse
        return ""

    def _member(self, header: Header) -> Iterator[Entry | Damage]:
        start, data = self._position, self._position + BLOCK
        found, self._extensions = self._extensions, _Extensions()
        start = start if found.start is None else found.start
        name, size = found.values.get("path", header.name), int(found.values.get("size", header.size))
        self._last = name
        is_old_folder = header.type == b"\0" and header.name.endswith("/")
        kind = "folder" if is_old_folder else KINDS.get(header.type, "other")
        if header.type == b"S":
            data = self._after_sparse_map(header, data)
        if size and (header.type in WITHOUT_DATA or is_old_folder):
            size = self._size_after_link(data, size)
            kind = "file" if kind == "hard link" and size else kind
        if found.is_sparse:
            kind = "sparse file"
        if data + size > self._size:
            yield from self._beyond_end(start, data, name, size)
            return
        self._position = data + _padded(size)
        if self._read(data + size, self._position - data - size).strip(b"\0"):
            if not self._is_boundary(self._position):
                self._resume(self._next_header(self._position))
            yield Damage(start, self._position, name, f"its size is wrong: bytes other than zero follow its {size:,}")
            return
        if found.fault:
            yield Damage(start, self._position, name, found.fault)
            return
        entry = Entry(name, kind, data, size, found.values.get("linkpath", header.link), self._archive)
        self._held = (start, entry)

    def _after_sparse_map(self, header: Header, data: int) -> int:
        """Return the position after the further blocks of the map of a sparse file."""
        is_extended, count = header.is_extended, 0
        while is_extended and count < MAX_EXTENSIONS:
            block = self._read(data, BLOCK)
            if len(block) < BLOCK:
                raise self._truncated(f"the map of the sparse file {self._last!r:.200} is cut")
            is_extended, data, count = block[504] != 0, data + BLOCK, count + 1
        return data

    def _size_after_link(self, data: int, size: int) -> int:
        """Return how much content follows a header that needs none: old tars state the size of the target, pax may add the content."""
        if self._is_boundary(data) or data + size > self._size or not self._is_boundary(data + _padded(size)):
            return 0
        return size

    def _beyond_end(self, start: int, data: int, name: str, size: int) -> Iterator[Damage]:
        """Continue after a member that is said to end after the file does; without a header to continue at, the tar is truncated."""
        following = self._next_header(data)
        if following == self._size:
            raise self._truncated(f"member {name!r:.200} should end at byte {data + size:,}")
        self._position, self._extensions = following, _Extensions()
        yield Damage(start, following, name, f"its size is wrong: {size:,} bytes would end after the file")

    def _damaged(self, block: bytes, fault: str) -> Iterator[Entry | Damage]:
        """Continue after a block that should be a header."""
        before, self._extensions = self._extensions, _Extensions()
        start = self._position if before.start is None else before.start
        name = before.values.get("path", "")
        if self._resembles_header(block):
            yield from self._released()
            name = name or _text(block[:100])
            self._resume(min(self._next_header(self._position + BLOCK), self._end_as_stated(block)))
            if _resembles_extended(block):
                self._extensions = _Extensions(start, fault=f"the extended header before it is damaged: {fault}")
                return
        elif self._held is not None and self._held[1].kind == "file":
            start, entry = self._held
            name, fault = entry.name, f"its size, {entry.size:,} bytes, is wrong, or the header after it is overwritten"
            self._held = None
            self._resume(self._next_header(entry.offset))
        else:
            yield from self._released()
            self._resume(self._next_header(self._position + BLOCK))
        yield Damage(start, self._position, name, fault)

    def _resume(self, position: int) -> None:
        """Continue at a position after damage; at the end of the file, the tar is whole if the file ends in zeros."""
        self._position = position
        self._is_ended = position == self._size and not self._read(self._size - BLOCK, BLOCK).strip(b"\0")

    def _end_as_stated(self, block: bytes) -> int:
        """Return the end of a member by the size in its damaged header, or the end of the file if that leads nowhere."""
        try:
            size = parse_number(block[124:136], "size")
        except ValueError:
            return self._size
        end = self._position + BLOCK + _padded(size)
        return end if size >= 0 and end <= self._size and self._is_boundary(end) else self._size

    def _resembles_header(self, block: bytes) -> bool:
        """Return whether a block is a header apart from a few wrong bits."""
        if self._has_magic:
            return sum(one == other for one, other in zip(block[257:262], b"ustar", strict=True)) >= 4
        return sum(byte in b"01234567 \0" for byte in block[100:156]) >= 50

    def _is_boundary(self, position: int) -> bool:
        """Return whether a header, a zero block or the end of the file is here."""
        block = self._read(position, BLOCK)
        return not block.strip(b"\0") or self._header_at(position) is not None

    def _header_at(self, position: int) -> Header | None:
        try:
            return parse_header(self._read(position, BLOCK))
        except ValueError:
            return None

    def _next_header(self, position: int) -> int:
        """Return where the next header with a magic number begins, at any byte from `position`; the size of the file if none does."""
        for start, chunk in self._chunks(position, overlap=BLOCK):
            for match in MAGIC.finditer(chunk, 257):
                place = match.start() - 257
                if CHECKSUM.match(chunk, place + 148) and self._header_at(start + place) is not None:
                    return start + place
        return self._size

    def _next_nonzero(self, position: int) -> int:
        for start, chunk in self._chunks(position):
            if rest := chunk.lstrip(b"\0"):
                return start + len(chunk) - len(rest)
        return self._size

    def _chunks(self, position: int, *, overlap: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield the file from a position in chunks that grow, with their positions."""
        length = 8 * BLOCK
        while position < self._size and (chunk := self._read(position, length)):
            yield position, chunk
            position += max(1, len(chunk) - overlap) if position + len(chunk) < self._size else len(chunk)
            length = min(2 * length, MAX_CHUNK)

    def _read(self, position: int, length: int) -> bytes:
        self._file.seek(position)
        return self._file.read(length)

    def _truncated(self, fault: str) -> ShardError:
        after = f" The last member is {self._last!r:.200}." if self._last else ""
        return ShardError(f"{self._tar}: is truncated at byte {self._size:,}: {fault}.{after} Fetch it again.")


def _resembles_extended(block: bytes) -> bool:
    """Return whether a damaged header is one about the next member, by its type or its name."""
    name = block[:100]
    return (
        block[156:157] in EXTENDED
        or name.startswith(b"././@LongLink")
        or b"/PaxHeaders" in name
        or b"@PaxHeader" in name
    )

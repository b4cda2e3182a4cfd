"""Members of a tar of samples: what each is, which sample it belongs to, and what a link stands for.

The key of a sample is the name of its members without the last suffix, folders included: `a/b.c.jpg` and `a/b.c.txt` are the
sample `a/b.c`. (WebDataset cuts at the first dot, which loses keys with dots; `key_to_first_dot` does the same, for tars with
names such as `0001.image.jpg` and `0001.caption.txt`.) Members of a sample may stand in any order and apart from each other. If a
key occurs several times, its first image goes with its first text, and so on.

A link stands for a member of the same tar. It is looked up among the names in the tar and never on the disk.
"""

import hashlib
import logging
import posixpath
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from fineclip.errors import ShardError
from fineclip.readers.files import IMAGE_SUFFIXES
from fineclip.readers.names import canonical_name
from fineclip.readers.tar_headers import Damage, Entry, tar_entries
from fineclip.readers.text import to_valid_utf8
from fineclip.shards import ByteRange, ByteRangeReader

log = logging.getLogger(__name__)

Kind = Literal["image", "text", "json"]
IMAGE: Kind = "image"
KINDS: dict[str, Kind] = {".txt": "text", ".json": "json", **dict.fromkeys(IMAGE_SUFFIXES, IMAGE)}
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
LINKS = ("hard link", "symbolic link")
MAX_TEXT = 16 << 20  # bytes of a text or JSON member
MAX_TEXTS = 1 << 30  # bytes of all of them, which are held in memory
MAX_LINKS = 40  # links from one to the next, as in Linux
MAX_NAMED = 30  # kinds of skipped members in the log


class Member(NamedTuple):
    """A member of a sample: name, kind, byte range; `content` of texts and JSON."""

    name: str
    kind: Kind
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
    """The members of a tar, its damaged parts, and the SHA-256 of names, byte ranges and texts. Images are not read."""

    members: list[Member]
    damages: list[Damage]
    fingerprint: str


def index_tar(tar: Path) -> TarIndex:
    """Read headers and texts of a tar. No member name is used as the name of a file.

    Args:
        tar: Uncompressed tar, or several that were joined.

    Returns:
        Members in order, links with the place of what they stand for. Hidden members, those that are neither image, text nor
        JSON, and links that lead to no member are skipped, counted and logged.

    Raises:
        ShardError: The file is absent, compressed, not a tar, truncated, has other data after its end, or too many texts.
    """
    _require_plain(tar)
    entries: list[Entry] = []
    damages: list[Damage] = []
    skipped, digest, held = Counter[str](), hashlib.sha256(), 0
    for found in tar_entries(tar):
        if isinstance(found, Damage):
            damages.append(found._replace(name=to_valid_utf8(found.name)))
        elif found.kind == "file" or found.kind in LINKS:
            entries.append(found)
        else:
            skipped[f"of kind {found.kind}"] += 1
    targets = link_targets(entries)
    members: list[Member] = []
    with ByteRangeReader() as reader:
        for index, entry in enumerate(entries):
            name, target = to_valid_utf8(entry.name), targets.get(index, entry)
            if target is None:
                continue
            place = ByteRange(target.offset, target.size)
            digest.update(f"{name}\0{place.offset}\0{place.size}\n".encode())
            kind = kind_of(name)
            if kind is None or (kind != IMAGE and place.size > MAX_TEXT):
                skipped[_why_skipped(name, kind)] += 1
                continue
            content = b"" if kind == IMAGE else reader.read(tar, place.offset, place.size)
            digest.update(content)
            held += len(content)
            if held > MAX_TEXTS:
                raise ShardError(
                    f"{tar}: has more than {MAX_TEXTS >> 20:,} MiB of texts and JSON. Split it into smaller tars."
                )
            members.append(Member(name, kind, place, content))
    for damage in damages:
        digest.update(f"{damage}\n".encode())
    _log_parts(tar, entries)
    _log_losses(tar, skipped, [entries[index] for index, target in targets.items() if target is None], damages)
    return TarIndex(members, damages, digest.hexdigest())


def samples_of(members: Iterable[Member], key_of: Callable[[str], str]) -> list[Parts]:
    """Return the samples that members belong to.

    Args:
        members: Members in the order of the tar.
        key_of: `key_to_last_dot` or `key_to_first_dot`.

    Returns:
        Samples in the order of their first members, with the key of the first. Spellings of one name are one key.
    """
    samples: dict[tuple[str, int], Parts] = {}
    seen: Counter[tuple[str, Kind]] = Counter()
    for member in members:
        key = key_of(member.name)
        form = canonical_name(key)
        repeats = seen[form, member.kind]
        seen[form, member.kind] += 1
        samples.setdefault((form, repeats), Parts(key, repeats)).members[member.kind] = member
    return list(samples.values())


def kind_of(name: str) -> Kind | None:
    """Return the kind of a member by its suffix, or None for a hidden member or one of another kind."""
    stem, dot, suffix = name.rpartition(".")
    basename = stem.rpartition("/")[2]
    return None if not basename or basename.startswith(".") else KINDS.get(dot + suffix.lower())


def key_to_last_dot(name: str) -> str:
    """Return the name of a member without `./` and its last suffix, folders included."""
    return name.removeprefix("./").rpartition(".")[0]


def key_to_first_dot(name: str) -> str:
    """Return the name of a member without `./`, up to the first dot after its folders."""
    folder, slash, basename = name.removeprefix("./").rpartition("/")
    return folder + slash + basename.partition(".")[0]


def link_targets(entries: Sequence[Entry]) -> dict[int, Entry | None]:
    """Return the file that each link stands for.

    A hard link names a member, a symbolic link a path relative to its own folder. Of several members of a name, the last one
    before the link is taken, else the first one after it; those of the same one of joined tars come first.

    Args:
        entries: Files and links of a tar, in order.

    Returns:
        File by the index of the link; None if the link leads out of the tar, to no member, to itself, or through too many links.
    """
    names = {index: _target_name(entry) for index, entry in enumerate(entries) if entry.kind in LINKS}
    wanted = set(names.values())
    places: defaultdict[tuple[str, int | None], list[int]] = defaultdict(list)
    for index, entry in enumerate(entries) if wanted else ():
        name = posixpath.normpath(entry.name)
        if name in wanted:
            places[name, entry.archive].append(index)
            places[name, None].append(index)

    def next_of(index: int) -> int | None:
        name = names[index]
        if name == posixpath.normpath(entries[index].name):
            return None
        found = places.get((name, entries[index].archive)) or places.get((name, None))
        return found[max(0, bisect_left(found, index) - 1)] if found else None

    def follow(index: int) -> Entry | None:
        following: int | None = index
        for _ in range(MAX_LINKS):
            if following is None or following not in names:
                break
            following = next_of(following)
        return None if following is None or following in names else entries[following]

    return {link: follow(link) for link in names}


def _target_name(link: Entry) -> str:
    folder = posixpath.dirname(link.name) if link.kind == "symbolic link" else ""
    return posixpath.normpath(posixpath.join(folder, link.link))


def _why_skipped(name: str, kind: Kind | None) -> str:
    if kind is not None:
        return f"{PurePosixPath(name).suffix} of more than {MAX_TEXT >> 20} MiB"
    basename = name.rpartition("/")[2]
    if basename.startswith("."):
        return "hidden"
    suffix = PurePosixPath(basename).suffix.lower()
    return (suffix if suffix.isprintable() else ascii(suffix))[:20] or "without a suffix"


def _log_parts(tar: Path, entries: Sequence[Entry]) -> None:
    if joined := max((entry.archive for entry in entries), default=0):
        log.info("%s: %d tars are joined in this file; all are read", tar, joined + 1)
    if links := sum(entry.kind in LINKS for entry in entries):
        log.info("%s: %d members are links to other members", tar, links)


def _log_losses(tar: Path, skipped: Counter[str], broken: Sequence[Entry], damages: Sequence[Damage]) -> None:
    if skipped:
        log.info(
            "%s: %d members are skipped, as neither image, .txt nor .json: %s", tar, skipped.total(), counted(skipped)
        )
    if broken:
        first = broken[0]
        log.warning(
            "%s: %d links lead to no member of the tar and are skipped; the first is %.200r -> %.200r",
            tar, len(broken), first.name, first.link,
        )  # fmt: skip
    if damages:
        one = damages[0]
        log.warning(
            "%s: %d parts are damaged and become rows with reason damaged-member; the first is bytes %d to %d, %.200r: %s. Fetch it again.",
            tar, len(damages), one.start, one.stop, one.name, one.fault,
        )  # fmt: skip


def counted(counts: Counter[str]) -> str:
    """Return counts for the log, the largest first, such as `3 .cls, 1 .npy`."""
    named = [f"{count} {what}" for what, count in counts.most_common(MAX_NAMED)]
    return ", ".join(named + (["..."] if len(counts) > MAX_NAMED else []))


def _require_plain(tar: Path) -> None:
    try:
        with tar.open("rb") as file:
            beginning = file.read(8)
    except OSError as error:
        raise ShardError(f"{tar}: cannot be read: {error.strerror}. Restore it.") from None
    for magic, name in COMPRESSIONS.items():
        if beginning.startswith(magic):
            raise ShardError(f"{tar}: is compressed ({name}). Samples are read in place: unpack it to a plain tar.")

"""Headers of tars in every format; joined, damaged and hostile tars lose nothing without a word, and reading always ends."""

import io
import os
import random
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from fineclip.errors import ShardError
from fineclip.readers.tar_headers import MAX_EXTENDED, Damage, Entry, parse_header, parse_pax, tar_entries

BLOCK = 512
END = bytes(2 * BLOCK)
Read = Callable[[bytes], list[Entry | Damage]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Entries of a tar of these bytes."""

    def entries(content: bytes) -> list[Entry | Damage]:
        path = tmp_path / "a.tar"
        path.write_bytes(content)
        return list(tar_entries(path))

    return entries


def member(name: str, content: bytes = b"", kind: bytes = b"0", link: str = "", size: bytes | None = None) -> bytes:
    """Header and padded content; `size` overrides the field of the header, with a right checksum."""
    header = tarfile.TarInfo(name)
    header.size, header.type, header.linkname = len(content), kind, link
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    if size is not None:
        block[124:136] = size
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + content + bytes(-len(content) % BLOCK)


def picture(number: int, size: int = 1404) -> bytes:
    """Bytes of which none is zero."""
    return bytes(1 + (number * 31 + index) % 255 for index in range(size))


FILES = [(f"{number}.jpg", picture(number)) for number in range(5)]
MEMBERS = [member(name, content) for name, content in FILES]
TAR = b"".join(MEMBERS) + END


def changed(index: int, block: bytes) -> bytes:
    """The tar with another header of one member."""
    return b"".join([*MEMBERS[:index], block + MEMBERS[index][BLOCK:], *MEMBERS[index + 1 :]]) + END


def inserted(*others: bytes) -> bytes:
    """The tar with further members before its third."""
    return b"".join([*MEMBERS[:2], *others, *MEMBERS[2:]]) + END


def names(entries: list[Entry | Damage]) -> list[str]:
    return [entry.name for entry in entries if isinstance(entry, Entry)]


def damages(entries: list[Entry | Damage]) -> list[Damage]:
    return [entry for entry in entries if isinstance(entry, Damage)]


def places(content: bytes, entries: list[Entry | Damage]) -> list[bytes]:
    return [content[entry.offset : entry.offset + entry.size] for entry in entries if isinstance(entry, Entry)]


LONG = ("n" * 100, "n" * 101, "folder/" * 14 + "name", "folder/" * 35 + "name", "é" * 70)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_that_tarfile_finds(read: Read, form: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for number, name in enumerate(["a", "./b.jpg", "caf\udce9.jpg", *LONG]):
            header = tarfile.TarInfo(name)
            header.size, header.mtime = 300 * number, 1.5
            try:
                header.tobuf(form, errors="surrogateescape")
            except ValueError:
                continue  # too long for ustar
            tar.addfile(header, io.BytesIO(picture(number, 300 * number)))
    content = buffer.getvalue()
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        wanted = [(one.name, one.offset_data, one.size) for one in tar]
    found = read(content)
    assert len(wanted) >= 5
    assert [(one.name, one.offset, one.size) for one in found if isinstance(one, Entry)] == wanted
    assert not damages(found)


@pytest.mark.parametrize("before", [b"0000644\0", b"    644 ", b"\0" * 8])
def test_fields_that_say_nothing_about_content_may_have_any_form(before: bytes) -> None:
    block = bytearray(member("a.jpg")[:BLOCK])
    block[100:108], block[136:148], block[148:156] = before, b"no time here", b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert parse_header(bytes(block)).name == "a.jpg"


def test_a_checksum_of_signed_bytes_is_right_too() -> None:
    block = bytearray(member("é.jpg")[:BLOCK])
    block[148:156] = b"%06o\0 " % (int(block[148:154], 8) - 2 * 256)
    assert parse_header(bytes(block)).name == "é.jpg"


@pytest.mark.parametrize("zeros", [0, 512, 7 * 512, 10_240, 77])
@pytest.mark.parametrize("count", [2, 5])
def test_joined_tars_are_read_whole(read: Read, zeros: int, count: int) -> None:
    content = (TAR + bytes(zeros)) * count
    found = read(content)
    assert names(found) == [name for name, _ in FILES] * count
    assert places(content, found) == [content for _, content in FILES] * count
    assert [entry.archive for entry in found if isinstance(entry, Entry)] == [n for n in range(count) for _ in FILES]


@pytest.mark.parametrize("zeros", [0, 1, 511, 100_000])
def test_zeros_at_the_end_are_no_data(read: Read, zeros: int) -> None:
    assert names(read(TAR + bytes(zeros))) == [name for name, _ in FILES]


@pytest.mark.parametrize("data", [b"x", b"<html>" * 200, TAR[:100], member("a")[:148] + bytes(8) + member("a")[156:]])
def test_other_data_after_the_end_is_an_error_with_its_place(read: Read, data: bytes) -> None:
    with pytest.raises(ShardError, match=rf"an end mark is at byte {len(TAR) - 1024:,}, .* from byte {len(TAR):,}"):
        read(TAR + data)


def test_the_remedy_never_cuts_a_tar_away(read: Read) -> None:
    with pytest.raises(ShardError, match=f"The next header is at byte {len(TAR) + 900:,}"):
        read(TAR + b"x" * 900 + TAR)
    with pytest.raises(ShardError, match=f"truncate --size={len(TAR)} a.tar"):
        read(TAR + b"x" * 900)


def test_one_zero_block_before_other_data(read: Read) -> None:
    """It stands for a lost header if a member follows, and for the end of the tar if none does."""
    content = b"".join(MEMBERS) + bytes(BLOCK) + picture(1, 900)
    with pytest.raises(ShardError, match=f"truncate --size={len(content) - 900} a.tar"):
        read(content)
    found = read(content + bytes(-900 % BLOCK) + TAR)
    assert [lost.fault for lost in damages(found)] == ["zeros instead of a header"]
    assert names(found) == [name for name, _ in FILES] * 2


def test_names_in_messages_are_printable(read: Read) -> None:
    name = "caf\udce9\n.jpg"
    header = tarfile.TarInfo(name)
    header.size = 600
    block = header.tobuf(tarfile.GNU_FORMAT, errors="surrogateescape")
    for content in (block + picture(1, 512), block + picture(1, 600) + bytes(424) + END + b"x"):
        with pytest.raises(ShardError) as error:
            read(content)
        assert r"'caf\udce9\n.jpg'" in str(error.value)
        assert str(error.value).isprintable()


@pytest.mark.parametrize("size", [b"00000000005\0", b"00000001000\0", b"00000000000\0"])
def test_a_wrong_size_of_the_last_member(read: Read, size: bytes) -> None:
    [lost] = damages(found := read(changed(4, member("4.jpg", size=size))))
    assert (names(found), lost.name) == ([name for name, _ in FILES[:4]], "4.jpg")


def test_one_zero_block_is_an_end_mark_and_between_members_is_not(read: Read) -> None:
    assert names(read(b"".join(MEMBERS) + bytes(BLOCK))) == [name for name, _ in FILES]
    assert names(read(inserted(bytes(BLOCK)))) == [name for name, _ in FILES]


@pytest.mark.parametrize("size", [1, 300, BLOCK, 1024, 2048, 5000, 3 * BLOCK, len(TAR) - 1024, len(TAR) - 600])
def test_a_cut_tar_is_found(read: Read, size: int) -> None:
    with pytest.raises(ShardError, match=r"a\.tar: is (truncated|not a tar)"):
        read(TAR[:size])


def test_an_empty_tar_and_an_empty_file(read: Read) -> None:
    assert read(bytes(10_240)) == []
    with pytest.raises(ShardError, match=r"a\.tar: is truncated"):
        read(b"")
    with pytest.raises(ShardError, match=r"a\.tar: is not a tar"):
        read(b"<html>" * 500)


def test_every_flipped_bit_of_a_header_loses_that_member_alone(read: Read) -> None:
    start = sum(map(len, MEMBERS[:2]))
    for position in range(BLOCK):
        content = bytearray(TAR)
        content[start + position] ^= 1 << position % 8
        found = read(bytes(content))
        lost = damages(found)
        if not lost:  # a bit of the checksum that changes no number
            assert 148 <= position < 156
            assert names(found) == [name for name, _ in FILES]
            continue
        assert [(one.start, one.stop) for one in lost] == [(start, start + len(MEMBERS[2]))], position
        assert names(found) == ["0.jpg", "1.jpg", "3.jpg", "4.jpg"]
        assert lost[0].name == "2.jpg" or position < 100


def test_a_flipped_bit_in_the_header_of_the_last_member(read: Read) -> None:
    [lost] = damages(found := read(changed(4, b"5" + MEMBERS[4][1:BLOCK])))
    assert (lost.name, lost.stop, len(names(found))) == ("5.jpg", len(TAR) - len(END), 4)


@pytest.mark.parametrize(
    "size",
    [
        b"-0000001000\0",
        b"zzzzzzzzzzz\0",
        b"\xff" * 10 + b"\xfe\0",
        b"\xff" * 12,
        b"\x80" + b"\xff" * 11,
        b"77777777777\0",
        b"00000000005\0",
        b"00000002000\0",
        b"00000002564\0",
        b"00000010000\0",
        b"00000000000\0",
    ],
)
def test_a_wrong_size_with_a_right_checksum_loses_that_member_alone(read: Read, size: bytes) -> None:
    block = member("2.jpg", size=size)
    [lost] = damages(found := read(changed(2, block)))
    assert names(found) == ["0.jpg", "1.jpg", "3.jpg", "4.jpg"]
    start = sum(map(len, MEMBERS[:2]))
    assert (lost.name, lost.start, lost.stop) == ("2.jpg", start, start + len(MEMBERS[2]))
    assert lost.fault


@pytest.mark.parametrize("block", [bytes(BLOCK), b"\x91\x22" * 256])
def test_a_header_that_is_overwritten(read: Read, block: bytes) -> None:
    found = read(changed(2, block))
    assert damages(found)
    assert set(names(found)) >= {"0.jpg", "3.jpg", "4.jpg"}
    assert len(names(found)) + len(damages(found)) >= 4


def test_damage_that_is_moved_by_a_few_bytes(read: Read) -> None:
    found = read(b"".join(MEMBERS[:2]) + b"inserted" + b"".join(MEMBERS[2:]) + END + bytes(512))
    assert damages(found)
    assert names(found)[-2:] == ["3.jpg", "4.jpg"]


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    return member("./PaxHeaders/x", records, kind)


@pytest.mark.parametrize(
    "records",
    [
        b"path=a\n",
        b"0 path=a\n",
        b"99 path=a\n",
        b"9 path=aa",
        b"13 size=-512\n",
        b"12 size=abc\n",
        b"8 path\n\n",
        b"x",
    ],
)
def test_a_malformed_record_loses_the_member_after_it(read: Read, records: bytes) -> None:
    [lost] = damages(found := read(inserted(pax(records))))
    assert names(found) == ["0.jpg", "1.jpg", "3.jpg", "4.jpg"]
    assert (lost.name, lost.start) == ("2.jpg", sum(map(len, MEMBERS[:2])))


def test_records_of_pax(read: Read) -> None:
    assert parse_pax(b"9 path=a\n15 comment=1=2\n" + bytes(9)) == {"path": b"a", "comment": b"1=2"}
    assert names(read(inserted(pax(b"9 path=a\n")))) == ["0.jpg", "1.jpg", "a", "3.jpg", "4.jpg"]
    assert names(read(inserted(pax(b"15 comment=abc\n", b"g")))) == [name for name, _ in FILES]


def test_one_name_for_all_members_is_not_followed(read: Read) -> None:
    [lost] = damages(found := read(inserted(pax(b"9 path=a\n", b"g"))))
    assert names(found) == [name for name, _ in FILES]
    assert "path" in lost.fault


@pytest.mark.parametrize(
    "extended",
    [
        b"X" + pax(b"9 path=a\n")[1:],
        b"X" + member("././@LongLink", b"long.jpg\0", b"L")[1:],
        member("././@LongLink", b"long.jpg\0", b"L", size=b"77777777777\0"),
        member("././@LongLink", b"n" * (MAX_EXTENDED + 1), b"L"),
    ],
)
def test_a_member_whose_long_name_is_damaged_is_not_read_under_another(read: Read, extended: bytes) -> None:
    [lost] = damages(found := read(inserted(extended)))
    assert names(found) == ["0.jpg", "1.jpg", "3.jpg", "4.jpg"]
    assert lost.name == "2.jpg"


def test_an_extended_header_that_no_member_follows(read: Read) -> None:
    [lost] = damages(found := read(b"".join(MEMBERS) + pax(b"9 path=a\n") + END))
    assert len(names(found)) == 5
    assert lost.start == sum(map(len, MEMBERS))


def test_links_with_and_without_content(read: Read) -> None:
    size = b"%011o\0" % 1404
    without = member("z.jpg", kind=b"1", link="0.jpg", size=size)
    carrying = without + picture(9) + bytes(-1404 % BLOCK)
    for one in (without, member("z.jpg", kind=b"1", link="0.jpg")):
        for content in (inserted(one), b"".join(MEMBERS) + one + END):
            [link] = [entry for entry in read(content) if entry.name == "z.jpg"]
            assert isinstance(link, Entry)
            assert (link.kind, link.link, link.size) == ("hard link", "0.jpg", 0)
    for content in (inserted(carrying), b"".join(MEMBERS) + carrying + END):
        [link] = [entry for entry in read(content) if entry.name == "z.jpg"]
        assert isinstance(link, Entry)
        assert (link.kind, content[link.offset : link.offset + link.size]) == ("file", picture(9))


def test_kinds_that_hold_no_bytes_in_one_piece(read: Read) -> None:
    kinds = {
        b"3": "device",
        b"4": "device",
        b"5": "folder",
        b"6": "device",
        b"2": "symbolic link",
        b"S": "sparse file",
        b"Z": "other",
    }
    others = [member(f"{kind.decode()}.jpg", kind=kind) for kind in kinds]
    sparse = pax(b"22 GNU.sparse.major=1\n") + member("s.jpg", picture(1))
    found = read(inserted(*others, sparse))
    assert [entry.kind for entry in found[2:-3] if isinstance(entry, Entry)] == [*kinds.values(), "sparse file"]


def test_the_map_of_a_sparse_file_ends(read: Read) -> None:
    block = bytearray(member("s.jpg", kind=b"S")[:BLOCK])
    block[482] = 1
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    with pytest.raises(ShardError, match=r"the map of the sparse file 's\.jpg' is cut"):
        read(b"".join(MEMBERS) + bytes(block) + b"\1" * 50 * BLOCK)
    [sparse] = [one for one in read(inserted(bytes(block), b"\0" * BLOCK)) if one.name == "s.jpg"]
    assert isinstance(sparse, Entry)


def damaged(seed: int) -> Iterator[bytes]:
    """The tar with bytes changed, removed and added at random places."""
    rng = random.Random(seed)
    for _ in range(300):
        content = bytearray(TAR)
        for _ in range(rng.choice((1, 1, 2, 5))):
            place = rng.randrange(len(content) - 1024)
            match rng.randrange(3):
                case 0:
                    content[place] ^= rng.randrange(1, 256)
                case 1:
                    del content[place : place + rng.choice((1, 100, 512, 1024))]
                case _:
                    content[place:place] = rng.randbytes(rng.choice((1, 512, 700)))
        yield bytes(content)


@pytest.mark.parametrize("seed", range(3))
def test_random_damage_loses_no_member_without_a_word(read: Read, seed: int) -> None:
    for content in damaged(seed):
        try:
            found = read(content)
        except ShardError:
            continue
        assert damages(found) or names(found) == [name for name, _ in FILES]
        for entry in found:
            if isinstance(entry, Entry):
                assert 0 <= entry.offset <= entry.offset + entry.size <= len(content)


def test_a_search_through_many_false_headers_ends(read: Read) -> None:
    found = read(inserted(b"ustar\0" * 30_000 + bytes(-180_000 % BLOCK)))
    assert damages(found)
    assert names(found)[-3:] == ["2.jpg", "3.jpg", "4.jpg"]


def test_nothing_is_left_open(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(TAR)
    assert len(list(tar_entries(path))) == 5
    assert os.fspath(path.resolve()) not in [file.path for file in psutil.Process().open_files()]

"""Packed samples come back as they went in, from any reader of WebDataset; cut tars are found."""

import tarfile
from pathlib import Path

import pytest

from fineclip.errors import ShardError
from fineclip.shards import PieceReader, TarAppender, add_sample, members, read_sample, sha256_of
from fineclip.types import Box, Region, Sample

REGION = Region(Box(0.25, 1, 2, 3.5), 0.5, "cat", "a cat, ünïcode")
SAMPLES = [
    Sample("s-000000", b"\xff\xd8" + b"x" * 700, 20, 10, ("one", "two"), "https://example.org/a.jpg", (REGION, REGION)),
    Sample("s-000001", b"\x89PNG" + b"y" * 511, 8, 8, ("three",)),
]


def pack(path: Path) -> list:
    tar = TarAppender(path)
    rows = [add_sample(tar, sample, image_format=kind) for sample, kind in zip(SAMPLES, ("JPEG", "PNG"), strict=True)]
    tar.close()
    return rows


def test_samples_come_back(tmp_path: Path) -> None:
    rows = pack(tmp_path / "a.tar")
    with PieceReader() as reader:
        assert [read_sample(reader, tmp_path / "a.tar", row) for row in reversed(rows)] == SAMPLES[::-1]
    assert [row.regions for row in rows] == [2, 0]


def test_members_are_those_of_a_webdataset(tmp_path: Path) -> None:
    rows = pack(tmp_path / "a.tar")
    names = [member.name for member in members(tmp_path / "a.tar")]
    assert names == [f"s-00000{i}.{kind}" for i, first in ((0, "jpg"), (1, "png")) for kind in (first, "txt", "json")]
    with tarfile.open(tmp_path / "a.tar") as opened:
        assert [opened.getmember("s-000001.png").offset_data] == [rows[1].image_offset]


def test_tars_are_the_same_bytes(tmp_path: Path) -> None:
    pack(tmp_path / "a.tar")
    pack(tmp_path / "b.tar")
    assert sha256_of(tmp_path / "a.tar") == sha256_of(tmp_path / "b.tar")


@pytest.mark.parametrize("size", [300, 1024, 2048, 5000, 3 * 512])
def test_a_cut_tar_is_found_wherever_it_was_cut(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.tar"
    pack(path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ShardError, match="a.tar: is (cut short|no tar)"):
        list(members(path))


def test_an_empty_tar_has_no_members(tmp_path: Path) -> None:
    TarAppender(tmp_path / "a.tar").close()
    assert list(members(tmp_path / "a.tar")) == []


def test_a_piece_that_is_gone_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"12345")
    with PieceReader() as reader:
        assert reader.read(file, 1, 3) == b"234"
        with pytest.raises(ShardError, match="ends at byte 5, where 9 were there"):
            reader.read(file, 1, 8)
        with pytest.raises(ShardError, match="cannot be read"):
            reader.read(tmp_path / "y", 0, 1)


def test_an_index_of_another_tar_is_found(tmp_path: Path) -> None:
    rows = pack(tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes(b"\0" * 20000)
    with PieceReader() as reader, pytest.raises(ShardError, match="s-000000 is not where its index says"):
        read_sample(reader, tmp_path / "a.tar", rows[0])

"""Packed samples are read back unchanged; truncated tars are found."""

import json
import tarfile
from pathlib import Path

import pytest

from fineclip.errors import ShardError
from fineclip.shards import ByteRangeReader, TarAppender, add_sample, read_sample, sha256_of
from fineclip.shards.packed import from_json, to_json
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


def test_samples_are_read_back(tmp_path: Path) -> None:
    rows = pack(tmp_path / "a.tar")
    with ByteRangeReader() as reader:
        assert [read_sample(reader, tmp_path / "a.tar", row) for row in reversed(rows)] == SAMPLES[::-1]
    assert [row.regions for row in rows] == [2, 0]


def test_members_are_those_of_a_webdataset(tmp_path: Path) -> None:
    rows = pack(tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as opened:
        names = [f"s-00000{i}.{kind}" for i, first in ((0, "jpg"), (1, "png")) for kind in (first, "txt", "json")]
        assert opened.getnames() == names
        assert [opened.getmember("s-000001.png").offset_data] == [rows[1].image_offset]


BLOCK_SIZES = [0, 1, 511, 512, 513, 1023, 1024, 1025, 10_240, 20 * 512 - 1]


def content_of(size: int) -> bytes:
    """Bytes of which no two blocks are equal and none is zero."""
    return bytes(1 + (index * 7 + index // 251) % 255 for index in range(size))


@pytest.mark.parametrize("name", ["short", "n" * 100, "n" * 101, "folder/" * 30 + "name"])
def test_byte_ranges_are_right_for_any_size_and_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.tar"
    tar = TarAppender(path)
    ranges = [tar.add(f"{name}-{size}", content_of(size)) for size in BLOCK_SIZES]
    tar.close()
    written = path.read_bytes()
    assert [written_range.size for written_range in ranges] == BLOCK_SIZES
    with tarfile.open(path) as opened:
        for written_range, size in zip(ranges, BLOCK_SIZES, strict=True):
            assert written[written_range.offset : written_range.offset + size] == content_of(size)
            assert opened.getmember(f"{name}-{size}").offset_data == written_range.offset
    assert len(written) % tarfile.RECORDSIZE == 0


@pytest.mark.parametrize("size", BLOCK_SIZES[1:])
def test_images_and_json_of_any_size_are_read_back(tmp_path: Path, size: int) -> None:
    empty = len(json.dumps(to_json(Sample("k", b"", 8, 8, ("",)))))
    filled = Sample("s-000000", content_of(size), 8, 8, ("c" * max(0, size - empty),))
    tar = TarAppender(tmp_path / "a.tar")
    rows = [add_sample(tar, sample, image_format="JPEG") for sample in (filled, SAMPLES[1])]
    tar.close()
    assert size < empty or rows[0].json_size == size
    with ByteRangeReader() as reader:
        assert [read_sample(reader, tmp_path / "a.tar", row) for row in rows] == [filled, SAMPLES[1]]


def test_tars_are_the_same_bytes(tmp_path: Path) -> None:
    pack(tmp_path / "a.tar")
    pack(tmp_path / "b.tar")
    assert sha256_of(tmp_path / "a.tar") == sha256_of(tmp_path / "b.tar")


def test_a_missing_byte_range_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"12345")
    with ByteRangeReader() as reader:
        assert reader.read(file, 1, 3) == b"234"
        with pytest.raises(ShardError, match="ends at byte 5.* 9"):
            reader.read(file, 1, 8)
        with pytest.raises(ShardError, match="cannot be read"):
            reader.read(tmp_path / "y", 0, 1)


def test_each_key_of_the_json_is_needed_and_others_are_ignored() -> None:
    """A shard of a later version may have more keys; a missing one never becomes a default."""
    record = json.loads(json.dumps(to_json(SAMPLES[0])))
    changed = {**record, "later": 1, "regions": [{**region, "later": 1} for region in record["regions"]]}
    assert json.loads(json.dumps(to_json(from_json("k", changed)))) == record
    for name in record:
        with pytest.raises(KeyError):
            from_json("k", {key: value for key, value in record.items() if key != name})
    for name in record["regions"][0]:
        regions = [{key: value for key, value in record["regions"][0].items() if key != name}]
        with pytest.raises(KeyError):
            from_json("k", {**record, "regions": regions})


def test_an_index_of_another_tar_is_reported(tmp_path: Path) -> None:
    rows = pack(tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes(b"\0" * 20000)
    with ByteRangeReader() as reader, pytest.raises(ShardError, match="s-000000 is not where its index says"):
        read_sample(reader, tmp_path / "a.tar", rows[0])

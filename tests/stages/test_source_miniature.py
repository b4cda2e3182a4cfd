"""The drawn web lies in img2dataset's layout, any shard can be made alone, and the filter finds what is wrong with it."""

import json
import tarfile
from collections import Counter
from pathlib import Path

from fineclip.config import FilterConfig, MiniatureSource
from fineclip.miniature.seeds import DEMO
from fineclip.miniature.web import web_item
from fineclip.shards import ByteRangeReader, FilterRow, SourceRow, read_manifest, read_rows, sha256_of
from fineclip.stages.filter import filter_shard
from fineclip.stages.source.shard import source_shard
from fineclip.stages.source.shard_plan import planned_shards
from tests.helpers.web import true_counts

PER_SHARD = 60
CONFIG = MiniatureSource(kind="miniature", images=150, images_per_shard=PER_SHARD)


def make(folder: Path, position: int) -> Path:
    shard = planned_shards(CONFIG)[position]
    manifest = folder / f"source/{shard.name}.json"
    source_shard(shard, manifest, CONFIG)
    return manifest


def test_a_row_and_three_members_for_every_item(tmp_path: Path) -> None:
    manifest = make(tmp_path, 1)
    tar = manifest.with_suffix(".tar")
    rows = list(read_rows(manifest, SourceRow))
    with tarfile.open(tar) as opened:
        names = opened.getnames()
    assert names == [f"{row.key}.{kind}" for row in rows for kind in ("jpg", "txt", "json")]
    assert [row.key for row in rows] == [f"miniature-0001-{index:06d}" for index in range(PER_SHARD)]
    with ByteRangeReader() as reader, tarfile.open(tar) as opened:
        for row, index in zip(rows, range(PER_SHARD, 2 * PER_SHARD), strict=True):
            item = web_item(DEMO, index, items_per_shard=PER_SHARD)
            assert row.file == tar.as_posix()
            assert reader.read(row.file, row.offset, row.size) == item.image
            assert (row.source_key, row.captions, row.url) == (item.source_key, list(item.captions), item.url)
            told = json.load(opened.extractfile(f"{row.key}.json"))
            assert (told["truth"], told["caption"], told["url"]) == (item.truth, item.captions[0], item.url)
    made = read_manifest(manifest)
    assert (made.stage, made.read, made.kept) == ("source", PER_SHARD, PER_SHARD)
    assert set(made.outputs) == {tar.name, manifest.with_suffix(".parquet").name}
    assert made.inputs == {}
    assert made.config["items"] == [60, 120]


def test_the_last_shard_is_what_is_left(tmp_path: Path) -> None:
    assert read_manifest(make(tmp_path, 2)).read == 30


def test_a_shard_is_the_same_bytes_wherever_it_is_made(tmp_path: Path) -> None:
    one, other = make(tmp_path / "a", 2), make(tmp_path / "b", 2)
    assert sha256_of(one.with_suffix(".tar")) == sha256_of(other.with_suffix(".tar"))
    written = one.with_suffix(".tar").stat().st_mtime_ns
    make(tmp_path / "a", 2)
    assert one.with_suffix(".tar").stat().st_mtime_ns == written


def test_the_filter_finds_the_flaws_that_were_drawn(tmp_path: Path) -> None:
    found = Counter[str]()
    for position in range(3):
        manifest = tmp_path / f"filter/{position}.json"
        filter_shard(make(tmp_path, position), manifest, FilterConfig(min_side_px=96))
        found.update(row.reason for row in read_rows(manifest, FilterRow) if row.reason is not None)
    true = true_counts(DEMO, 150, items_per_shard=PER_SHARD)
    header_cannot_tell = {"undecodable", "repeated"}  # found by detect and by select
    assert found == {reason: count for reason, count in true.items() if reason not in header_cannot_tell}
    assert {"unreadable", "duplicate", "caption-boilerplate"} <= set(found)

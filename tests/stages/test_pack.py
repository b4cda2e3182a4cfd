"""What comes out of a packed shard is what went in and what the stages found, for our reader and for webdataset."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import webdataset

from fineclip.config import AnnotationsDetect, FilterConfig, PackConfig, TemplateCaption
from fineclip.errors import ShardError
from fineclip.shards import (
    ByteRangeReader,
    CaptionRow,
    DetectRow,
    Job,
    PackRow,
    TableWriter,
    read_manifest,
    read_rows,
    read_sample,
    sha256_of,
)
from fineclip.stages.caption import caption_shard
from fineclip.stages.detect import detect_shard
from fineclip.stages.pack import pack_shard
from fineclip.types import Box, Region, RegionCaption, Sample
from tests.helpers.images import encoded
from tests.helpers.stages import Item, box, write_filtered

LIMITS = FilterConfig(min_side_px=1, min_words=2)
JPEG, PNG, WEBP = (encoded(20, 10, color=3, kind=kind) for kind in ("JPEG", "PNG", "WEBP"))
ITEMS = [
    Item(JPEG, ["short", "two wörds", "three more words"], [box(1, 2, 9.5, 8), box(0, 0, 3, 3, "dog")], "http://x/a"),
    Item(b"<html>", ["two words"], []),
    Item(encoded(200, 100)[:-40], ["two words"], []),
    Item(PNG, ["two words"], []),
    Item(WEBP, ["two words"], [box(0, 0, 2, 2)]),
]


def captioned(folder: Path, items: Sequence[Item] = ITEMS) -> Path:
    """The manifest of caption over hand-made items, their own boxes and a template."""
    kept = write_filtered(folder, items, config=LIMITS)
    detected, manifest = folder / "detect/s.json", folder / "caption/s.json"
    own = AnnotationsDetect(engine="annotations", min_side_px=1)
    detect_shard(kept, detected, own, weights=None, batch_size=1, device="cpu")
    template = TemplateCaption(engine="template", template="one {label}")
    caption_shard(detected, manifest, template, weights=None, batch_size=1, device="cpu")
    return manifest


def packed(source: Path, folder: Path) -> Path:
    manifest = folder / "pack/s.json"
    pack_shard(source, manifest, PackConfig())
    return manifest


def test_samples_hold_what_the_stages_found(tmp_path: Path) -> None:
    manifest = packed(captioned(tmp_path), tmp_path)
    with ByteRangeReader() as reader:
        samples = [read_sample(reader, manifest.with_suffix(".tar"), row) for row in read_rows(manifest, PackRow)]
    cats = Region(Box(1, 2, 9.5, 8), 1.0, "cat", "one cat"), Region(Box(0, 0, 3, 3), 1.0, "dog", "one dog")
    assert samples == [
        Sample("s-000000", JPEG, 20, 10, ("two wörds", "three more words"), "http://x/a", cats),
        Sample("s-000003", PNG, 20, 10, ("two words",)),
        Sample("s-000004", WEBP, 20, 10, ("two words",), None, (Region(Box(0, 0, 2, 2), 1.0, "cat", "one cat"),)),
    ]
    made = read_manifest(manifest)
    assert (made.read, made.kept, made.regions) == (3, 3, 3)
    assert set(made.outputs) == {"s.tar", "s.parquet"}


def test_webdataset_reads_it(tmp_path: Path) -> None:
    manifest = packed(captioned(tmp_path), tmp_path)
    found = list(webdataset.WebDataset(str(manifest.with_suffix(".tar")), shardshuffle=False))
    assert [one["__key__"] for one in found] == ["s-000000", "s-000003", "s-000004"]
    assert (found[0]["jpg"], found[1]["png"], found[2]["webp"]) == (JPEG, PNG, WEBP)
    assert found[0]["txt"].decode() == "two wörds"
    about = json.loads(found[0]["json"])
    assert about["captions"] == ["two wörds", "three more words"]
    assert about["regions"][1] == {"box": [0, 0, 3, 3], "score": 1.0, "label": "dog", "caption": "one dog"}


def rewritten(manifest: Path, regions: Sequence[list[str]], *, keys: Sequence[str]) -> Path:
    """A caption table with other captions."""
    made = read_manifest(manifest)
    with TableWriter(Job(manifest, "caption", made.version, made.config, made.inputs), CaptionRow) as table:
        for key, captions in zip(keys, regions, strict=True):
            described = [RegionCaption(caption, None) for caption in captions]
            table.write(CaptionRow(key=key, kept=True, regions=described))
    return manifest


KEYS = ["s-000000", "s-000003", "s-000004"]


def test_a_region_without_words_has_no_caption(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    manifest = packed(rewritten(captioned(tmp_path), [["", "one dog"], [], [""]], keys=KEYS), tmp_path)
    rows = list(read_rows(manifest, PackRow))
    with ByteRangeReader() as reader:
        samples = [read_sample(reader, manifest.with_suffix(".tar"), row) for row in rows]
    assert [[region.caption for region in sample.regions] for sample in samples] == [[None, "one dog"], [], [None]]
    assert [row.regions for row in rows] == [2, 0, 1]
    assert "packed 3 samples with 3 regions; 2 of the regions have no caption" in caplog.text


def test_regions_and_captions_of_different_number(tmp_path: Path) -> None:
    source = rewritten(captioned(tmp_path), [["one"], [], ["one"]], keys=KEYS)
    message = "caption/s.parquet: sample s-000000 has 2 regions but 1 captions. Delete its manifest and run again."
    with pytest.raises(ShardError, match=message):
        packed(source, tmp_path)
    assert list((tmp_path / "pack").iterdir()) == []


def test_an_image_without_captions_is_packed_where_the_filter_lets_it_in(tmp_path: Path) -> None:
    limits = FilterConfig(min_side_px=1, min_words=0)
    kept = write_filtered(tmp_path, [Item(JPEG, [], [box(0, 0, 3, 3)]), Item(PNG, [" "], [])], config=limits)
    own, template = AnnotationsDetect(engine="annotations", min_side_px=1), TemplateCaption(engine="template")
    detect_shard(kept, tmp_path / "detect/s.json", own, batch_size=1, device="cpu")
    caption_shard(tmp_path / "detect/s.json", tmp_path / "caption/s.json", template, batch_size=1, device="cpu")
    manifest = packed(tmp_path / "caption/s.json", tmp_path)
    with ByteRangeReader() as reader:
        rows = list(read_rows(manifest, PackRow))
        samples = [read_sample(reader, manifest.with_suffix(".tar"), row) for row in rows]
    assert [(sample.captions, len(sample.regions)) for sample in samples] == [((), 1), ((), 0)]
    found = webdataset.WebDataset(str(manifest.with_suffix(".tar")), shardshuffle=False)
    assert [one["txt"] for one in found] == [b"", b""]


def test_tables_that_do_not_belong_together(tmp_path: Path) -> None:
    source = rewritten(captioned(tmp_path), [["one"]], keys=["s-000002"])
    with pytest.raises(ShardError, match="detect/s.parquet: keeps no sample s-000002"):
        packed(source, tmp_path)


def test_a_table_that_was_tampered_with(tmp_path: Path) -> None:
    source = captioned(tmp_path)
    rows = list(read_rows(tmp_path / "detect/s.json", DetectRow))
    (tmp_path / "detect/s.parquet").write_bytes(b"PAR1")
    with pytest.raises(ShardError, match="detect/s.parquet: is not the one that s.json names"):
        packed(source, tmp_path)
    assert len(rows) == 4


def test_images_that_are_gone(tmp_path: Path) -> None:
    source = captioned(tmp_path)
    (tmp_path / "source/s.bin").unlink()
    with pytest.raises(ShardError, match="s.bin: cannot be read"):
        packed(source, tmp_path)
    assert list((tmp_path / "pack").iterdir()) == []


def test_an_empty_shard_is_an_empty_tar(tmp_path: Path) -> None:
    manifest = packed(captioned(tmp_path, []), tmp_path)
    assert list(read_rows(manifest, PackRow)) == []
    assert list(webdataset.WebDataset(str(manifest.with_suffix(".tar")), shardshuffle=False, empty_check=False)) == []


def test_the_same_bytes_again(tmp_path: Path) -> None:
    source = captioned(tmp_path)
    hashes = {sha256_of(packed(source, tmp_path / name).with_suffix(".tar")) for name in ("one", "two")}
    assert len(hashes) == 1

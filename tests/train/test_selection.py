"""Samples of a training run, and the reasons of the missing ones."""

from pathlib import Path

import pytest

from fineclip.config import TrainConfig
from fineclip.errors import ShardError, TrainingError
from fineclip.shards import ByteRangeReader, CaptionRow, DetectRow, Job, PackRow, TableWriter
from fineclip.stages.upstream import keys_by_shard, manifests_of
from fineclip.train.selection import Selection, read_selection
from tests.helpers.packs import keys_of, sample, write_pack, write_select, write_world

LENIENT = TrainConfig(max_missing_fraction=1.0)


def selection_of(select: Path, packed: list[Path], config: TrainConfig = LENIENT) -> Selection:
    keys = keys_by_shard(select)
    return read_selection(keys, manifests_of(keys, packed, stage="pack", select=select), config)


def test_selected_and_packed_samples_are_used(tmp_path: Path) -> None:
    select, packed = write_world(tmp_path, {"a": 4, "b": 3})
    selection = selection_of(select, packed)
    assert (selection.selected, selection.samples, selection.regions) == (7, 7, (2 + 0 + 1 + 2) + (2 + 0 + 1))
    assert selection.left_out == {}
    read = selection.shards[1].read(2, ByteRangeReader())
    assert read == sample("b-000002", regions=1)


def test_shards_without_selected_samples_are_not_opened(tmp_path: Path) -> None:
    select, packed = write_world(tmp_path, {"a": 2})
    assert selection_of(select, [*packed, tmp_path / "pack/absent.json"]).samples == 2


def test_missing_samples_are_counted_by_the_reason_of_the_stage_that_dropped_them(tmp_path: Path) -> None:
    captioned = tmp_path / "caption/a.json"
    captioned.parent.mkdir()
    job = Job(captioned, stage="caption", version=1, config={}, inputs={})
    with TableWriter(job, CaptionRow) as table:
        table.write(CaptionRow(key="a-000001", kept=False, reason="no-words", regions=[]))
    manifest = write_pack(tmp_path / "pack", "a", [sample("a-000000")], dropped={"a-000002": "too-large"})
    job = Job(manifest, stage="pack", version=1, config={}, inputs=[captioned])
    rows = [PackRow(key="a-000000", kept=True), PackRow(key="a-000002", kept=False, reason="too-large")]
    with TableWriter(job, PackRow, also=(manifest.with_suffix(".tar"),)) as packed:
        for row in rows:
            packed.write(row)
    select = write_select(tmp_path / "select.json", {"a": keys_of("a", 4)})
    selection = selection_of(select, [manifest])
    assert selection.lost == {"no-words": 1, "not-packed": 1, "too-large": 1}
    assert (selection.selected, selection.samples) == (4, 1)


def test_a_reason_is_found_in_the_table_before_the_captions_too(tmp_path: Path) -> None:
    detected, captioned = tmp_path / "detect/a.json", tmp_path / "caption/a.json"
    with TableWriter(Job(detected, stage="detect", version=1, config={}, inputs={}), DetectRow) as table:
        for key, reason in (("a-000000", None), ("a-000001", "undecodable"), ("a-000002", "size-mismatch")):
            table.write(DetectRow(key=key, kept=reason is None, reason=reason, width=1, height=1, regions=[]))
    with TableWriter(Job(captioned, stage="caption", version=1, config={}, inputs=[detected]), CaptionRow) as captions:
        captions.write(CaptionRow(key="a-000000", kept=True, regions=[]))
    manifest = write_pack(tmp_path / "pack", "a", [sample("a-000000")], inputs=[captioned])
    select = write_select(tmp_path / "select.json", {"a": keys_of("a", 3)})
    assert selection_of(select, [manifest]).lost == {"size-mismatch": 1, "undecodable": 1}


def test_too_many_missing_samples_stop_the_run_with_the_counts(tmp_path: Path) -> None:
    manifest = write_pack(tmp_path, "a", [sample(key) for key in keys_of("a", 3)])
    select = write_select(tmp_path / "select.json", {"a": keys_of("a", 4)})
    assert selection_of(select, [manifest], TrainConfig(max_missing_fraction=0.25)).samples == 3
    with pytest.raises(TrainingError, match=r"1 of 4 selected samples \(25.00 %\) are not packed: 1 not-packed"):
        selection_of(select, [manifest], TrainConfig(max_missing_fraction=0.2))


def test_images_without_regions_are_left_out_under_require_region_and_are_not_missing(tmp_path: Path) -> None:
    select, packed = write_world(tmp_path, {"a": 6})
    selection = selection_of(select, packed, TrainConfig(require_region=True, max_missing_fraction=0))
    assert selection.left_out == {"no-region": 2}
    assert [key.decode() for shard in selection.shards for key in shard.keys] == [f"a-00000{n}" for n in (0, 2, 3, 5)]


def test_no_sample_left_is_an_error(tmp_path: Path) -> None:
    select, packed = write_world(tmp_path, {"a": 2}, regions=(0,))
    with pytest.raises(TrainingError, match="none of the 2 selected samples can be trained on: 2 no-region"):
        selection_of(select, packed, TrainConfig(require_region=True))


def test_a_missing_pack_is_reported(tmp_path: Path) -> None:
    select, packed = write_world(tmp_path, {"a": 2, "b": 2})
    with pytest.raises(ShardError, match="1 shards without a manifest of pack; the first is b"):
        selection_of(select, packed[:1])


def test_a_missing_tar_is_reported(tmp_path: Path) -> None:
    select, packed = write_world(tmp_path, {"a": 2})
    packed[0].with_suffix(".tar").unlink()
    with pytest.raises(ShardError, match=r"a\.tar: is missing"):
        selection_of(select, packed)

"""A manifest is written last, says the same for the same content, and knows whether its work is done."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from fineclip.config import FilterConfig
from fineclip.errors import ShardError
from fineclip.shards import (
    CaptionRow,
    FilterRow,
    Job,
    TableWriter,
    input_manifest,
    invalidate,
    kept_rows,
    read_manifest,
    read_rows,
    sha256_of,
    write_text,
)
from fineclip.shards.atomic import atomic, remove_stale_temp_files
from fineclip.shards.manifest import cached_manifest
from fineclip.types import RegionCaption

KILLED_WRITER = """
import pathlib, sys, time
from fineclip.shards.atomic import atomic
with atomic(pathlib.Path(sys.argv[1]) / "shard.tar") as temporary:
    temporary.write_text("half")
    time.sleep(600)
"""


def row(key: str, reason: str | None = None) -> FilterRow:
    return FilterRow(key=key, kept=reason is None, reason=reason, width=4, height=3, format="JPEG", sha256="0" * 64)


def make(folder: Path, *rows: FilterRow, config: FilterConfig | None = None, version: int = 1) -> Job:
    source = folder / "source.json"
    source.write_text('{"stage": "source"}')
    job = Job(folder / "shard.json", "filter", version, config or FilterConfig(), [source])
    with TableWriter(job, FilterRow) as table:
        for one in rows:
            table.write(one)
    return job


def test_counts_add_up(tmp_path: Path) -> None:
    made = read_manifest(make(tmp_path, row("a"), row("b", "too-small"), row("c", "too-small")).manifest)
    assert (made.read, made.kept, made.dropped) == (3, 1, {"too-small": 2})
    assert made.outputs == {"shard.parquet": sha256_of(tmp_path / "shard.parquet")}


@pytest.mark.parametrize(
    ("read", "kept", "dropped"),
    [(3, 1, {"too-small": 1}), (2, 1, {"too-small": 2}), (3, 4, {}), (1, 0, {"empty": 0}), (0, 1, None)],
)
def test_counts_that_do_not_add_up_are_refused(
    tmp_path: Path, read: int, kept: int, dropped: dict[str, int] | None
) -> None:
    job = Job(tmp_path / "shard.json", "filter", 1, {}, {})
    with pytest.raises(AssertionError, match=rf"shard.json: {read} read"):
        job.finish([], read=read, kept=kept, dropped=dropped)
    assert list(tmp_path.iterdir()) == []


def test_only_reasons_that_count_are_written_and_in_one_order(tmp_path: Path) -> None:
    made = Job(tmp_path / "shard.json", "filter", 1, {}, {}).finish(
        [], read=4, kept=1, dropped={"b": 1, "a": 2, "none": 0}
    )
    assert list(made.dropped.items()) == [("a", 2), ("b", 1)]
    assert read_manifest(tmp_path / "shard.json") == made


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    texts = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        job = make(tmp_path / name, row("a"), row("b", "too-small"))
        texts.append(job.manifest.read_text().replace(str(tmp_path / name), ""))
    assert texts[0] == texts[1]


def test_done_work_is_known_by_its_copy_and_its_hashes(tmp_path: Path) -> None:
    job = make(tmp_path, row("a"))
    before = job.manifest.read_bytes()
    job.manifest.unlink()  # as Snakemake does before a job
    assert job.is_up_to_date() and job.manifest.read_bytes() == before

    (tmp_path / "shard.parquet").write_bytes(b"damaged")
    assert not job.is_up_to_date()


@pytest.mark.parametrize("change", ["config", "version", "input", "forgotten"])
def test_other_work_is_not_done(tmp_path: Path, change: str) -> None:
    job = make(tmp_path, row("a"))
    config = FilterConfig(min_side_px=7) if change == "config" else FilterConfig()
    other = Job(job.manifest, "filter", 2 if change == "version" else 1, config, job.inputs)
    if change == "input":
        (tmp_path / "source.json").write_text('{"stage": "source", "version": 2}')
    if change == "forgotten":
        invalidate(job.manifest)
    assert not other.is_up_to_date()


def test_nothing_is_left_where_the_work_fails(tmp_path: Path) -> None:
    job = Job(tmp_path / "shard.json", "filter", 1, FilterConfig(), [])
    with pytest.raises(RuntimeError), TableWriter(job, FilterRow) as table:
        table.write(row("a"))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_orphans_of_killed_writers_are_swept(tmp_path: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", KILLED_WRITER, str(tmp_path)])
    while not (orphans := list(tmp_path.glob(".*.tmp"))):
        time.sleep(0.02)
    killed.kill()
    while psutil.Process(killed.pid).status() != psutil.STATUS_ZOMBIE:  # as where nobody waits for it
        time.sleep(0.02)
    assert [path.name.split(".")[1:3] for path in orphans] == [["shard", "tar"]]
    Job(tmp_path / "shard.json", "pack", 1, {}, []).is_up_to_date()
    killed.wait()
    assert list(tmp_path.iterdir()) == []


def test_only_orphans_are_swept(tmp_path: Path) -> None:
    """A writer that lives keeps its file; another host's is left alone until nobody has written for an hour."""
    distant = tmp_path / ".shard.tar.far-away.1.0a0b0c0d.tmp"
    distant.touch()
    with atomic(tmp_path / "shard.tar") as own:
        own.touch()
        other = own.with_name(own.name.replace(".shard.tar.", ".other.tar.").replace(f".{os.getpid()}.", ".999999999."))
        other.touch()
        remove_stale_temp_files(tmp_path, "shard")
        assert own.exists()
        assert other.exists()
        assert distant.exists()
        os.utime(distant, times=(0, time.time() - 4000))
        os.utime(own, times=(0, 0))  # as if written before this process began: it has the number of another
        remove_stale_temp_files(tmp_path, "shard")
        assert not distant.exists()
        assert not own.exists()
        own.touch()  # so that the block ends well
    assert (tmp_path / "shard.tar").exists()


def test_a_changed_or_missing_table_is_named(tmp_path: Path) -> None:
    job = make(tmp_path, row("a"))
    assert [one.key for one in kept_rows(job.manifest, FilterRow)] == ["a"]
    (tmp_path / "shard.parquet").write_bytes(b"other")
    with pytest.raises(
        ShardError, match=r"shard.parquet: is not the one that shard.json names. Delete .* and run again"
    ):
        list(read_rows(job.manifest, FilterRow))
    (tmp_path / "shard.parquet").unlink()
    with pytest.raises(ShardError, match=r"is missing"):
        list(read_rows(job.manifest, FilterRow))


def test_a_manifest_leads_to_those_before_it(tmp_path: Path) -> None:
    made = make(tmp_path, row("a")).manifest
    source = Job(tmp_path / "source.json", "source", 1, {}, [])
    source.finish([])
    again = Job(made, "filter", 1, FilterConfig(), [tmp_path / "source.json"])
    with TableWriter(again, FilterRow) as table:
        table.write(row("a"))
    assert input_manifest(made, "source") == tmp_path / "source.json"
    with pytest.raises(ShardError, match="names no manifest of detect"):
        input_manifest(made, "detect")


def test_a_json_of_somebody_elses_among_the_inputs_is_passed_over(tmp_path: Path) -> None:
    other, wanted = tmp_path / "instances.json", tmp_path / "wanted.json"
    other.write_text('{"images": [], "annotations": []}')
    Job(wanted, "source", 1, {}, []).finish([])
    Job(tmp_path / "x.json", "filter", 1, {}, {str(other): "0", str(wanted): "0"}).finish([])
    assert input_manifest(tmp_path / "x.json", "source") == wanted
    with pytest.raises(ShardError, match="names no manifest of detect among its inputs, .*instances.json"):
        input_manifest(tmp_path / "x.json", "detect")


def test_regions_without_captions_are_counted_where_there_are_any(tmp_path: Path) -> None:
    captions: list[list[str | None]] = [["a cat", None], ["", None], []]
    with TableWriter(Job(tmp_path / "c.json", "caption", 1, {}, []), CaptionRow) as table:
        for key, of_image in enumerate(captions):
            regions = [RegionCaption(caption, None) for caption in of_image]
            table.write(CaptionRow(key=str(key), kept=True, regions=regions))
    made = read_manifest(tmp_path / "c.json")
    assert (made.regions, made.uncaptioned) == (4, {"empty": 1, "missing-key": 2})
    assert "uncaptioned" not in make(tmp_path, row("a")).manifest.read_text()


def test_what_is_no_manifest_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(ShardError, match="no such manifest"):
        read_manifest(path)
    path.write_text(json.dumps({"stage": "filter"})[:-3])
    with pytest.raises(ShardError, match="is not a manifest"):
        read_manifest(path)


def test_a_row_is_kept_or_has_a_reason(tmp_path: Path) -> None:
    job = Job(tmp_path / "shard.json", "filter", 1, FilterConfig(), [])
    with pytest.raises(AssertionError), TableWriter(job, FilterRow) as table:
        table.write(FilterRow(key="a", kept=False, width=1, height=1, format=None, sha256=""))
    assert not cached_manifest(job.manifest).exists()


def test_a_table_that_its_manifest_does_not_name_is_refused(tmp_path: Path) -> None:
    manifest = make(tmp_path, row("a")).manifest
    write_text(manifest, replace(read_manifest(manifest), outputs={}).text())
    with pytest.raises(ShardError, match=r"shard.parquet: is not the one that shard.json names"):
        list(read_rows(manifest, FilterRow))

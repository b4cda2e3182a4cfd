"""A picture put into a folder, or a caption mended, is seen by the next run; where nothing changed, nothing is planned."""

from pathlib import Path

import pytest

from fineclip.config import merge
from fineclip.shards import SourceRow, kept_rows, read_manifest
from tests.helpers.dag import SMALL, planned, run_all, write_config
from tests.helpers.images import encoded

pytestmark = pytest.mark.slow

LISTING = "data/small/listing.json"


def put(folder: Path, number: int, caption: str) -> None:
    (folder / f"{number}.png").write_bytes(encoded(96, 96, color=number, kind="PNG"))
    (folder / f"{number}.txt").write_text(caption)


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    for number in range(4):
        put(root, number, f"picture number {number}")
    values = merge(SMALL, {"encoders": {"mini": {"model": "x", "weights": {"path": "x"}}}, "benchmarks": {}})
    source = {"kind": "folder", "root": "pictures", "images_per_shard": 20}
    write_config(
        tmp_path,
        values | {"source": source, "benchmarks": {}, "select": {}, "plan": values["plan"] | {"benchmarks": []}},
    )
    run_all(tmp_path, "source")
    assert read_manifest(tmp_path / LISTING).read == 4
    assert planned(tmp_path, "source") == {}

    put(root, 4, "a new picture")
    assert planned(tmp_path, "source") == {"index_source": 1, "source_shard": 1}
    run_all(tmp_path, "source")
    assert read_manifest(tmp_path / LISTING).read == 5
    assert planned(tmp_path, "source") == {}

    (root / "4.txt").write_text("a new pictore")
    run_all(tmp_path, "source")
    rows = list(kept_rows(tmp_path / "data/small/source/folder-0000.json", SourceRow))
    assert {row.source_key: row.captions for row in rows}["4.png"] == ["a new pictore"]

    written = (tmp_path / LISTING).with_suffix(".parquet").stat().st_mtime_ns
    (root / "4.png").touch()  # looked at again, and found to be what it was: the wave stops there
    run_all(tmp_path, "source")
    assert (tmp_path / LISTING).with_suffix(".parquet").stat().st_mtime_ns == written
    assert planned(tmp_path, "source") == {}

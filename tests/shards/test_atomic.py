"""Files are flushed to disk before they take their name, and the folder after it; a failed write leaves the old file."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fineclip.config import FilterConfig
from fineclip.errors import SystemRefusalError
from fineclip.shards import FilterRow, Job, TableWriter, atomic, write_bytes, write_text, write_texts


class Disk:
    """Records each flush: of which file or folder, of how many bytes, and the names that the folder shows then."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.flushed: list[tuple[int, int, set[str]]] = []
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self.fsync)

    def fsync(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        self.flushed.append((status.st_ino, status.st_size, self.names()))
        self._fsync(descriptor)

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir() if not path.name.startswith(".")}


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(tmp_path, monkeypatch)


def write_embeddings(path: Path) -> None:
    write_texts(path, ["a", "b"], np.ones((2, 3), np.float32), text_tower="abc")


WRITERS: dict[str, Callable[[Path], None]] = {
    "text": lambda path: write_text(path, "new" * 5000),
    "bytes": lambda path: write_bytes(path, b"new" * 5000),
    "embeddings": write_embeddings,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_is_flushed_then_renamed_then_its_folder_is_flushed(tmp_path: Path, disk: Disk, writer: str) -> None:
    path = tmp_path / "file"
    WRITERS[writer](path)
    file, folder = path.stat(), tmp_path.stat()
    assert [inode for inode, _, _ in disk.flushed] == [file.st_ino, folder.st_ino]
    (_, size, before), (_, _, after) = disk.flushed
    assert size == file.st_size > 0
    assert (before, after) == (set(), {"file"})


def test_a_manifest_is_written_after_its_table_is_on_disk(tmp_path: Path, disk: Disk) -> None:
    job = Job(tmp_path / "shard.json", "filter", 1, FilterConfig(), {})
    with TableWriter(job, FilterRow) as table:
        table.write(FilterRow(key="a", kept=True, width=4, height=3, format="JPEG", sha256="0" * 64))
    written = ("shard.parquet", ".shard.json", "shard.json")
    table_file, copy, manifest = ((tmp_path / name).stat().st_ino for name in written)
    folder = tmp_path.stat().st_ino
    assert [inode for inode, _, _ in disk.flushed] == [table_file, folder, copy, folder, manifest, folder]
    assert ["shard.json" in names for _, _, names in disk.flushed] == [False] * 5 + [True]


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent  # a rename between file systems is a copy
    assert path.read_text() == "new"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, disk: Disk) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic(path) as temporary:
        temporary.write_text("half")
        1 / 0  # noqa: B018
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    assert disk.flushed == []


def test_a_disk_that_cannot_be_flushed_to_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemRefusalError, match=rf"{path}: cannot be written: No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_two_writers_of_one_file_do_not_share_a_temporary_name(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic(path) as first, atomic(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # renamed last


def test_absent_folders_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "a/b/file", "text")
    assert (tmp_path / "a/b/file").read_text() == "text"

"""Byte ranges of files: at most a fixed number of files is open, the ones read last, and none after the end."""

import os
from pathlib import Path

import psutil
import pytest

from fineclip.shards import ByteRangeReader


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number:02d}" for number in range(20)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes(range(number, number + 30)))
    return paths


def opened(folder: Path) -> list[str]:
    """The names of the files of a folder that this process has open; one that is open twice is named twice."""
    found = (Path(file.path) for file in psutil.Process().open_files())
    return sorted(path.name for path in found if path.parent == folder.resolve())


def test_the_eight_files_that_were_read_last_stay_open(tmp_path: Path, files: list[Path]) -> None:
    with ByteRangeReader() as reader:
        for number, path in enumerate(files):
            assert reader.read(path, 3, 2) == bytes([number + 3, number + 4])
            assert len(opened(tmp_path)) == min(number + 1, 8)
        assert opened(tmp_path) == [path.name for path in files[12:]]
        reader.read(files[12], 0, 1)  # the oldest becomes the newest
        reader.read(files[0], 0, 1)
        assert opened(tmp_path) == ["00", "12", *(path.name for path in files[14:])]
    assert opened(tmp_path) == []


@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize("read_ahead", [False, True])
def test_maximum_of_open_files(tmp_path: Path, files: list[Path], most: int, read_ahead: bool) -> None:
    reader = ByteRangeReader(most, read_ahead=read_ahead)
    for _ in range(2):
        for number, path in enumerate(files):
            assert reader.read(path, 29, 1) == bytes([number + 29])
            assert len(opened(tmp_path)) <= most
    assert opened(tmp_path) == [path.name for path in files[-most:]]
    reader.close()
    assert opened(tmp_path) == []
    assert reader.read(files[0], 0, 1) == b"\0"  # a closed reader opens files again
    reader.close()


def test_a_file_is_opened_once_for_many_reads(tmp_path: Path, files: list[Path]) -> None:
    with ByteRangeReader() as reader:
        assert [reader.read(files[0], offset, 1)[0] for offset in (7, 2, 29, 0)] == [7, 2, 29, 0]
        assert reader.read(str(files[0]), 0, 30) == bytes(range(30))
        assert opened(tmp_path) == ["00"]


def test_a_read_neither_uses_nor_moves_the_position_that_forked_processes_share(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    path.write_bytes(b"0123456789")
    with ByteRangeReader() as reader:
        assert reader.read(path, 3, 2) == b"34"
        [file] = reader._files.values()
        os.lseek(file.fileno(), 7, os.SEEK_SET)  # another process reads
        assert reader.read(path, 0, 3) == b"012"
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 7

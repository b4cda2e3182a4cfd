"""Folders with links, links that lead nowhere, hidden names and files of other formats."""

import logging
import os
from pathlib import Path

import pytest

from fineclip.errors import DataError
from fineclip.readers.files import directory_fingerprint, is_image, list_files, log_unread


def put(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def link(path: Path, target: str | Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def names(root: Path) -> list[str]:
    return sorted(list_files(root).files)


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "cats/1.jpg", "cats/deep/2.jpg", "dogs/3.jpg")
    root = put(tmp_path / "in", "own/4.jpg")
    link(root / "b", tmp_path / "elsewhere/cats")
    link(root / "c", tmp_path / "elsewhere/cats")  # again
    link(root / "d", tmp_path / "elsewhere")  # holds one that is read already
    link(root / "a", "own")  # a folder that is no link counts first
    listing = list_files(root)
    assert sorted(listing.files) == ["b/1.jpg", "b/deep/2.jpg", "d/dogs/3.jpg", "own/4.jpg"]
    assert sorted(listing.repeated) == ["a/", "c/", "d/cats/"]
    assert listing.files["b/1.jpg"].stat().st_size == len("cats/1.jpg")


def test_links_to_links_and_a_root_that_is_a_link(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "1.jpg")
    link(tmp_path / "elsewhere/more", tmp_path / "further")
    put(tmp_path / "further", "2.jpg")
    link(tmp_path / "in/a", tmp_path / "hop")
    link(tmp_path / "hop", tmp_path / "elsewhere")
    link(tmp_path / "root", tmp_path / "in")
    assert names(tmp_path / "root") == names(tmp_path / "in") == ["a/1.jpg", "a/more/2.jpg"]


def test_circles_are_left_out(tmp_path: Path) -> None:
    put(tmp_path, "beside/0.jpg")
    root = put(tmp_path / "in", "x/1.jpg")
    for where, target in (("here", "."), ("parent", ".."), ("x/up", ".."), ("x/self", "../x"), ("top", "/")):
        link(root / where, target)
    link(root / "a", "a")
    link(root / "b", "c")
    link(root / "c", "b")
    put(tmp_path / "elsewhere/sub", "2.jpg")
    put(tmp_path / "elsewhere", "3.jpg")
    link(tmp_path / "elsewhere/sub/up", "..")
    link(root / "linked", tmp_path / "elsewhere/sub")
    listing = list_files(root)
    assert sorted(listing.files) == ["linked/2.jpg", "x/1.jpg"]
    assert sorted(listing.broken) == ["a", "b", "c"]


def test_broken_links(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = put(tmp_path / "in", "1.jpg", "real.bin")
    for name in ("2.jpg", "folder", "3.txt"):
        link(root / name, "nowhere")
    link(root / "4.jpg", "4.jpg")
    link(root / "5.jpg", "real.bin")
    link(root / "6.jpg", "1.jpg/x")  # a file is no folder
    listing = list_files(root)
    assert sorted(listing.files) == ["1.jpg", "5.jpg", "real.bin"]
    assert sorted(listing.broken) == ["2.jpg", "3.txt", "4.jpg", "6.jpg", "folder"]
    log_unread(listing)
    assert "2 links lead nowhere and are skipped, such as 3.txt" in caplog.text


def test_what_is_neither_file_nor_folder_is_skipped(tmp_path: Path) -> None:
    root = put(tmp_path / "in", "1.jpg")
    os.mkfifo(root / "2.jpg")
    link(root / "3.jpg", "2.jpg")
    listing = list_files(root)
    assert (list(listing.files), listing.broken) == (["1.jpg"], [])


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "jfif", "jpe", "png", "webp", "gif", "bmp", "tif", "tiff"])
def test_images(suffix: str) -> None:
    assert is_image(f"a.b/c.{suffix}")


@pytest.mark.parametrize("name", ["a.avif", "a", "jpg", ".jpg", "a.jpg.txt", "a.svg"])
def test_no_images(name: str) -> None:
    assert not is_image(name)


def test_suffixes_of_what_is_not_read_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = put(tmp_path, "1.jpg", "1.txt", "1.json", "c.csv", "2.avif", "3.AVIF", "4.heic", "5", ".hidden/6.avif")
    log_unread(list_files(root), named=["4.heic"])
    assert (
        "3 files are not read, because their suffix is of no supported image format: 2 .avif, 1 without a suffix"
        in caplog.text
    )
    caplog.clear()
    log_unread(list_files(root), named=["2.avif", "3.AVIF", "4.heic", "5"])
    assert not caplog.records


def test_hidden_files_exist(tmp_path: Path) -> None:
    root = put(tmp_path / "in", "1.jpg", ".2.jpg", ".x/3.jpg")
    put(tmp_path, ".4.jpg")
    listing = list_files(root)
    asked = ("1.jpg", ".2.jpg", ".x/3.jpg", ".x", "../.4.jpg", ".none.jpg", ".\0", "." + "x" * 300)
    assert [listing.is_unlisted_file(name) for name in asked] == [False, True, True] + [False] * 5


@pytest.mark.parametrize("changed", ["1.jpg", "sub/1.txt", "sub/1.json", "linked/2.jpg"])
def test_the_fingerprint_sees_changes_through_links(tmp_path: Path, changed: str) -> None:
    put(tmp_path / "elsewhere", "2.jpg")
    root = put(tmp_path / "in", "1.jpg", "sub/1.txt", "sub/1.json", "notes.md")
    link(root / "linked", tmp_path / "elsewhere")
    before = directory_fingerprint(root)
    put(root, "other.md")
    assert directory_fingerprint(root) == before
    (root / changed).write_bytes(b"changed content")
    assert directory_fingerprint(root) != before


def test_the_fingerprint_sees_a_link_that_is_mended(tmp_path: Path) -> None:
    root = put(tmp_path / "in", "1.jpg")
    alone = directory_fingerprint(root)
    link(root / "2.jpg", tmp_path / "later.jpg")
    broken = directory_fingerprint(root)
    put(tmp_path, "later.jpg")
    assert len({alone, broken, directory_fingerprint(root)}) == 3


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none: cannot be read: No such file"):
        list_files(tmp_path / "none")
    put(tmp_path, "1.jpg")
    with pytest.raises(DataError, match=r"1\.jpg: cannot be read: Not a directory"):
        list_files(tmp_path / "1.jpg")


def test_folders_that_are_read_once_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = put(tmp_path, "a/1.jpg")
    link(root / "b", "a")
    with caplog.at_level(logging.INFO):
        list_files(root)
    assert "1 links lead to folders that are read once, such as b/" in caplog.text

"""One name in several spellings, and names that are not the same."""

import unicodedata
from pathlib import Path

import pytest

from fineclip.errors import DataError
from fineclip.readers.files import list_files
from fineclip.readers.names import FileNames, FolderNames, ImageNames, canonical_name

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "sub/café.jpg") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("on_disk", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize(
    "stated",
    [
        COMPOSED,
        DECOMPOSED,
        f"./{COMPOSED}",
        f"././{DECOMPOSED}",
        COMPOSED.replace("/", "\\"),
        f".\\{DECOMPOSED}".replace("/", "\\"),
        "sub//./café.jpg",
    ],
)
def test_spellings_of_one_name(on_disk: str, stated: str) -> None:
    assert FileNames([on_disk, "other.jpg"]).find(stated) == on_disk


@pytest.mark.parametrize(
    "stated",
    [
        "",
        ".",
        "/",
        "/sub/1.jpg",
        "../sub/1.jpg",
        "sub/../sub/1.jpg",
        "SUB/1.jpg",
        "sub/1.JPG",
        "sub/1",
        "1.jpg",
        "x/sub/1.jpg",
        "C:\\sub\\1.jpg",
        "\\sub\\1.jpg",
        "sub/1.jpg ",
        "sub/1.jpg\0",
    ],
)
def test_other_names(stated: str) -> None:
    assert FileNames(["sub/1.jpg", "2.jpg"]).find(stated) is None


def test_a_form_of_several_files_matches_none_of_them() -> None:
    names = FileNames([COMPOSED, DECOMPOSED])
    assert (names.find(COMPOSED), names.find(DECOMPOSED)) == (COMPOSED, DECOMPOSED)
    assert names.find(f"./{COMPOSED}") is None


def test_a_name_may_begin_with_the_folder_of_the_files() -> None:
    names = FileNames(["1.jpg", "val/2.jpg"])
    spellings = ("val/1.jpg", "./val/1.jpg", "val\\1.jpg", "1.jpg", "val/2.jpg", "val/val/2.jpg")
    assert [names.find_below(name, "val") for name in spellings] == ["1.jpg"] * 4 + ["val/2.jpg"] * 2
    assert [names.find_below(name, "val") for name in ("2.jpg", "x/val/1.jpg", "/val/1.jpg", "../val/1.jpg")] == [
        None
    ] * 4


def test_a_name_through_a_link_to_a_folder_that_is_listed(tmp_path: Path) -> None:
    (tmp_path / "in/real/sub").mkdir(parents=True)
    (tmp_path / "in/real/sub/1.jpg").write_bytes(b"1")
    (tmp_path / "outside.jpg").write_bytes(b"2")
    (tmp_path / "in/link").symlink_to("real")
    (tmp_path / "in/up").symlink_to("..")
    names = FolderNames(list_files(tmp_path / "in"))
    assert names.find("link/sub/1.jpg") == names.find("./link\\sub/1.jpg") == "real/sub/1.jpg"
    for name in (
        "up/outside.jpg",
        "../outside.jpg",
        f"{tmp_path}/outside.jpg",
        "link/../../outside.jpg",
        "link/none.jpg",
        "link/" + "x" * 300 + "/1.jpg",
    ):
        assert names.find(name) is None


def test_comparable_keeps_what_leads_out() -> None:
    assert [canonical_name(name) for name in ("/a", "//a", "../a", "a/../b", "a/")] == [
        "/a",
        "/a",
        "../a",
        "a/../b",
        "a",
    ]


def test_images_of_a_released_json_in_other_spellings() -> None:
    names = ImageNames([f"train/{DECOMPOSED}", ".\\train\\2.jpg"], where="x.json")
    assert [names.find(key) for key in ("café", COMPOSED, "sub\\café", "2", "train/2.jpg", "val/2.jpg")] == [
        0,
        0,
        0,
        1,
        1,
        None,
    ]
    with pytest.raises(DataError, match="could be"):
        ImageNames(["a/1.jpg", "b\\1.jpg"], where="x.json").find("1")

"""Your own images: captions beside them or in a table; what lacks one or the other is a row with its reason."""

import json
import os
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fineclip.config import FilterConfig, FolderSource, MiniatureSource
from fineclip.errors import ConfigError, DataError
from fineclip.shards import ByteRangeReader, FilterRow, SourceRow, kept_rows, read_manifest, read_rows, sha256_of
from fineclip.stages.filter import filter_shard
from fineclip.stages.source.shard import Slice, index_source, slice_of, source_shard
from fineclip.stages.source.shard_plan import PlannedShard, planned_shards
from tests.helpers.images import HTML, encoded, put


def listed(root: Path, **more: object) -> dict[str, SourceRow]:
    """Rows of the listing by source key."""
    manifest = root.parent / "listing.json"
    index_source(manifest, FolderSource(kind="folder", root=str(root), **more))
    return {row.source_key: row for row in read_rows(manifest, SourceRow)}


def reasons(rows: dict[str, SourceRow]) -> dict[str, str | None]:
    return {key: row.reason for key, row in rows.items()}


def captions(rows: dict[str, SourceRow]) -> dict[str, list[str]]:
    return {key: row.captions for key, row in rows.items()}


def test_captions_beside_images(tmp_path: Path) -> None:
    root = put(
        tmp_path / "in",
        {
            "a.jpg": encoded(),
            "a.txt": "\ufeffone cat\n\n  another cat \r\n",
            "sub/my photo.v2.JPG": encoded(color=1),
            "sub/my photo.v2.txt": "ünïcode 猫",
            "no-text.png": encoded(kind="PNG"),
            "blank.jpg": encoded(),
            "blank.TXT": " \n",
            "empty.jpg": encoded(),
            "empty.txt": "",
            "latin.jpg": encoded(),
            "latin.txt": b"caf\xe9 table",
            "page.jpg": HTML,
            "page.txt": "a picture that is a page",
            "README.txt": "not a caption",
        },
    )
    rows = listed(root)
    assert captions(rows) == {
        "a.jpg": ["one cat", "another cat"],
        "sub/my photo.v2.JPG": ["ünïcode 猫"],
        "no-text.png": [],
        "blank.jpg": [""],
        "empty.jpg": [""],
        "latin.jpg": ["café table"],
        "page.jpg": ["a picture that is a page"],
    }
    assert {key for key, reason in reasons(rows).items() if reason} == {"no-text.png"}
    assert rows["no-text.png"].reason == "no-text"
    assert rows["a.jpg"].file == (root / "a.jpg").as_posix()
    assert rows["a.jpg"].size == len(encoded())
    assert rows["a.jpg"].annotations is None


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_captions_in_a_table(tmp_path: Path, suffix: str) -> None:
    root = put(tmp_path / "in", {name: encoded() for name in ("001.jpg", "x/b.jpg", "c.jpg", "d.jpg")})
    images = ["001.jpg", "./x/b.jpg", "001.jpg", "gone.jpg", "../in/c.jpg", "d.jpg"]
    texts = ['one, "cat"', "line\nbreak", "two cats", "nobody", "outside", ""]
    if suffix == ".csv":
        quoted = ('"' + text.replace('"', '""') + '"' for text in texts)
        lines = [f"{image},7,{text}" for image, text in zip(images, quoted, strict=True)]
        put(root, {"captions.csv": "\ufeffimage,number,caption\r\n" + "\r\n".join(lines) + "\r\n"})
    else:
        pq.write_table(pa.table({"caption": texts, "number": [7] * 6, "image": images}), root / "captions.parquet")
    rows = listed(root, captions=f"captions{suffix}")
    assert captions(rows) == {
        "001.jpg": ['one, "cat"', "two cats"],
        "x/b.jpg": ["line\nbreak"],
        "c.jpg": [],
        "d.jpg": [""],
        "gone.jpg": ["nobody"],
        "../in/c.jpg": ["outside"],
    }
    found = reasons(rows)
    assert {key: reason for key, reason in found.items() if reason} == {
        "c.jpg": "no-text",
        "gone.jpg": "missing-image",
        "../in/c.jpg": "missing-image",
    }
    assert rows["gone.jpg"].file is None


def test_a_parquet_may_hold_lists_and_nulls(tmp_path: Path) -> None:
    root = put(tmp_path / "in", {"a.jpg": encoded(), "b.jpg": encoded()})
    pq.write_table(pa.table({"image": ["a.jpg", "b.jpg"], "caption": [["one", "two"], None]}), root / "c.parquet")
    assert captions(listed(root, captions="c.parquet")) == {"a.jpg": ["one", "two"], "b.jpg": []}


def test_a_table_may_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path, {"in/a.jpg": encoded(), "c.csv": "image,caption\na.jpg,a cat\n"})
    rows = listed(Path("in"), captions="c.csv")
    assert rows["a.jpg"].captions == ["a cat"]
    assert rows["a.jpg"].file == "in/a.jpg"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.csv", b"image,text\na.jpg,cat\n", r"c\.csv: has no column caption; it has image, text\. Name them so"),
        ("c.csv", b"", r"has no column image and no column caption; it has none"),
        ("c.csv", b'image,caption\na.jpg,"never closed\n', "cannot be read as CSV"),
        ("c.csv", b"image,caption\n/abs/a.jpg,cat\n", "none of its 1 images is under .*the first is '/abs/a.jpg'"),
        ("c.parquet", b"PAR1 cut", "cannot be read as parquet"),
    ],
)
def test_a_bad_table_is_one_message(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    root = put(tmp_path / "in", {"a.jpg": encoded(), name: content})
    with pytest.raises(DataError, match=message):
        listed(root, captions=name)
    assert not (tmp_path / "listing.json").exists()


def test_a_name_that_is_not_unicode_is_a_row_too(tmp_path: Path) -> None:
    root = put(tmp_path / "in", {"a.jpg": encoded(), "a.txt": "a cat"})
    try:
        (root / os.fsdecode(b"b\xff.jpg")).write_bytes(encoded())
    except OSError:
        pytest.skip("this file system has Unicode names alone")
    assert reasons(listed(root)) == {"a.jpg": None, "b\\udcff.jpg": "bad-name"}


def test_the_order_is_that_of_the_seed(tmp_path: Path) -> None:
    root = put(tmp_path / "in", {f"{number}.jpg": encoded() for number in range(20)})
    zero, again, one = list(listed(root)), list(listed(root)), list(listed(root, seed=1))
    assert zero == again
    assert sorted(zero) == sorted(one)
    assert zero != one
    assert zero != sorted(zero)
    put(root, {"new.jpg": encoded()})
    assert [name for name in listed(root) if name != "new.jpg"] == zero


def test_shards_are_slices_of_the_listing(tmp_path: Path) -> None:
    texts = {f"{number}.txt": "a cat" for number in range(5)}
    root = put(tmp_path / "in", texts | {f"{number}.jpg": encoded(color=number) for number in range(5)})
    config = FolderSource(kind="folder", root=str(root), images_per_shard=2)
    rows = listed(root, images_per_shard=2)
    shards = planned_shards(config)
    for shard in shards:
        source_shard(shard, tmp_path / f"source/{shard.name}.json", config, listing=tmp_path / "listing.json")
    found = [list(kept_rows(tmp_path / f"source/{shard.name}.json", SourceRow)) for shard in shards]
    assert [len(part) for part in found] == [2, 2, 1]
    assert [row.source_key for part in found for row in part] == list(rows)
    assert [row.key for row in found[1]] == ["folder-0001-000000", "folder-0001-000001"]
    with ByteRangeReader() as reader:
        for row in found[0]:
            assert reader.read(row.file or "", row.offset, row.size) == encoded(color=int(row.source_key[0]))
    filter_shard(tmp_path / "source/folder-0000.json", tmp_path / "filter.json", FilterConfig(min_side_px=8))
    assert sum(1 for _ in kept_rows(tmp_path / "filter.json", FilterRow)) == 2


@pytest.mark.parametrize(
    ("position", "of", "listed_rows", "expected"),
    [
        (0, 3, 25, Slice(0, 10)),
        (1, 3, 25, Slice(10, 20)),
        (2, 3, 25, Slice(20, 25)),
        (2, 3, 99, Slice(20, 99)),  # the table names images that are missing
        (1, 3, 15, Slice(10, 15)),
        (2, 3, 15, Slice(15, 15)),  # no row for some of the image files
        (0, 1, 0, Slice(0, 0)),
    ],
)
def test_slices(position: int, of: int, listed_rows: int, expected: Slice) -> None:
    assert slice_of(PlannedShard("s", position, of), listed=listed_rows, images_per_shard=10) == expected


def test_an_empty_shard_is_a_table_without_rows(tmp_path: Path) -> None:
    root = put(tmp_path / "in", {"a.jpg": encoded(), "a.txt": "a cat"})
    listed(root)
    config = FolderSource(kind="folder", root=str(root), images_per_shard=1)
    source_shard(PlannedShard("s", 1, 3), tmp_path / "s.json", config, listing=tmp_path / "listing.json")
    assert read_manifest(tmp_path / "s.json").read == 0


def test_the_listing_is_made_again_when_a_text_changes(tmp_path: Path) -> None:
    root = put(tmp_path / "in", {"a.jpg": encoded(), "a.txt": "one cat"})
    listed(root)
    first = sha256_of(tmp_path / "listing.json")
    listed(root, images_per_shard=9)
    assert sha256_of(tmp_path / "listing.json") == first
    put(root, {"a.txt": "two cat"})
    assert listed(root)["a.jpg"].captions == ["two cat"]
    assert sha256_of(tmp_path / "listing.json") != first


@pytest.mark.parametrize("files", [[], ["notes.txt"], ["sub/readme.md"]])
def test_a_folder_without_images_writes_nothing(tmp_path: Path, files: list[str]) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for name in files:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("a text")
    with pytest.raises(DataError, match="root: holds no image"):
        index_source(tmp_path / "listing.json", FolderSource(kind="folder", root=str(root)))
    assert not list(tmp_path.glob("listing*"))


def test_invalid_options_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="miniature has no listing"):
        index_source(tmp_path / "l.json", MiniatureSource(kind="miniature"))
    with pytest.raises(ConfigError, match="needs the listing"):
        source_shard(PlannedShard("s", 0, 1), tmp_path / "s.json", FolderSource(kind="folder", root=str(tmp_path)))


def test_json_beside_a_text_may_state_it_as_one_caption(tmp_path: Path) -> None:
    text = "a dog\nruns\n"
    images = {f"{name}.jpg": encoded() for name in "abcde"}
    texts = {f"{name}.txt": text for name in "abcde"}
    stated = {
        "a.json": '{"caption": "a dog runs"}',
        "b.json": '\ufeff{"captions": ["other", "a dog\\r\\nruns"]}'.encode("utf-16-le"),
        "c.json": '{"caption": "another"}',
        "d.json": "not JSON",
    }
    found = captions(listed(put(tmp_path / "in", images | texts | stated)))
    one, two = ["a dog\nruns"], ["a dog", "runs"]
    assert found == {"a.jpg": one, "b.jpg": one, "c.jpg": two, "d.jpg": two, "e.jpg": two}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig", "cp1252"])
def test_texts_of_every_encoding(tmp_path: Path, encoding: str) -> None:
    root = put(tmp_path / "in", {"a.jpg": encoded(), "a.txt": "a café\r\ntwo cafés".encode(encoding)})
    assert captions(listed(root)) == {"a.jpg": ["a café", "two cafés"]}


def test_a_text_belongs_to_a_name_in_another_unicode_form(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    alone = put(tmp_path / "one", {f"{composed}.jpg": encoded(), f"{decomposed}.txt": "a cat"})
    assert captions(listed(alone)) == {f"{composed}.jpg": ["a cat"]}
    both = {f"{composed}.jpg": encoded(), f"{decomposed}.jpg": encoded(), f"{decomposed}.txt": "a cat"}
    found = listed(put(tmp_path / "both", both))
    assert captions(found) == {f"{composed}.jpg": [], f"{decomposed}.jpg": ["a cat"]}


def test_spellings_of_one_image_in_a_table_are_one_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = put(tmp_path / "in", {"sub/1.jpg": encoded(), "2.jpg": encoded()})
    (root / "link").symlink_to("sub")
    stated = [
        "sub/1.jpg",
        "./sub/1.jpg",
        "sub\\1.jpg",
        "link/1.jpg",
        "2.JPG",
        "/data/2.jpg",
        "C:\\2.jpg",
        "../in/2.jpg",
        "2",
    ]
    put(root, {"c.tsv": "image\tcaption\n" + "".join(f"{name}\tcaption {n}\n" for n, name in enumerate(stated))})
    rows = listed(root, captions="c.tsv")
    assert rows["sub/1.jpg"].captions == [f"caption {n}" for n in range(4)]
    assert reasons(rows) == {"sub/1.jpg": None, "2.jpg": "no-text"} | dict.fromkeys(stated[4:], "missing-image")
    assert "5 of 9 image names match no file" in caplog.text
    assert "such as 2.JPG" in caplog.text


def test_a_file_that_exists_is_not_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["1.jfif", "2.avif", "3", ".4.jpg", ".x/5.jpg", "sub/6.svg", "7.jpe"]
    root = put(tmp_path / "in", {name: encoded() for name in names} | {"8.heic": b"", "9.HEIC": b""})
    (root / "gone.jpg").symlink_to("nowhere")
    stated = [*names[:5], "./sub\\6.svg", "7.jpe", "gone.jpg"]
    put(root, {"c.csv": "image;caption\n" + "".join(f"{name};a cat\n" for name in stated)})
    rows = listed(root, captions="c.csv")
    assert reasons(rows) == {
        "1.jfif": None,
        "7.jpe": None,
        "2.avif": "unsupported-format",
        "3": "unsupported-format",
        "sub/6.svg": "unsupported-format",
        ".4.jpg": "hidden-file",
        ".x/5.jpg": "hidden-file",
        "gone.jpg": "missing-image",
    }
    assert all(row.file is None for row in rows.values() if not row.kept)
    assert "1 of 8 image names match no file" in caplog.text
    assert "2 files are not read" in caplog.text
    assert "2 .heic" in caplog.text


def test_names_without_their_suffix_are_said(tmp_path: Path) -> None:
    root = put(tmp_path / "in", {"1.jpg": encoded()})
    pq.write_table(pa.table({"image": [1, 2], "caption": ["a", "b"]}), root / "c.parquet")
    with pytest.raises(DataError, match=r"the first is '1'.*with their suffix, such as 1\.jpg"):
        listed(root, captions="c.parquet")


def test_broken_links_are_rows_and_are_planned(tmp_path: Path) -> None:
    root = put(tmp_path / "in", {"0.jpg": encoded(), "0.txt": "a cat", "1.txt": "a dog"})
    for name in ("1.jpg", "sub.jpg", "2.png", "folder"):
        (root / name).symlink_to("nowhere")
    found = listed(root)
    assert reasons(found) == {"0.jpg": None} | dict.fromkeys(("1.jpg", "sub.jpg", "2.png"), "missing-image")
    config = FolderSource(kind="folder", root=str(root), images_per_shard=2)
    assert len(planned_shards(config)) == 2
    before = sha256_of(tmp_path / "listing.json")
    (root / "2.png").unlink()
    listed(root)
    assert sha256_of(tmp_path / "listing.json") != before


@pytest.mark.parametrize("table", [None, "c.csv"])
def test_a_folder_without_images_is_an_error(tmp_path: Path, table: str | None) -> None:
    root = put(tmp_path / "in", {"a.txt": "a cat", "a.avif": b"", "c.csv": "image,caption\na.avif,a cat\n"})
    with pytest.raises(DataError, match="in: holds no image"):
        listed(root, captions=table)


def test_a_table_of_unsupported_files_alone_is_rows(tmp_path: Path) -> None:
    root = put(tmp_path / "in", {"a.jpg": encoded(), "b.avif": b"", "c.csv": "image,caption\nb.avif,a cat\n"})
    assert reasons(listed(root, captions="c.csv")) == {"a.jpg": "no-text", "b.avif": "unsupported-format"}


def test_an_image_without_text_names_its_file(tmp_path: Path) -> None:
    root = put(tmp_path / "in", {"a.png": encoded(kind="PNG")})
    row = listed(root)["a.png"]
    assert (row.reason, row.file) == ("no-text", (root / "a.png").as_posix())


@pytest.mark.parametrize("name", ["0.JSON", "0.json"])
def test_a_json_beside_a_text_in_any_spelling(tmp_path: Path, name: str) -> None:
    text = "a dog runs\nover the hill"
    root = put(tmp_path / "in", {"0.jpg": encoded(), "0.txt": text, name: json.dumps({"caption": text})})
    assert listed(root)["0.jpg"].captions == [text]

"""Retrieval on the lists of the authors and of Karpathy, with all captions; errors name the entry."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from fineclip.config import BenchmarkConfig, parse
from fineclip.errors import DataError
from fineclip.evals.index import index_benchmark, missing
from fineclip.miniature.scenes import draw_scene, jpeg
from fineclip.shards import BenchmarkRow, read_manifest, read_rows

CAPTIONS = [["one", " two ", "three", "four", "five", "six", "seven"], ["alone"], ["  "], ["a", "b"]]


def section(root: Path, layout: str, **keys: Any) -> BenchmarkConfig:
    source = {"layout": layout, "root": str(root)} | keys
    return parse(BenchmarkConfig, {"kind": "retrieval", "source": source}, where="benchmarks")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return tmp_path / "index/flickr30k.json"


@pytest.fixture
def flickr(tmp_path: Path) -> Path:
    """Four images with captions as the authors list them, in folders as Flickr30k's."""
    root = tmp_path / "flickr30k"
    (root / "flickr30k_images").mkdir(parents=True)
    for index in range(4):
        (root / f"flickr30k_images/{index}.jpg").write_bytes(jpeg(draw_scene(1, index)))
    rows = [{"image": f"{index}.jpg", "caption": captions} for index, captions in enumerate(CAPTIONS)]
    (root / "flickr30k_test.json").write_text(json.dumps(rows))
    return root


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Karpathy's COCO: folders by year, four splits."""
    root = tmp_path / "coco"
    for index, folder in enumerate(("val2014", "train2014", "val2014", "val2014")):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / f"COCO_{index}.jpg").write_bytes(jpeg(draw_scene(1, index)))
    images = [
        {
            "filepath": "train2014" if index == 1 else "val2014",
            "filename": f"COCO_{index}.jpg",
            "split": ("test", "restval", "val", "test")[index],
            "sentences": [{"raw": text, "tokens": text.split()} for text in captions],
            "cocoid": index,
        }
        for index, captions in enumerate(CAPTIONS)
    ]
    (root / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    return root


def karpathy(root: Path, **keys: Any) -> BenchmarkConfig:
    return section(root, "karpathy", images=".", annotations="dataset_coco.json", **keys)


def rows_of(manifest: Path) -> list[tuple[str, list[str], str | None]]:
    return [(Path(row.file).name, row.captions, row.reason) for row in read_rows(manifest, BenchmarkRow)]


def test_the_authors_list_with_every_caption(flickr: Path, manifest: Path) -> None:
    index_benchmark(manifest, section(flickr, "caption_list"))
    assert rows_of(manifest) == [
        ("0.jpg", ["one", "two", "three", "four", "five", "six", "seven"], None),
        ("1.jpg", ["alone"], None),
        ("2.jpg", [], "no-text"),
        ("3.jpg", ["a", "b"], None),
    ]
    assert read_manifest(manifest).dropped == {"no-text": 1}


def test_spellings_of_names_and_a_list_in_utf_16(flickr: Path, manifest: Path) -> None:
    folder = flickr / "flickr30k_images"
    (folder / "sub").mkdir()
    (folder / "3.jpg").rename(folder / "sub" / unicodedata.normalize("NFD", "é.jpg"))
    rows = json.loads((flickr / "flickr30k_test.json").read_text())
    rows[0]["image"], rows[3]["image"] = "./0.jpg", "sub\\é.jpg"
    (flickr / "flickr30k_test.json").write_bytes(json.dumps(rows, ensure_ascii=False).encode("utf-16"))
    index_benchmark(manifest, section(flickr, "caption_list"))
    found = [unicodedata.normalize("NFC", name) for name, _, _ in rows_of(manifest)]
    assert found == ["0.jpg", "1.jpg", "2.jpg", "é.jpg"]


@pytest.mark.parametrize("name", ["../flickr30k_images/0.jpg", "/0.jpg", "..\\flickr30k_images\\0.jpg", "0.JPG"])
def test_a_name_that_leads_out_or_differs_is_an_error(flickr: Path, manifest: Path, name: str) -> None:
    (flickr / "flickr30k_test.json").write_text(json.dumps([{"image": name, "caption": ["a"]}]))
    with pytest.raises(DataError, match=r"\[0\]: 'image' is .*expected an image in"):
        index_benchmark(manifest, section(flickr, "caption_list"))


def test_entries_of_one_image_are_one_image(flickr: Path, manifest: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = [("1.jpg", ["a", None, "b"]), ("0.jpg", None), ("./1.jpg", "c"), ("1.jpg", ["b", "d"]), ("2.jpg", [])]
    rows = [{"image": name, "caption": captions} for name, captions in values]
    (flickr / "flickr30k_test.json").write_text(json.dumps(rows))
    index_benchmark(manifest, section(flickr, "caption_list"))
    assert rows_of(manifest) == [
        ("1.jpg", ["a", "b", "c", "d"], None),
        ("0.jpg", [], "no-text"),
        ("2.jpg", [], "no-text"),
    ]
    assert "2 entries have no caption, such as [1]" in caplog.text


def test_an_entry_without_caption_needs_no_image(flickr: Path, manifest: Path) -> None:
    rows = [{"image": "0.jpg", "caption": "a"}, {"image": "gone.jpg"}, {"image": "absent.jpg", "caption": []}]
    (flickr / "flickr30k_test.json").write_text(json.dumps(rows))
    index_benchmark(manifest, section(flickr, "caption_list"))
    assert rows_of(manifest) == [("0.jpg", ["a"], None)]


def test_entries_of_one_image_of_karpathys(flickr: Path, manifest: Path) -> None:
    sentences = [[{"raw": "a dog"}, {"raw": None}], None, [{"raw": "a cat"}, None]]
    images = [{"filename": "3.jpg", "split": "test", "sentences": several} for several in sentences]
    (flickr / "dataset_flickr30k.json").write_text(json.dumps({"images": images}))
    index_benchmark(manifest, section(flickr, "karpathy", images="flickr30k_images"))
    assert rows_of(manifest) == [("3.jpg", ["a dog", "a cat"], None)]


def test_one_caption_may_stand_by_itself(flickr: Path, manifest: Path) -> None:
    (flickr / "flickr30k_test.json").write_text(json.dumps([{"image": "1.jpg", "caption": "alone", "image_id": 3}]))
    index_benchmark(manifest, section(flickr, "caption_list"))
    assert rows_of(manifest) == [("1.jpg", ["alone"], None)]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [({}, [0, 3]), ({"split": "restval"}, [1]), ({"split": "val"}, None), ({"split": "train"}, None)],
)
def test_a_split_of_karpathys(coco: Path, manifest: Path, keys: dict[str, str], expected: list[int] | None) -> None:
    if expected is None:
        says = (
            "names no image of the split 'train'" if keys["split"] == "train" else "none of its 1 images has a caption"
        )
        with pytest.raises(DataError, match=says):
            index_benchmark(manifest, karpathy(coco, **keys))
        return
    index_benchmark(manifest, karpathy(coco, **keys))
    assert rows_of(manifest) == [(f"COCO_{i}.jpg", [text.strip() for text in CAPTIONS[i]], None) for i in expected]


def test_karpathys_flickr_has_no_folders(flickr: Path, manifest: Path) -> None:
    images = [{"filename": "3.jpg", "split": "test", "sentences": [{"raw": "a dog"}, {"raw": "a cat"}]}]
    (flickr / "dataset_flickr30k.json").write_text(json.dumps({"images": images}))
    index_benchmark(manifest, section(flickr, "karpathy", images="flickr30k_images"))
    assert rows_of(manifest) == [("3.jpg", ["a dog", "a cat"], None)]


def test_an_index_is_made_anew_where_its_images_or_captions_are_others(flickr: Path, manifest: Path) -> None:
    config = section(flickr, "caption_list")
    index_benchmark(manifest, config)
    first = manifest.read_bytes()
    table = manifest.with_suffix(".parquet")
    made = table.stat().st_mtime_ns
    (flickr / "flickr30k_images/of no list.jpg").write_bytes(b"x")
    manifest.unlink()  # as Snakemake does before a job
    index_benchmark(manifest, config)
    assert (manifest.read_bytes(), table.stat().st_mtime_ns) == (first, made)
    (flickr / "flickr30k_images/3.jpg").write_bytes(jpeg(draw_scene(1, 9)))
    index_benchmark(manifest, config)
    assert manifest.read_bytes() != first


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ({"images": []}, "flickr30k_test.json: is a JSON dict, not a list"),
        ([], "names no image at all"),
        ([["0.jpg"]], r"flickr30k_test.json: \[0\] is \['0.jpg'\], not an object"),
        ([{"caption": ["a"]}], r"flickr30k_test.json: \[0\]: has no 'image'"),
        ([{"image": "0.jpg"}], "none of its 1 images has a caption"),
        ([{"image": "0.jpg", "caption": ["a", 3]}], r"\[0\]: 'caption' is \['a', 3\], expected a list of texts"),
        ([{"image": "gone.jpg", "caption": ["a"]}], r"\[0\]: 'image' is 'gone.jpg', expected an image in .*_images"),
        ([{"image": "../flickr30k_test.json", "caption": ["a"]}], r"\[0\]: 'image' is '../flickr30k_test.json'"),
    ],
)
def test_an_invalid_list_is_an_error(flickr: Path, manifest: Path, rows: Any, says: str) -> None:
    (flickr / "flickr30k_test.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=says):
        index_benchmark(manifest, section(flickr, "caption_list"))
    assert not manifest.exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sentences": "a cat"}, r"images\[0\]: 'sentences' is 'a cat', expected a list of objects"),
        ({"sentences": [{"tokens": []}]}, r"images\[0\]: 'sentences'"),
        ({"split": 3}, r"images\[0\]: 'split' is 3, expected a text"),
        (
            {"filepath": "test2014"},
            r"images\[0\]: 'filename' is 'COCO_0.jpg', expected .* where 'test2014/COCO_0.jpg' is not",
        ),
    ],
)
def test_an_invalid_json_of_karpathy_is_an_error(coco: Path, manifest: Path, change: Any, says: str) -> None:
    content = json.loads((coco / "dataset_coco.json").read_text())
    content["images"][0] |= change
    (coco / "dataset_coco.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=says):
        index_benchmark(manifest, karpathy(coco))


def test_a_broken_file_is_named(flickr: Path, manifest: Path) -> None:
    (flickr / "flickr30k_images/1.jpg").write_bytes(b"<html>404</html>")
    with pytest.raises(DataError, match=r"1.jpg: is not an image"):
        index_benchmark(manifest, section(flickr, "caption_list"))
    path = flickr / "flickr30k_test.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError, match=r"flickr30k_test.json: is not JSON, or is truncated"):
        index_benchmark(manifest, section(flickr, "caption_list"))


def test_what_is_missing_is_said_before_anything_is_read(flickr: Path, coco: Path) -> None:
    assert missing(section(flickr, "caption_list")) is None
    assert missing(karpathy(coco)) is None
    assert missing(section(flickr, "karpathy")) == f"{flickr}/flickr30k-images does not exist or is not a folder."
    (flickr / "flickr30k_test.json").unlink()
    assert missing(section(flickr, "caption_list")) == f"{flickr}/flickr30k_test.json does not exist or is not a file."

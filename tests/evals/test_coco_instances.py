"""A JSON of COCO's form as a box benchmark: classes, crowds, masks, names, and sizes that do not agree."""

import json
from pathlib import Path
from typing import Any

import pytest

from fineclip.config import BenchmarkConfig, parse
from fineclip.errors import DataError
from fineclip.evals.index import index_benchmark, missing, read_index
from fineclip.shards import BenchmarkRow, read_rows
from tests.helpers.images import encoded
from tests.helpers.verbs import refused

SOURCE = {"layout": "coco_instances", "root": "mine", "images": "images", "annotations": "boxes.json"}


def values() -> dict[str, Any]:
    return {
        "images": [
            {"id": 1, "file_name": "a.jpg", "width": 64, "height": 48},
            {"id": 2, "file_name": "b.jpg"},
            {"id": 3, "coco_url": "http://images/images/c.jpg"},
        ],
        "annotations": [
            {"image_id": 1, "category_id": 7, "bbox": [1, 2.5, 30, 40]},
            {"image_id": 1, "category_id": 3, "bbox": [0, 0, 64, 48], "iscrowd": 1},
            {"image_id": 3, "category_id": 3, "segmentation": {"size": [48, 64], "counts": [0, 48 * 20, 48 * 44]}},
            {"image_id": 1, "category_id": 12, "bbox": [10, 10, 20, 20]},
        ],
        "categories": [
            {"id": 12, "name": "sky", "isthing": 0},
            {"id": 7, "name": "cat"},
            {"id": 3, "name": "dog", "isthing": 1},
        ],
    }


def write(folder: Path, content: dict[str, Any]) -> BenchmarkConfig:
    images = folder / "mine/images"
    images.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate("abc"):
        (images / f"{name}.jpg").write_bytes(encoded(64, 48, color=number))
    (folder / "mine/boxes.json").write_text(json.dumps(content))
    source = SOURCE | {"root": str(folder / "mine")}
    return parse(BenchmarkConfig, {"kind": "boxes", "source": source}, where="benchmarks")


def test_boxes_classes_and_images(tmp_path: Path) -> None:
    config, manifest = write(tmp_path, values()), tmp_path / "index/mine.json"
    assert missing(config) is None
    index_benchmark(manifest, config)
    rows = list(read_rows(manifest, BenchmarkRow))
    assert [(Path(row.file).name, row.reason) for row in rows] == [
        ("a.jpg", None),
        ("b.jpg", "no-box"),
        ("c.jpg", None),
    ]
    index = read_index(manifest, config)
    assert [(one.name, one.is_thing) for one in index.classes] == [("dog", True), ("cat", True), ("sky", False)]
    boxes = [[(tuple(one.box), index.classes[one.label].name) for one in row.boxes] for row in index.images]
    assert boxes == [[((1, 2.5, 31, 42.5), "cat"), ((10, 10, 30, 30), "sky")], [((0, 0, 20, 48), "dog")]]


def test_entries_of_one_image_are_one(tmp_path: Path) -> None:
    content = values()
    content["images"].append({"id": 9, "file_name": "./a.jpg"})
    content["annotations"].append({"image_id": 9, "category_id": 3, "bbox": [5, 5, 9, 9]})
    manifest = tmp_path / "index/mine.json"
    index_benchmark(manifest, write(tmp_path, content))
    assert [len(row.boxes) for row in read_rows(manifest, BenchmarkRow)] == [3, 0, 1]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("images", 0, "width"), 128, r"a.jpg: is stored with 64 x 48 px, but .*boxes.json states 128 x 48"),
        (("images", 0, "file_name"), "d.jpg", r"images\[0\]: 'file_name' is 'd.jpg', expected the name of an image in"),
        (
            ("annotations", 0, "category_id"),
            5,
            r"annotations\[0\]: 'category_id' is 5, expected the id of one of 'categories'",
        ),
        (
            ("annotations", 2, "segmentation", "size"),
            [24, 128],
            r"c.jpg: is stored with 64 x 48 px, but .* states 128 x 24",
        ),
        (("categories", 0, "id"), 7, r"categories\[1\]: 'id' is 7, expected one of its own: 'sky' has it too"),
        (("annotations", 1, "iscrowd"), "1", r"annotations\[1\]: 'iscrowd' is '1', expected 0 or 1"),
        (("categories", 0, "name"), "cat", "two categories have the name 'cat'"),
        (("categories", 0, "isthing"), "no", r"'isthing' is 'no', expected 0 or 1"),
        (("annotations",), [], "none of its 3 images has a box of the configured sizes"),
    ],
)
def test_what_does_not_agree_is_one_message(tmp_path: Path, path: tuple[Any, ...], value: Any, message: str) -> None:
    content = values()
    inside = content
    for step in path[:-1]:
        inside = inside[step]
    inside[path[-1]] = value
    config = write(tmp_path, content)
    with pytest.raises(DataError, match=message):
        index_benchmark(tmp_path / "index/mine.json", config)
    assert not (tmp_path / "index/mine.json").exists()


def test_boxes_of_another_unit_stop_the_index(tmp_path: Path) -> None:
    content = values()
    content["annotations"] = [{"image_id": 1, "category_id": 7, "bbox": [0.1, 0.2, 0.3, 0.4]}] * 3
    write(tmp_path, content)
    section = {"kind": "boxes", "source": SOURCE, "min_side_px": 0}
    assert "fractions" in refused(tmp_path, "index", "--manifest", "index/mine.json", config=section)
    content["annotations"] = [{"image_id": 1, "category_id": 7, "bbox": [20, 20, 60, 46]}] * 3
    write(tmp_path, content)
    assert "border" in refused(tmp_path, "index", "--manifest", "index/mine.json", config=section)

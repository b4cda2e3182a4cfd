"""COCO's JSON becomes rows with every caption and box; what is wrong in a JSON is said with file, entry and key."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fineclip.config import CocoSource, FilterConfig, parse
from fineclip.errors import ConfigError, DataError
from fineclip.shards import SourceRow, kept_rows, read_manifest, read_rows
from fineclip.stages.filter import filter_shard
from fineclip.stages.source.shard import index_source, source_shard
from fineclip.stages.source.shard_plan import planned_shards
from tests.helpers.images import encoded

REAL = Path(__file__).parents[3] / "shared/data/coco"

Values = dict[str, Any]


def captions_json() -> Values:
    return {
        "images": [
            {"id": 1, "file_name": "1.jpg", "coco_url": "http://images/1.jpg"},
            {"id": 2, "file_name": "2.jpg"},
            {"id": 3, "file_name": "3.jpg"},
            {"id": 4, "file_name": "../train2017/1.jpg"},
        ],
        "annotations": [
            {"image_id": 1, "caption": "one cat"},
            {"image_id": 3, "caption": "a dog"},
            {"image_id": 1, "caption": " another \ud83d cat"},
            {"image_id": 4, "caption": "a way out"},
            {"image_id": 99, "caption": "of no image"},
        ],
    }


def instances_json() -> Values:
    return {
        "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
        "annotations": [
            {"image_id": 1, "category_id": 17, "bbox": [1, 2.5, 30, 4], "iscrowd": 0},
            {"image_id": 1, "category_id": 18, "bbox": [0, 0, 5, 5], "iscrowd": 1},
            {"image_id": 1, "category_id": 18, "bbox": [-1, 0, 2, 3]},
            {"image_id": 98, "category_id": 18, "bbox": [0, 0, 5, 5], "iscrowd": 0},
        ],
    }


def write(root: Path, captions: Values | str, instances: Values | str) -> CocoSource:
    for name, content in (("1.jpg", encoded()), ("2.jpg", encoded(color=2)), ("unlisted.jpg", encoded())):
        (root / "train2017").mkdir(parents=True, exist_ok=True)
        (root / "train2017" / name).write_bytes(content)
    (root / "annotations").mkdir(exist_ok=True)
    for name, values in (("captions", captions), ("instances", instances)):
        text = values if isinstance(values, str) else json.dumps(values)
        (root / f"annotations/{name}_train2017.json").write_text(text)
    return CocoSource(kind="coco", root=str(root))


def listed(config: CocoSource) -> dict[str, SourceRow]:
    manifest = Path(config.root).parent / "listing.json"
    index_source(manifest, config)
    return {row.source_key: row for row in read_rows(manifest, SourceRow)}


def test_a_data_set_without_images_is_an_error(tmp_path: Path) -> None:
    root = tmp_path / "coco"
    (root / "train2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    for name in ("captions", "instances"):
        empty = {"images": [], "annotations": [], "categories": []}
        (root / f"annotations/{name}_train2017.json").write_text(json.dumps(empty))
    with pytest.raises(DataError, match="train2017: holds no image"):
        index_source(tmp_path / "listing.json", CocoSource(kind="coco", root=str(root)))


def test_every_image_of_the_json_is_a_row(tmp_path: Path) -> None:
    config = write(tmp_path / "in", captions_json(), instances_json())
    rows = listed(config)
    assert {name: (row.captions, row.reason) for name, row in rows.items()} == {
        "1.jpg": (["one cat", "another \\ud83d cat"], None),
        "2.jpg": ([], "no-text"),
        "3.jpg": (["a dog"], "missing-image"),
        "../train2017/1.jpg": (["a way out"], "missing-image"),
    }
    assert rows["1.jpg"].file == (tmp_path / "in/train2017/1.jpg").as_posix()
    assert rows["3.jpg"].file is None
    assert (rows["1.jpg"].url, rows["2.jpg"].url) == ("http://images/1.jpg", None)


def test_boxes_are_corners_and_crowds_are_left_out(tmp_path: Path) -> None:
    config = write(tmp_path / "in", captions_json(), instances_json())
    rows = listed(config)
    assert rows["1.jpg"].annotations == [
        ((1.0, 2.5, 31.0, 6.5), "cat"),
        ((-1.0, 0.0, 1.0, 3.0), "dog"),
    ]
    assert rows["2.jpg"].annotations == []
    assert listed(config.model_copy(update={"instances": None}))["1.jpg"].annotations is None


def lvis(root: Path) -> CocoSource:
    """LVIS' JSON beside COCO's images: no file names, no captions, no crowds."""
    config = write(root, captions_json(), instances_json())
    url = "http://images.cocodataset.org/train2017"
    values = {
        "images": [{"id": number, "coco_url": f"{url}/{number}.jpg"} for number in (2, 1, 5)],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1.5, 2, 3, 4]}],
        "categories": [{"id": 3, "name": "alarm_clock", "frequency": "f"}],
    }
    (root / "annotations/lvis_v1_train.json").write_text(json.dumps(values))
    return config.model_copy(update={"captions": None, "instances": "annotations/lvis_v1_train.json"})


@pytest.mark.parametrize("images", ["train2017", "."])
def test_lvis_names_images_by_their_url_and_has_no_captions(tmp_path: Path, images: str) -> None:
    config = lvis(tmp_path / "in").model_copy(update={"images": images})
    before = "" if images == "train2017" else "train2017/"
    rows = listed(config)
    assert {name: (row.captions, row.reason) for name, row in rows.items()} == {
        f"{before}1.jpg": ([], None),
        f"{before}2.jpg": ([], None),
        "train2017/5.jpg": ([], "missing-image"),
    }
    one = rows[f"{before}1.jpg"]
    assert one.file == (tmp_path / "in/train2017/1.jpg").as_posix()
    assert one.annotations == [((1.5, 2.0, 4.5, 6.0), "alarm_clock")]
    assert one.url == "http://images.cocodataset.org/train2017/1.jpg"
    assert rows[f"{before}2.jpg"].annotations == []


@pytest.mark.parametrize("name", ["val2017/1.jpg", "train2017/sub/1.jpg", "x/train2017/1.jpg", "1.png", "11.jpg"])
def test_an_image_of_another_folder_or_name_is_missing(tmp_path: Path, name: str) -> None:
    captions = captions_json()
    captions["images"][0]["file_name"] = name
    rows = listed(write(tmp_path / "in", captions, instances_json()))
    assert (rows[name].reason, rows[name].file, rows[name].size) == ("missing-image", None, 0)
    assert "1.jpg" not in rows


def test_an_image_may_be_named_with_the_folder_of_the_images(tmp_path: Path) -> None:
    captions = captions_json()
    captions["images"][0]["file_name"] = "train2017/1.jpg"
    row = listed(write(tmp_path / "in", captions, instances_json()))["1.jpg"]
    assert (row.kept, row.file) == (True, (tmp_path / "in/train2017/1.jpg").as_posix())


@pytest.mark.parametrize("images", ["train2017", "."])
def test_spellings_of_file_names(tmp_path: Path, images: str, caplog: pytest.LogCaptureFixture) -> None:
    captions = captions_json()
    spellings = ["./train2017/1.jpg", "train2017\\2.jpg", "/data/1.jpg", "../../images/1.jpg"]
    for image, name in zip(captions["images"], spellings, strict=True):
        image["file_name"] = name
    config = write(tmp_path / "in", captions, instances_json()).model_copy(update={"images": images})
    before = "" if images == "train2017" else "train2017/"
    assert {name: row.reason for name, row in listed(config).items()} == {
        f"{before}1.jpg": None,
        f"{before}2.jpg": "no-text",
        "/data/1.jpg": "missing-image",
        "../../images/1.jpg": "missing-image",
    }
    assert "captions_train2017.json: 2 of 4 image names match no file" in caplog.text
    assert "such as /data/1.jpg" in caplog.text


def test_links_unicode_and_formats_in_the_folder_of_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    captions = captions_json()
    for image, name in zip(captions["images"], ["café.jpg", "2.avif", "gone.jpg", "linked/5.jfif"], strict=True):
        image["file_name"] = name
    config = write(tmp_path / "in", captions, instances_json())
    folder = tmp_path / "in/train2017"
    (folder / unicodedata.normalize("NFD", "café.jpg")).write_bytes(encoded())
    (folder / "2.avif").write_bytes(b"")
    (folder / "3.heic").write_bytes(b"")
    (folder / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/5.jfif").write_bytes(encoded())
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    assert {unicodedata.normalize("NFC", name): row.reason for name, row in listed(config).items()} == {
        "café.jpg": None,
        "2.avif": "unsupported-format",
        "gone.jpg": "missing-image",
        "linked/5.jfif": None,
    }
    assert "1 of 4 image names match no file" in caplog.text
    assert "1 .heic" in caplog.text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_json_of_other_encodings(tmp_path: Path, encoding: str) -> None:
    captions = captions_json()
    captions["annotations"] = [{"image_id": 1, "caption": "a café"}]
    config = write(tmp_path / "in", captions, instances_json())
    path = tmp_path / "in/annotations/captions_train2017.json"
    path.write_bytes(json.dumps(captions, ensure_ascii=False).encode(encoding))
    assert listed(config)["1.jpg"].captions == ["a café"]


def test_boxes_of_lvis_with_captions_of_coco(tmp_path: Path) -> None:
    config = lvis(tmp_path / "in").model_copy(update={"captions": "annotations/captions_train2017.json"})
    row = listed(config)["1.jpg"]
    assert row.captions[0] == "one cat"
    assert row.annotations is not None
    assert [one.label for one in row.annotations] == ["alarm_clock"]


def test_an_image_without_a_name_is_an_error(tmp_path: Path) -> None:
    config = lvis(tmp_path / "in")
    path = tmp_path / "in/annotations/lvis_v1_train.json"
    path.write_text(path.read_text().replace("coco_url", "flickr_url"))
    with pytest.raises(DataError, match=r"lvis_v1_train.json: images\[0\]: has no 'file_name', only id, flickr_url"):
        listed(config)


def test_something_must_name_the_images(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="captions and instances are both null"):
        parse(CocoSource, {"kind": "coco", "root": "x", "captions": None, "instances": None}, where="source")


def test_images_without_captions_pass_a_filter_that_asks_for_no_word(tmp_path: Path) -> None:
    config = lvis(tmp_path / "in")
    index_source(tmp_path / "listing.json", config)
    [shard] = planned_shards(config)
    source_shard(shard, tmp_path / "source.json", config, listing=tmp_path / "listing.json")
    dropped = {}
    for least in (0, 1):
        filter_shard(tmp_path / "source.json", tmp_path / f"{least}.json", FilterConfig(min_side_px=1, min_words=least))
        dropped[least] = dict(read_manifest(tmp_path / f"{least}.json").dropped)
    assert dropped == {0: {}, 1: {"caption-empty": 2}}


def change_caption(captions: Values, _: Values) -> None:
    captions["annotations"][2]["caption"] = 7


def change_id(captions: Values, _: Values) -> None:
    captions["images"][2]["id"] = 1


def change_name(captions: Values, _: Values) -> None:
    captions["images"][2]["file_name"] = 7


def change_list(captions: Values, _: Values) -> None:
    del captions["images"]


def change_entry(captions: Values, _: Values) -> None:
    captions["annotations"][1] = "text"


def change_box(_: Values, instances: Values) -> None:
    instances["annotations"][0]["bbox"] = [1, 2, 3]


def change_number(_: Values, instances: Values) -> None:
    instances["annotations"][0]["bbox"] = [1, 2, 3, float("nan")]


def change_flag(_: Values, instances: Values) -> None:
    instances["annotations"][0]["bbox"] = [1, 2, 3, True]


def change_category(_: Values, instances: Values) -> None:
    instances["annotations"][0]["category_id"] = 5


def change_split(captions: Values, _: Values) -> None:
    for image in captions["images"]:
        image["file_name"] = f"val-{image['file_name']}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_caption, r"captions_train2017.json: annotations\[2\]: 'caption' is 7, expected a text"),
        (change_id, r"captions_train2017.json: images\[2\]: 'id' is 1, expected one of its own: 1.jpg has it too"),
        (change_name, r"images\[2\]: 'file_name' is 7, expected a text that names a file"),
        (change_list, r"captions_train2017.json: has no list 'images'"),
        (change_entry, r"annotations\[1\] is 'text', not an object"),
        (change_box, r"instances_train2017.json: annotations\[0\]: 'bbox' is \[1, 2, 3\], expected four numbers"),
        (change_number, r"annotations\[0\]: 'bbox' is .*nan"),
        (change_flag, r"annotations\[0\]: 'bbox' is \[1, 2, 3, True\], expected four numbers"),
        (change_category, r"annotations\[0\]: 'category_id' is 5, expected the id of one of 'categories'"),
        (change_split, r"captions_train2017.json: none of its 4 images is in .*train2017"),
    ],
)
def test_invalid_entries_are_an_error(tmp_path: Path, change: Callable[[Values, Values], None], message: str) -> None:
    captions, instances = captions_json(), instances_json()
    change(captions, instances)
    config = write(tmp_path / "in", captions, instances)
    with pytest.raises(DataError, match=message):
        listed(config)
    assert not (tmp_path / "listing.json").exists()
    assert not (tmp_path / "listing.parquet").exists()


@pytest.mark.parametrize("text", ["", '{"images": [', "[1, 2]", "\x00"])
def test_a_file_that_is_no_json_is_an_error(tmp_path: Path, text: str) -> None:
    config = write(tmp_path / "in", text, instances_json())
    with pytest.raises(
        DataError, match=r"captions_train2017.json: (is not JSON, or is truncated|has no list 'images')"
    ):
        listed(config)


def test_an_absent_json_is_an_error(tmp_path: Path) -> None:
    config = write(tmp_path / "in", captions_json(), instances_json())
    (tmp_path / "in/annotations/instances_train2017.json").unlink()
    with pytest.raises(DataError, match=r"instances_train2017.json: no such file"):
        listed(config)


@pytest.mark.skipif(not REAL.is_dir(), reason="the photographs are not here")
def test_photographs_through_listing_source_and_filter(tmp_path: Path) -> None:
    config = CocoSource(kind="coco", root=str(REAL), images_per_shard=50)
    listing = tmp_path / "listing.json"
    index_source(listing, config)
    rows: dict[str, SourceRow] = {}
    for shard in planned_shards(config):
        source, filtered = tmp_path / f"source/{shard.name}.json", tmp_path / f"filter/{shard.name}.json"
        source_shard(shard, source, config, listing=listing)
        rows |= {row.source_key: row for row in kept_rows(source, SourceRow)}
        filter_shard(source, filtered, FilterConfig())
        assert read_manifest(filtered).read == read_manifest(source).kept == (50, 30)[shard.position]
        assert read_manifest(filtered).kept > 20
    assert len(rows) == 80
    assert all(len(row.captions) == 5 for row in rows.values())
    instances = json.loads((REAL / "annotations/instances_train2017.json").read_text())
    boxes = sum(not annotation["iscrowd"] for annotation in instances["annotations"])
    assert sum(len(row.annotations or []) for row in rows.values()) == boxes


def test_the_url_is_that_of_coco_else_that_of_flickr(tmp_path: Path) -> None:
    captions = captions_json()
    for image in captions["images"][:2]:
        image["flickr_url"] = f"http://flickr/{image['id']}.jpg"
    rows = listed(write(tmp_path / "in", captions, instances_json()))
    assert (rows["1.jpg"].url, rows["2.jpg"].url) == ("http://images/1.jpg", "http://flickr/2.jpg")


def test_boxes_belong_to_the_image_of_their_own_file_names(tmp_path: Path) -> None:
    """Two exports with other ids: 1 is 1.jpg in the captions and 2.jpg in the instances."""
    instances = instances_json()
    instances["images"] = [
        {"id": 1, "file_name": "train2017/2.jpg", "width": 30, "height": 20},
        {"id": 2, "file_name": "1.jpg"},
    ]
    instances["annotations"].append({"image_id": 2, "category_id": 17, "bbox": [3, 3, 4, 4]})
    rows = listed(write(tmp_path / "in", captions_json(), instances))
    assert {name: [one.label for one in row.annotations or []] for name, row in rows.items() if row.file} == {
        "1.jpg": ["cat"],
        "2.jpg": ["cat", "dog"],
    }
    assert [(rows[name].stated_width, rows[name].stated_height) for name in ("2.jpg", "1.jpg")] == [
        (30, 20),
        (None, None),
    ]


def test_ids_decide_where_folders_are_written_otherwise(tmp_path: Path) -> None:
    names = {1: "images/2017/1.jpg", 2: "images\\2.jpg", 3: "images/2.jpg"}
    instances = instances_json()
    instances["images"] = [{"id": number, "file_name": name} for number, name in names.items()]
    for entry, number in zip(instances["annotations"], (1, 1, 2, 3), strict=True):
        entry |= {"image_id": number, "iscrowd": 0}
    rows = listed(write(tmp_path / "in", captions_json(), instances))
    assert {name: len(row.annotations or []) for name, row in rows.items() if row.file} == {"1.jpg": 2, "2.jpg": 1}


def test_instances_of_another_split_are_an_error(tmp_path: Path) -> None:
    instances = instances_json() | {"images": [{"id": 1, "file_name": "val.jpg"}]}
    with pytest.raises(
        DataError, match=r"instances_train2017.json: lists none of the 4 images .* its first is val.jpg"
    ):
        listed(write(tmp_path / "in", captions_json(), instances))


def test_the_size_is_that_of_the_file_of_the_boxes(tmp_path: Path) -> None:
    captions = captions_json()
    captions["images"][0] |= {"width": 500, "height": 400}
    config = write(tmp_path / "in", captions, instances_json())  # its ids are those of the captions
    row = listed(config)["1.jpg"]
    assert (row.stated_width, row.stated_height) == (500, 400)
    captions["images"][0]["width"] = "wide"
    with pytest.raises(DataError, match=r"images\[0\]: 'width' is 'wide', expected a number"):
        listed(write(tmp_path / "in", captions, instances_json()))
    row = listed(config.model_copy(update={"instances": None}))["1.jpg"]  # no box refers to it
    assert (row.kept, row.stated_width) == (True, None)


def test_a_size_that_only_the_captions_state_counts_for_the_boxes(tmp_path: Path) -> None:
    captions, instances = captions_json(), instances_json()
    captions["images"][0] |= {"width": 77, "height": 66}
    for width, stated in ((None, 77), (88, 88)):  # the file of the boxes comes first
        instances["images"] = [{"id": 1, "file_name": "1.jpg", "width": width}]
        row = listed(write(tmp_path / "in", captions, instances))["1.jpg"]
        assert (row.stated_width, row.stated_height) == (stated, 66)


def test_boxes_of_images_that_are_no_samples_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    instances = instances_json()
    instances["images"] = [{"id": 1, "file_name": "1.jpg"}, {"id": 98, "file_name": "/data/x/98.jpg"}]
    listed(write(tmp_path / "in", captions_json(), instances))
    assert "1 of 2 images with boxes are not among the samples, such as /data/x/98.jpg" in caplog.text


def test_entries_of_one_image_are_one_row(tmp_path: Path) -> None:
    captions = captions_json()
    captions["images"] += [{"id": 11, "file_name": "train2017/1.jpg"}, {"id": "a", "file_name": "1.jpg"}]
    captions["annotations"] += [
        {"image_id": 11.0, "caption": "a third"},
        {"image_id": "a", "caption": "one cat"},
        {"image_id": 2, "caption": None},
        {"image_id": 2, "caption": " "},
        {"image_id": 2},
    ]
    instances = instances_json()
    instances["annotations"] += [
        {"image_id": "a", "category_id": 17, "bbox": [4, 4, 9, 9]},
        {"image_id": 11, "category_id": 17, "bbox": [1, 2.5, 30, 4]},
        {"image_id": 11, "category_id": 18, "bbox": []},
        {"image_id": 11, "category_id": 18},
        {"image_id": 11, "bbox": [1, 1, 2, 2]},
    ]
    config = write(tmp_path / "in", captions, instances)
    rows = list(listed(config).values())
    assert len(rows) == read_manifest(tmp_path / "listing.json").read == 4
    [row] = [row for row in rows if row.source_key == "1.jpg"]
    assert row.captions == ["one cat", "another \\ud83d cat", "a third"]
    assert [one.box.x1 for one in row.annotations or []] == [1, -1, 4]
    assert {row.source_key: row.reason for row in rows}["2.jpg"] == "no-text"


@pytest.mark.parametrize("boxes_alone", [False, True])
def test_fractions_stop_the_listing(tmp_path: Path, boxes_alone: bool) -> None:
    instances = instances_json()
    instances["images"] = [{"id": number, "file_name": f"{number}.jpg", "width": 32, "height": 24} for number in (1, 2)]
    for entry, bbox in zip(instances["annotations"], ([0.1, 0.2, 0.3, 0.4],) * 4, strict=True):
        entry["bbox"] = bbox
    config = write(tmp_path / "in", captions_json(), instances)
    config = config.model_copy(update={"captions": None}) if boxes_alone else config
    with pytest.raises(DataError, match="instances_train2017.json: .*fractions"):
        listed(config)


@pytest.mark.parametrize(
    ("value", "is_crowd"), [(True, True), (1.0, True), (False, False), (None, False), ("0", None), (2, None)]
)
def test_a_crowd_is_1_or_true(tmp_path: Path, value: Any, is_crowd: bool | None) -> None:
    instances = instances_json()
    instances["annotations"][0]["iscrowd"] = value
    config = write(tmp_path / "in", captions_json(), instances)
    if is_crowd is None:
        with pytest.raises(DataError, match=r"annotations\[0\]: 'iscrowd' is .*, expected 0 or 1"):
            listed(config)
    else:
        assert len(listed(config)["1.jpg"].annotations or []) == 2 - is_crowd


@pytest.mark.parametrize("name", [None, "", " "])
def test_a_url_replaces_an_empty_file_name(tmp_path: Path, name: str | None) -> None:
    captions = captions_json()
    captions["images"] = [{"id": 1, "file_name": name, "coco_url": "http://images/train2017/1.jpg"}]
    assert listed(write(tmp_path / "in", captions, instances_json()))["1.jpg"].kept
    captions["images"] = [{"id": 1, "file_name": name}]
    with pytest.raises(DataError, match=r"images\[0\]: 'file_name' is .*, expected a text that names a file"):
        listed(write(tmp_path / "in", captions, instances_json()))

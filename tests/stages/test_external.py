"""Boxes and captions that authors released: read once, matched by file name, and found again by the authors' keys."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from fineclip.config import AnnotationsDetect, BoxesJsonDetect
from fineclip.errors import ConfigError, DataError, ShardError
from fineclip.readers.names import ImageNames
from fineclip.shards import CaptionRow, DetectRow, read_manifest, read_rows, sha256_of
from fineclip.stages.caption import caption_shard
from fineclip.stages.detect import detect_shard
from fineclip.stages.external import reading
from fineclip.stages.external.annotation_tables import ExternalBoxesRow, rows_for
from fineclip.stages.external.keyed_captions import OriginalBox
from fineclip.stages.external.reading import captions_in
from tests.helpers.external import boxes_config, boxes_json, captions_config, captions_json, given, key_of, write_json
from tests.helpers.images import encoded
from tests.helpers.stages import Item, write_filtered
from tests.helpers.stages import box as box_of

SIZE = (640, 480)
IMAGE = encoded(*SIZE)
NAME = "000000000009.jpg"


def detected(folder: Path, config: BoxesJsonDetect, names: Sequence[str] = (NAME,)) -> list[DetectRow]:
    """What detect makes of images of these names with the boxes of a JSON."""
    items = [Item(encoded(*SIZE, color=number), source_key=name) for number, name in enumerate(names)]
    manifest = folder / "detect/s.json"
    kept = write_filtered(folder, items)
    detect_shard(kept, manifest, config, annotations=given(folder, config), batch_size=1, device="cpu")
    return list(read_rows(manifest, DetectRow))


def captioned(folder: Path, captions: Mapping[str, str]) -> list[list[str | None]]:
    """What caption makes of the regions of `detected`."""
    config = captions_config(captions_json(folder, captions))
    manifest = folder / "caption/s.json"
    found = folder / "detect/s.json"
    caption_shard(found, manifest, config, annotations=given(folder, config), batch_size=1, device="cpu")
    return [[region.caption for region in row.regions] for row in read_rows(manifest, CaptionRow)]


def edges(row: DetectRow) -> list[tuple[float, ...]]:
    return [tuple(one.box) for one in row.regions]


# --- which image a sample is


@pytest.mark.parametrize(
    ("names", "sample", "place"),
    [
        (["a.jpg", "b.jpg"], "b.jpg", 1),
        (["train2017/9.jpg"], "9.jpg", 0),  # LVIS in a folder of COCO's images
        (["9.jpg"], "train2017/9.jpg", 0),
        (["9.jpg"], "00012/9", 0),  # a tar's key has no suffix
        (["a.b.jpg"], "a.b", 0),
        (["a/9.jpg", "b/9.jpg"], "x/b/9.jpg", 1),
        (["a/9.jpg", "9.jpg"], "b/9.jpg", 1),
        (["a/9.jpg", "9.jpg"], "x/a/9.jpg", 0),  # the one that says more
        (["9.jpg", "9.png"], "9.png", 1),
        (["9.jpg"], "9.png", None),
        (["9.JPEG"], "a/9.jpg", 0),
        (["a/9.jpg"], "b/9.jpg", None),
        (["9.jpg"], "19.jpg", None),
        (["9.jpg"], "", None),
        ([], "9.jpg", None),
    ],
)
def test_a_sample_is_the_image_of_its_name(names: list[str], sample: str, place: int | None) -> None:
    assert ImageNames(names, where="x.json").find(sample) == place


@pytest.mark.parametrize(("names", "sample"), [(["a/9.jpg", "b/9.jpg"], "9.jpg"), (["9.jpg", "9.png"], "9")])
def test_a_sample_that_could_be_two_images_is_refused(names: list[str], sample: str) -> None:
    with pytest.raises(DataError, match=f"x.json: the sample {sample} could be {names[0]} as well as {names[1]}"):
        ImageNames(names, where="x.json").find(sample)


# --- boxes


def test_boxes_stand_in_the_order_of_the_file_and_keep_their_category(tmp_path: Path) -> None:
    path = write_json(
        tmp_path / "pseudo.json",
        {
            "images": [{"id": 4, "file_name": NAME, "width": 640, "height": 480}, {"id": 5, "file_name": "none.jpg"}],
            "annotations": [
                {"image_id": 4, "category_id": 4763, "bbox": [10, 20, 5.5, 6], "score": 0.25},
                {"image_id": 4, "category_id": 2, "bbox": [0, 0, 300, 200], "iscrowd": 1},
                {"image_id": 4, "category_id": 2, "bbox": [700, 0, 30, 20]},
                {"image_id": 4, "category_id": 2, "bbox": [1, 1, 2, 2]},
                {"image_id": 99, "category_id": 2, "bbox": [1, 1, 2, 2]},
            ],
            "categories": [{"id": 2, "name": "cat"}, {"id": 4763, "name": "zebra crossing"}],
        },
    )
    [row, none] = detected(tmp_path, boxes_config(path, min_side_px=3), [NAME, "none.jpg"])
    assert [(one.label, one.score) for one in row.regions] == [("zebra crossing", 0.25), ("cat", 1.0)]
    assert edges(row) == [(10, 20, 15.5, 26), (0, 0, 300, 200)]
    assert none.kept and none.regions == []
    [row, _] = detected(tmp_path / "few", boxes_config(path, max_regions=1, score=None), [NAME, "none.jpg"])
    assert [(one.label, one.score) for one in row.regions] == [("zebra crossing", 1.0)]
    [row, _] = detected(tmp_path / "all", boxes_config(path, max_regions=None, max_side_px=250), [NAME, "none.jpg"])
    assert [one.box.x1 for one in row.regions] == [10, 1]


def test_entries_of_one_image_are_one_row(tmp_path: Path) -> None:
    names = [(1, f"./{NAME}", {}), (5, "b.jpg", {}), (101, NAME, {"height": 480}), ("x", f".\\{NAME}", {"width": 640})]
    boxes = [
        (101, [9, 9, 9, 9]),
        (1, [1, 1, 5, 5]),
        (1, [1, 1, 5, 5]),
        ("x", [1, 1, 5, 5]),
        (1.0, [2, 2, 5, 5]),
        (5, [3, 3, 5, 5]),
    ]
    values = {
        "images": [{"id": number, "file_name": name} | size for number, name, size in names],
        "annotations": [{"image_id": number, "category_id": 2, "bbox": edges} for number, edges in boxes],
        "categories": [{"id": 2.0, "name": "cat"}],
    }
    config = boxes_config(write_json(tmp_path / "merged.json", values))
    rows = list(read_rows(given(tmp_path, config), ExternalBoxesRow))
    assert [(row.key, row.width, row.height, [one.x for one in row.regions]) for row in rows] == [
        (f"./{NAME}", 640, 480, [1, 1, 2, 9]),  # what a later entry repeats is left out
        ("b.jpg", None, None, [3]),
    ]
    [row] = detected(tmp_path, config)
    assert len(row.regions) == 4


def test_captions_of_one_image_under_two_spellings(tmp_path: Path) -> None:
    keys = {"a/\u00e9.jpg_1_2_3_4.jpg": "one", ".\\a\\e\u0301.jpg_5_6_7_8.jpg": "two", "a/b.jpg_1_2_3_4.jpg": None}
    [row] = captions_in(captions_json(tmp_path, keys))  # type: ignore[arg-type]
    assert (row.key, [one.caption for one in row.regions]) == ("a/\u00e9.jpg", ["one", "two"])


def test_keys_without_a_caption_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = {"a.jpg_1_2_3_4.jpg": None, "a.jpg_1_2_3_5.jpg": "one", "b.jpg_1_2_3_4.jpg": None}
    [row] = captions_in(captions_json(tmp_path, keys))  # type: ignore[arg-type]
    assert len(row.regions) == 1
    assert "2 keys have no caption and are left out, such as 'a.jpg_1_2_3_4.jpg'" in caplog.text


def test_boxes_without_content_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = boxes_json(tmp_path, {NAME: [[1, 2, 3, 4], [5, 6, 7, 8], [], [9, 9, 9, 9]], "b.jpg": []})
    values = json.loads(path.read_text())
    values["annotations"][0] |= {"bbox": None, "segmentation": {"counts": "abc", "size": [4, 4]}}
    del values["annotations"][3]["category_id"]
    write_json(path, values)
    first, second = read_rows(given(tmp_path, boxes_config(path)), ExternalBoxesRow)
    assert ([one.x for one in first.regions], second.regions) == ([5], [])
    assert "3 of 4 annotations have no 'bbox' or 'category_id' and are left out, such as annotations[0]" in caplog.text
    [first, _] = read_rows(given(tmp_path / "x", boxes_config(path, labels=False)), ExternalBoxesRow)
    assert [one.x for one in first.regions] == [5, 9]  # nobody asks for the category


@pytest.mark.parametrize("size", [None, SIZE])
@pytest.mark.parametrize("side", [0, 400])
def test_fractions_stop_the_import(tmp_path: Path, size: tuple[int, int] | None, side: int) -> None:
    path = boxes_json(tmp_path, {NAME: [[0.25, 0.5, 0.25, 0.5]], "b.jpg": [[0, 0, 1, 1]], "c.jpg": []}, size=size)
    with pytest.raises(DataError, match=r"boxes.json: .* fractions.* 0.25, 0.5, 0.25, 0.5 in 000000000009.jpg"):
        given(tmp_path, boxes_config(path, min_side_px=side))


@pytest.mark.parametrize("size", [None, SIZE])
def test_boxes_beyond_the_border_stop_the_shard(tmp_path: Path, size: tuple[int, int] | None) -> None:
    boxes = {NAME: [[600, 400, 620, 430], [0, 0, 50, 50]], "b.jpg": [[500, 300, 530, 320]]}
    config = boxes_config(boxes_json(tmp_path, boxes, size=size))
    given(tmp_path, config)
    with pytest.raises(DataError, match=r"boxes.json: 2 of 3 boxes .* border .*\(640 x 480 px\).*two corners"):
        detected(tmp_path, config, [NAME, "b.jpg"])


def test_an_image_of_another_size_does_not_stop_the_shard(tmp_path: Path) -> None:
    """The size in the JSON is too small for the boxes, and not that of the stored image: its image alone is dropped."""
    path = boxes_json(tmp_path, {NAME: [[600, 400, 20, 20], [610, 400, 20, 20]], "b.jpg": [[1, 2, 30, 30]]}, size=SIZE)
    values = json.loads(path.read_text())
    values["images"][0] |= {"width": 320, "height": 240}
    write_json(path, values)
    assert [row.reason for row in detected(tmp_path, boxes_config(path), [NAME, "b.jpg"])] == ["other-size", None]


@pytest.mark.parametrize("second", [{"id": 7.0, "name": "dog"}, {"id": 7, "name": "dog"}])
def test_two_categories_of_one_id_are_an_error(tmp_path: Path, second: dict[str, Any]) -> None:
    path = boxes_json(tmp_path, {NAME: [[1, 2, 3, 4]]})
    values = json.loads(path.read_text())
    values["categories"] += [{"id": 7.0, "name": "cat"}, second]
    write_json(path, values)
    with pytest.raises(DataError, match=r"categories\[2\]: 'id' is 7.*, expected one of its own: 'cat' has it too"):
        given(tmp_path, boxes_config(path))


def test_ids_of_another_type_match_nothing(tmp_path: Path) -> None:
    path = boxes_json(tmp_path, {NAME: [[1, 2, 3, 4]]})
    values = json.loads(path.read_text())
    values["images"][0]["id"] = "0"
    write_json(path, values)
    with pytest.raises(DataError, match=r"boxes.json: no 'image_id' .* has 0, .* such as '0'"):
        given(tmp_path, boxes_config(path))


def test_categories_that_say_nothing(tmp_path: Path) -> None:
    values = {
        "images": [{"id": 4, "coco_url": f"http://images.cocodataset.org/train2017/{NAME}"}],
        "annotations": [{"image_id": 4, "bbox": [1, 2, 3, 4]}],
    }
    path = write_json(tmp_path / "proposals.json", values)
    [row] = detected(tmp_path, boxes_config(path, labels=False))
    assert [one.label for one in row.regions] == [""]
    with pytest.raises(DataError, match="has no list 'categories'.*set labels: false"):
        given(tmp_path, boxes_config(path))


def test_an_image_that_is_not_listed_or_of_another_size_is_dropped_and_counted(tmp_path: Path) -> None:
    path = boxes_json(tmp_path, {NAME: [[1, 2, 3, 4]], "b.jpg": []}, size=SIZE)
    values = json.loads(path.read_text())
    values["images"][1]["width"] = 320
    write_json(path, values)
    rows = detected(tmp_path, boxes_config(path), [NAME, "b.jpg", "c.jpg"])
    assert [row.reason for row in rows] == [None, "other-size", "not-listed"]
    made = read_manifest(tmp_path / "detect/s.json")
    assert (made.read, made.kept, made.regions) == (3, 1, 1)
    assert made.dropped == {"not-listed": 1, "other-size": 1}


def test_what_cannot_be_decoded_keeps_its_reason(tmp_path: Path) -> None:
    config = boxes_config(boxes_json(tmp_path, {NAME: [[1, 2, 3, 4]]}))
    kept = write_filtered(tmp_path, [Item(IMAGE[:-40], source_key=NAME)])
    detect_shard(kept, tmp_path / "d.json", config, annotations=given(tmp_path, config), batch_size=1, device="cpu")
    assert [row.reason for row in read_rows(tmp_path / "d.json", DetectRow)] == ["undecodable"]


Change = Callable[[dict[str, Any]], None]


def without_box(values: dict[str, Any]) -> None:
    del values["annotations"][0]["bbox"]


def without_image(values: dict[str, Any]) -> None:
    del values["annotations"][0]["image_id"]


def without_name(values: dict[str, Any]) -> None:
    del values["images"][0]["file_name"]


def other_sizes(values: dict[str, Any]) -> None:
    values["images"][0]["width"] = 10
    values["images"].append({"id": 5, "file_name": f"./{NAME}", "width": 20})


def same_id(values: dict[str, Any]) -> None:
    values["images"].append({"id": 0, "file_name": "b.jpg"})


def without_images(values: dict[str, Any]) -> None:
    values["images"] = []


def other_category(values: dict[str, Any]) -> None:
    values["annotations"][0]["category_id"] = 8


def great_score(values: dict[str, Any]) -> None:
    values["annotations"][0]["score"] = 17


def half_pixel(values: dict[str, Any]) -> None:
    values["images"][0]["height"] = 10.5


def no_pixel(values: dict[str, Any]) -> None:
    values["images"][0]["width"] = 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_box, r"boxes.json: none of its 1 annotations has 'bbox' and 'category_id'; annotations\[0\] has only"),
        (without_image, r"annotations\[0\]: has no 'image_id'"),
        (without_name, r"images\[0\]: has no 'file_name'"),
        (
            other_sizes,
            r"images\[1\]: 'width' is 20, expected 10 as in images\[0\], because both are the image 000000000009.jpg",
        ),
        (same_id, r"images\[1\]: 'id' is 0, expected one of its own"),
        (without_images, r"boxes.json: holds no image"),
        (other_category, r"'category_id' is 8, expected the id of one of 'categories' \(or labels: false\)"),
        (great_score, r"'score' is 17, expected a score from 0 to 1 \(or score: null\)"),
        (half_pixel, r"'height' is 10.5, expected a whole number of pixels"),
        (no_pixel, r"'width' is 0, expected a whole number of pixels"),
    ],
)
def test_invalid_json_of_boxes_is_an_error(tmp_path: Path, change: Change, message: str) -> None:
    path = boxes_json(tmp_path, {NAME: [[1, 2, 3, 4]]})
    values = json.loads(path.read_text())
    change(values)
    write_json(path, values)
    with pytest.raises(DataError, match=message):
        given(tmp_path, boxes_config(path))
    assert not (tmp_path / "given").exists() or not list((tmp_path / "given").iterdir())


# --- captions

AWKWARD: list[list[float]] = [
    [1.08, 187.69, 611.59, 285.84],  # COCO's first: its key ends in 1_187_611_285
    [28.71, 11.29, 611.29, 285.0],
    [0.1, 0.7, 0.2 + 0.1, 5.0],
    [33.33, 66.67, 28.0, 33.0],  # 33.33 + 28.0 - 33.33 is 28 but for a rounding error
    [8.07, 8.07, 19.0, 18.999],
    [10.0012, 10.0, 49.9964, 20.0],  # in hundredths 50 wide, to the authors 49
    [600.4, 0.0, 40.006, 3.0],  # hangs over the edge by less than half a pixel
    [-1.5, -0.5, 50.2, 9.9],
    [598.98, 470.0, 41.9, 20.0],  # inside it is 41.02 wide, as given 41.9
]


def test_a_key_is_the_box_cut_to_whole_pixels() -> None:
    assert OriginalBox(*AWKWARD[0]).whole() == (1, 187, 611, 285)
    assert OriginalBox(*AWKWARD[7]).whole() == (-1, 0, 50, 9)
    assert key_of(NAME, AWKWARD[0]) == "000000000009.jpg_1_187_611_285.jpg"


def test_every_box_finds_the_caption_that_the_authors_keyed_by_it(tmp_path: Path) -> None:
    config = boxes_config(boxes_json(tmp_path, {NAME: AWKWARD}))
    [row] = detected(tmp_path, config)
    assert len(row.regions) == len(AWKWARD)
    captions = {key_of(NAME, box): f"caption {number}" for number, box in enumerate(AWKWARD)}
    assert captioned(tmp_path, captions) == [[f"caption {number}" for number in range(len(AWKWARD))]]
    assert read_manifest(tmp_path / "caption/s.json").uncaptioned == {}


@pytest.mark.parametrize("decimals", [2, 3, 17])
def test_random_boxes_find_their_captions(tmp_path: Path, decimals: int) -> None:
    draw = random.Random(decimals)
    boxes = []
    for _ in range(300):
        x, y = draw.uniform(-3, 500), draw.uniform(-3, 400)
        w, h = draw.uniform(1.5, 140), draw.uniform(1.5, 80)
        boxes.append([round(number, decimals) for number in (x, y, w, h)])
    captions = {key_of(NAME, box): str(number) for number, box in enumerate(boxes)}
    [row] = detected(tmp_path, boxes_config(boxes_json(tmp_path, {NAME: boxes}), max_regions=None))
    assert len(row.regions) == len(boxes)
    assert captioned(tmp_path, captions) == [[captions[key_of(NAME, box)] for box in boxes]]


WHOLE: list[list[float]] = [  # of a whole width or height, which x + width - x gives back one bit too small
    [176.9, 0.0, 82.0, 10.0],
    [483.3, 8.0, 124.0, 33.3],
    [46.64, 121.96, 104.0, 85.0],
    [20.0, 238.27, 3.5, 24.0],
]


@pytest.mark.parametrize("box", AWKWARD[:5] + WHOLE)
def test_a_source_that_keeps_corners_gives_the_same_keys(tmp_path: Path, box: list[float]) -> None:
    x, y, w, h = box
    assert box not in WHOLE or (int(x + w - x), int(y + h - y)) != (int(w), int(h))
    corners = box_of(x, y, x + w, y + h)
    own = AnnotationsDetect(engine="annotations", min_side_px=0)
    kept = write_filtered(tmp_path, [Item(IMAGE, annotations=[corners], source_key=NAME)])
    detect_shard(kept, tmp_path / "detect/s.json", own, batch_size=1, device="cpu")
    assert captioned(tmp_path, {key_of(NAME, box): "found"}) == [["found"]]


def test_a_missing_key_leaves_a_region_without_caption_and_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    boxes = [[1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 9, 9]]
    detected(tmp_path, boxes_config(boxes_json(tmp_path, {NAME: boxes, "b.jpg": boxes[:1]})), [NAME, "b.jpg"])
    captions = {key_of(NAME, boxes[1]): "a cat", key_of(NAME, boxes[2]): "", "odd.jpg": "?"}
    assert captioned(tmp_path, captions) == [[None, "a cat", ""], [None]]
    made = read_manifest(tmp_path / "caption/s.json")
    assert (made.read, made.kept, made.dropped, made.regions) == (2, 2, {}, 4)
    assert made.uncaptioned == {"empty": 1, "missing-key": 2}
    assert "4 regions of 2 images; without a caption: 1 empty, 2 missing-key" in caplog.text
    assert "1 keys are of another form and are skipped: 'odd.jpg'" in caplog.text


def test_boxes_that_are_one_region_share_the_caption_of_any_of_them(tmp_path: Path) -> None:
    """In hundredths of a pixel both begin at 10; their keys say 9 and 10, and only one of these has a caption."""
    boxes = [[9.999, 5, 20, 20], [10.001, 5, 20, 20]]
    for number, box in enumerate(boxes):
        folder = tmp_path / str(number)
        [row] = detected(folder, boxes_config(boxes_json(folder, {NAME: boxes})))
        assert edges(row) == [(10, 5, 30, 25)] * 2
        assert captioned(folder, {key_of(NAME, box): "a cat"}) == [["a cat"] * 2]


def test_captions_of_other_boxes_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    detected(tmp_path, boxes_config(boxes_json(tmp_path, {NAME: [[1, 2, 3, 4]]})))
    assert captioned(tmp_path, {key_of(NAME, [1, 2, 3, 5]): "a cat"}) == [[None]]
    assert "no region has its key in the JSON" in caplog.text


def test_captions_go_by_the_names_of_images(tmp_path: Path) -> None:
    boxes = {"train2017/7.jpg": [[1, 2, 3, 4]], "train2017/1_2_3.jpg": [[1, 2, 3, 4]]}
    detected(tmp_path, boxes_config(boxes_json(tmp_path, boxes)), ["7", "1_2_3.jpg"])
    assert captioned(tmp_path, {"7.jpg_1_2_3_4.jpg": "seven", "1_2_3.jpg_1_2_3_4.jpg": "one"}) == [["seven"], ["one"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "captions.json: is not a JSON object of captions by key"),
        ('{"a_1_2_3_4.jpg": ', "captions.json: is not JSON, or is truncated"),
        ('{"a_1_2_3_4.jpg": ["x"]}', r"captions.json: 'a_1_2_3_4.jpg' is \['x'\], expected a caption"),
        (
            '{"a_1_2_3.jpg": "x"}',
            "captions.json: no key is of the form IMAGE_X_Y_WIDTH_HEIGHT.jpg; the first is 'a_1_2_3",
        ),
        ("{}", "captions.json: holds no image"),
    ],
)
def test_invalid_json_of_captions_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    config = captions_config(write_json(tmp_path / "captions.json", content))
    with pytest.raises(DataError, match=message):
        given(tmp_path, config)


def test_a_key_of_long_numbers_is_of_another_form(tmp_path: Path) -> None:
    path = captions_json(tmp_path, {"a.jpg_1_2_3_99999999999999999999.jpg": "x", "a.jpg_1_2_3_4.jpg": "y"})
    [row] = captions_in(path)
    assert row.regions == [(1, 2, 3, 4, "y")]


# --- read once


def test_the_json_is_read_once_and_the_table_is_the_same_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = boxes_config(boxes_json(tmp_path, {f"{number}.jpg": [[0.1, 0.2, 3, number]] for number in range(9)}))
    manifest = given(tmp_path, config)
    hashes = {sha256_of(manifest), sha256_of(given(tmp_path / "again", config))}
    assert len(hashes) == 1
    made = read_manifest(manifest)
    assert (made.stage, made.read, made.kept, made.regions) == ("given", 9, 9, 9)
    monkeypatch.setattr(reading, "boxes_in", lambda *_: pytest.fail("the JSON was read again"))
    assert given(tmp_path, config.model_copy(update={"max_regions": 3, "min_side_px": 5.0})) == manifest


def test_the_rows_of_a_shard_are_found_wherever_they_stand(tmp_path: Path) -> None:
    config = boxes_config(boxes_json(tmp_path, {f"{number}.jpg": [[number, 0, 3, 3]] for number in range(10)}))
    keys = {"s-0": "9.jpg", "s-1": "0.jpg", "s-2": "gone.jpg", "s-3": "4", "s-4": "4.jpg"}
    rows = rows_for(given(tmp_path, config), ExternalBoxesRow, keys)
    assert {key: row.regions[0].x for key, row in rows.items()} == {"s-0": 9, "s-1": 0, "s-3": 4, "s-4": 4}


def test_the_manifest_of_something_else_is_refused(tmp_path: Path) -> None:
    config = boxes_config(boxes_json(tmp_path, {NAME: []}))
    kept = write_filtered(tmp_path, [Item(IMAGE, source_key=NAME)])
    arguments: dict[str, Any] = {"batch_size": 1, "device": "cpu"}
    with pytest.raises(ConfigError, match="engine boxes_json needs the table of .*boxes.json.*--annotations FILE"):
        detect_shard(kept, tmp_path / "d.json", config, **arguments)
    with pytest.raises(ConfigError, match="s.json: is of filter .*expected given"):
        detect_shard(kept, tmp_path / "d.json", config, annotations=kept, **arguments)
    other = given(tmp_path, config.model_copy(update={"labels": False}))
    with pytest.raises(ConfigError, match="boxes_json.json: is of given .*'labels': False"):
        detect_shard(kept, tmp_path / "d.json", config, annotations=other, **arguments)
    assert not (tmp_path / "d.json").exists()


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    manifest = given(tmp_path, boxes_config(boxes_json(tmp_path, {NAME: [[1, 2, 3, 4]]})))
    manifest.with_suffix(".parquet").write_bytes(b"PAR1")
    with pytest.raises(ShardError, match="is not the one that boxes_json.json names"):
        rows_for(manifest, ExternalBoxesRow, {"s": NAME})

"""Own boxes and masks of own images, from files to the table of detect, and the example of docs/data.md."""

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from fineclip.config import BoxesFilesDetect, DetectConfig, parse
from fineclip.errors import ConfigError, DataError
from fineclip.readers.box_files import box_files, image_name
from fineclip.shards import DetectRow, read_manifest, read_rows, sha256_of
from fineclip.stages.detect import detect_shard
from fineclip.stages.external.annotation_tables import OwnBoxesRow
from fineclip.stages.external.reading import import_annotations
from fineclip.stages.given_boxes import ENOUGH
from tests.helpers.images import encoded, put
from tests.helpers.stages import Item, write_filtered
from tests.helpers.verbs import done, refused

DOCS = Path(__file__).parents[2] / "docs/data.md"
SIZE = (64, 48)


def own(path: Path, kind: str = "yolo", **more: Any) -> BoxesFilesDetect:
    values = {"engine": "boxes_files", "format": kind, "path": str(path), "min_side_px": 0} | more
    return parse(DetectConfig, values, where="detect.own")


def imported(config: BoxesFilesDetect, folder: Path) -> Path:
    manifest = folder / "given/own.json"
    import_annotations(manifest, config, kind="detect", name="own")
    return manifest


def detected(config: BoxesFilesDetect, folder: Path, names: Mapping[str, bytes] | list[str]) -> dict[str, DetectRow]:
    """Rows of detect by the names of images."""
    images = names if isinstance(names, Mapping) else {name: encoded(*SIZE, color=i) for i, name in enumerate(names)}
    kept = write_filtered(folder, [Item(content, source_key=name) for name, content in images.items()])
    manifest = folder / "detect/s.json"
    detect_shard(kept, manifest, config, annotations=imported(config, folder), batch_size=1, device="cpu")
    return dict(zip(images, read_rows(manifest, DetectRow), strict=True))


def found(row: DetectRow) -> list[tuple[str, tuple[float, ...]]]:
    return [(one.label, tuple(one.box)) for one in row.regions]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def mask(*boxes: tuple[int, int, int, int], size: tuple[int, int] = SIZE) -> np.ndarray:
    pixels = np.zeros((size[1], size[0]), np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(boxes, start=1):
        pixels[y1:y2, x1:x2] = number
    return pixels


def voc(box: tuple[int, int, int, int], size: tuple[int, int] = SIZE) -> str:
    x1, y1, x2, y2 = box
    edges = f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    return f"<annotation>{stated}<object><name>cat</name><bndbox>{edges}</bndbox></object></annotation>"


# --- the example of the documentation


def example() -> dict[str, Any]:
    blocks = re.findall(r"^```yaml\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    [block] = [yaml.safe_load(block) for block in blocks if "engine: boxes_files" in block]
    return block


def test_the_example_of_the_documentation_runs(tmp_path: Path) -> None:
    config = example()
    put(
        tmp_path / "mine",
        {
            **{f"images/train/{name}.jpg": encoded(320, 240, color=i) for i, name in enumerate("abc")},
            "labels/train/a.txt": "1 0.5 0.5 0.25 0.5\r\n0 0.25 0.25 0.5 0.5\r\n",
            "labels/train/b.txt": "",
            "labels/train/gone.txt": "0 0.5 0.5 0.5 0.5",
            "data.yaml": "names: {0: cat, 1: dog}",
            "captions.csv": "image,caption\n" + "".join(f"train/{name}.jpg,some pets\n" for name in "abc"),
        },
    )
    source, entry = config["source"], config["detect"][config["plan"]["regions"]]
    done(tmp_path, "index-source", "--manifest", "list.json", config=source)
    shard = ["--shard", "s", "--shard-index", "0/1", "--listing", "list.json"]
    done(tmp_path, "source", *shard, "--manifest", "source/s.json", config=source)
    done(tmp_path, "filter", "--source", "source/s.json", "--manifest", "filter/s.json", config={})
    given = ["--kind", "detect", "--name", "own"]
    said = done(tmp_path, "import-annotations", *given, "--manifest", "given.json", config=entry)
    assert "names of classes are those of mine/data.yaml" in said
    ends = ["--filter", "filter/s.json", "--annotations", "given.json", "--manifest", "detect/s.json"]
    said = done(tmp_path, "detect", *ends, config=entry)
    assert "1 of 3 images have no label in mine/labels, such as train/c.jpg" in said
    rows = {Path(row.key).name: row for row in read_rows(tmp_path / "detect/s.json", DetectRow)}
    assert all(row.kept for row in rows.values()) and len(rows) == 3
    [boxes] = [found(row) for row in rows.values() if row.regions]
    assert boxes == [("dog", (120, 60, 200, 180)), ("cat", (0, 0, 160, 120))]


# --- every format gives the same boxes

BOX = (8, 12, 40, 36)
FORMATS: dict[str, tuple[str, dict[str, bytes | str]]] = {
    "yolo": ("in/labels", {"in/labels/a.txt": "0 0.375 0.5 0.5 0.5", "in/classes.txt": "cat\n"}),
    "yolo polygon": (
        "in",
        {"in/a.txt": "0 .125 .25 .625 .25 .625 .75", "in/a.jpg": b"", "in/data.yaml": "names: [cat]"},
    ),
    "voc": ("in/Annotations", {"in/Annotations/a.xml": voc(BOX)}),
    "csv": ("in/boxes.csv", {"in/boxes.csv": "image,x1,y1,x2,y2,label\na.jpg,8,12,40,36,cat\n"}),
    "csv fractions": ("b.csv", {"b.csv": "ImageID,LabelName,XMin,XMax,YMin,YMax\na,cat,.125,.625,.25,.75\n"}),
    "masks": ("in", {"in/a.png": png(mask(BOX))}),
    "mask_folders": ("in", {"in/a/0.png": png(mask(BOX) * 255)}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_box(tmp_path: Path, name: str) -> None:
    path, files = FORMATS[name]
    put(tmp_path, files)
    rows = detected(own(tmp_path / path, name.split(maxsplit=1)[0]), tmp_path, ["a.jpg", "b.jpg"])
    label = "" if name.startswith("mask") else "cat"
    assert found(rows["a.jpg"]) == [(label, BOX)]
    assert rows["b.jpg"].kept and rows["b.jpg"].regions == []


@pytest.mark.parametrize("name", ["voc", "csv", "masks", "mask_folders"])
def test_an_image_of_another_size_than_stated_is_dropped(tmp_path: Path, name: str) -> None:
    files: dict[str, dict[str, bytes | str]] = {
        "voc": {"in/a.xml": voc(BOX, (128, 96)), "in/b.xml": voc(BOX)},
        "csv": {"in/b.csv": "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,128,96,cat,8,12,40,36\nb.jpg,64,48,cat,8,12,40,36\n"},
        "masks": {"in/a.png": png(mask(BOX, size=(128, 96))), "in/b.png": png(mask(BOX))},
        "mask_folders": {"in/a/0.png": png(mask(BOX, size=(48, 64))), "in/b/0.png": png(mask(BOX))},
    }  # fmt: skip
    put(tmp_path, files[name])
    path = tmp_path / ("in/b.csv" if name == "csv" else "in")
    rows = detected(own(path, name), tmp_path, ["a.jpg", "b.jpg"])
    assert {key: row.reason for key, row in rows.items()} == {"a.jpg": "other-size", "b.jpg": None}
    assert [box for _, box in found(rows["b.jpg"])] == [BOX]


def test_fractions_of_a_turned_image_are_not_used(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", SIZE).save(buffer, "JPEG", exif=exif)
    files = {"labels/a.txt": "0 0.5 0.5 0.5 0.5", "labels/b.txt": "0 0.5 0.5 0.5 0.5", "labels/c.txt": ""}
    put(tmp_path, files | {"data.yaml": "names: [cat]"})
    images = {"a.jpg": buffer.getvalue(), "b.jpg": encoded(*SIZE), "c.jpg": buffer.getvalue() + b"\0"}
    rows = detected(own(tmp_path / "labels"), tmp_path, images)
    assert {key: row.reason for key, row in rows.items()} == {"a.jpg": "turned", "b.jpg": None, "c.jpg": None}


def test_boxes_of_another_frame_stop_the_stage(tmp_path: Path) -> None:
    rows = "".join(f"{n}.jpg,0.1,0.2,0.5,0.6\n" for n in range(4))
    put(tmp_path, {"fractions.csv": f"image,x1,y1,x2,y2\n{rows}"})
    names = [f"{n}.jpg" for n in range(4)]
    with pytest.raises(DataError, match="fractions"):
        detected(own(tmp_path / "fractions.csv", "csv"), tmp_path, names)
    put(tmp_path, {"large.csv": "image,x1,y1,x2,y2\n" + "".join(f"{n}.jpg,10,10,120,90\n" for n in range(4))})
    with pytest.raises(DataError, match="border"):
        detected(own(tmp_path / "large.csv", "csv"), tmp_path, names)
    corners = {f"labels/{n}.txt": f"0 0.5 0.5 0.9{n} 0.9" for n in range(4)}  # x1 y1 x2 y2 would be 0.5 0.5 0.9 0.9
    put(tmp_path, {name: text.replace("0 0.5 0.5", "0 0.7 0.7") for name, text in corners.items()})
    with pytest.raises(DataError, match="border"):
        detected(own(tmp_path / "labels", labels=False), tmp_path, names)


# --- which file belongs to which image


@pytest.mark.parametrize(
    ("root", "name", "image"),
    [
        ("boxes", "a.txt", "a"),
        ("boxes", "train/a.b.txt", "train/a.b"),
        ("mine/labels", "train/a.txt", "mine/images/train/a"),
        ("mine/labels/train", "a.txt", "mine/images/train/a"),
        ("mine", "train/labels/a.txt", "mine/train/images/a"),
        ("/x/VOC2012/Annotations", "a.xml", "x/VOC2012/JPEGImages/a"),
        ("VOC2012", "SegmentationObject/a.png", "VOC2012/JPEGImages/a"),
        ("labels", "labels.txt", "images/labels"),
    ],
)
def test_the_image_of_a_file(root: str, name: str, image: str) -> None:
    assert image_name(Path(root), name) == image


def test_labels_of_another_split_are_not_taken(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "d/train/labels/a.txt": "0 .5 .5 .5 .5",
            "d/valid/labels/a.txt": "0 .25 .25 .5 .5",
            "d/data.yaml": "names: [cat]",
        },
    )
    names = ["train/images/a.jpg", "valid/images/a.jpg", "test/images/a.jpg"]
    rows = detected(own(tmp_path / "d"), tmp_path, names)
    assert [found(rows[name]) for name in names] == [[("cat", (16, 12, 48, 36))], [("cat", (0, 0, 32, 24))], []]
    rows = detected(own(tmp_path / "d/train/labels"), tmp_path / "one", names)
    assert [len(rows[name].regions) for name in names] == [1, 0, 0]


@pytest.mark.parametrize(
    ("label", "image"), [("cafe\u0301", "caf\u00e9.jpg"), ("caf\u00e9", "sub/cafe\u0301.jpg"), ("a b.v2", "a b.v2.png")]
)
def test_names_of_another_spelling(tmp_path: Path, label: str, image: str) -> None:
    put(tmp_path, {f"boxes/{label}.txt": "0 .5 .5 .5 .5"})
    rows = detected(own(tmp_path / "boxes", labels=False), tmp_path, [image])
    assert len(rows[image].regions) == 1


def test_two_files_of_one_image_are_an_error(tmp_path: Path) -> None:
    put(tmp_path, {"boxes/caf\u00e9.txt": "", "boxes/cafe\u0301.txt": ""})
    if len(list((tmp_path / "boxes").iterdir())) < 2:
        pytest.skip("this file system has one spelling alone")
    with pytest.raises(DataError, match="is of the image caf.*as is .*Remove one of them"):
        imported(own(tmp_path / "boxes", labels=False), tmp_path)


@pytest.mark.parametrize("others", [("1/a.jpg", "2/a.jpg"), ("a.jpg", "a.png")])
def test_two_images_of_one_file_are_an_error(tmp_path: Path, others: tuple[str, str]) -> None:
    put(tmp_path, {"boxes/a.txt": "0 .5 .5 .5 .5", "boxes/b.txt": ""})
    with pytest.raises(DataError, match=f"boxes: the label of a could be of {others[0]} as well as of {others[1]}"):
        detected(own(tmp_path / "boxes", labels=False), tmp_path, [*others, "1/b.jpg"])


def test_other_texts_are_no_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = {
        "classes.txt": "cat",
        "README.txt": "a data set",
        "train.txt": "images/a.jpg\n",
        "images/a.txt": "a cat on a sofa",
    }
    put(tmp_path, files | {"labels/a.txt": "0 .5 .5 .5 .5", "images/a.jpg": encoded()})
    assert list(box_files(own(tmp_path)).labels) == ["labels/a.txt"]
    assert "3 .txt files are neither in a folder labels nor beside an image and are skipped" in caplog.text
    put(tmp_path / "flat", {"a.jpg": encoded(), "a.txt": "", "classes.txt": "cat", "notes.txt": "?"})
    assert list(box_files(own(tmp_path / "flat")).labels) == ["a.txt"]


def test_a_shard_of_which_no_image_has_a_file_is_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, {"boxes/x/0.txt": "0 .5 .5 .5 .5"})
    names = [f"y/{n}.jpg" for n in range(ENOUGH)]
    config = own(tmp_path / "boxes", labels=False)
    with pytest.raises(
        DataError, match=f"boxes: names none of the {ENOUGH} images of this shard; the first is y/0.jpg"
    ):
        detected(config, tmp_path, names)
    rows = detected(config, tmp_path / "few", names[1:])  # the last shard may be small
    assert not any(row.regions for row in rows.values())
    assert f"{ENOUGH - 1} of {ENOUGH - 1} images have no label" in caplog.text
    put(tmp_path, {"boxes/y/3.txt": ""})
    assert all(row.kept for row in detected(config, tmp_path / "one", names).values())


# --- keys


def test_highest_scores_come_first_and_limits_hold(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    lines = ["0 .2 .2 .2 .2 .25", "1 .4 .4 .2 .2 .75", "0 .6 .6 .2 .2 .75", "0 .5 .5 .01 .01", "1 .5 .5 0 .5"]
    put(tmp_path, {"labels/a.txt": "\n".join(lines), "names.txt": "cat\ndog"})
    config = own(tmp_path / "labels", names=str(tmp_path / "names.txt"), max_regions=2, min_side_px=2)
    [row] = detected(config, tmp_path, ["a.jpg"]).values()
    assert [(one.label, one.score) for one in row.regions] == [("dog", 0.75), ("cat", 0.75)]
    assert "1 boxes left out: smaller than 2 px" in caplog.text
    assert "1 boxes left out: outside the image or empty" in caplog.text
    assert "1 boxes left out: more than 2 in their image" in caplog.text


@pytest.mark.parametrize("labels", [True, False])
def test_keypoints_are_no_polygon(tmp_path: Path, *, labels: bool) -> None:
    put(
        tmp_path,
        {
            "labels/a.txt": "0 .5 .5 .5 .5 .45 .45 .5 .5 .55 .55",
            "labels/data.yaml": "names: [person]\nkpt_shape: [3, 2]",
        },
    )
    [row] = detected(own(tmp_path / "labels", labels=labels), tmp_path, ["a.jpg"]).values()
    width, height = SIZE
    assert [tuple(one.box) for one in row.regions] == [(width / 4, height / 4, 3 * width / 4, 3 * height / 4)]
    assert [one.label for one in row.regions] == ["person" if labels else ""]


def test_classes_without_names(tmp_path: Path) -> None:
    put(tmp_path, {"a/b/c/labels/a.txt": "3 .5 .5 .5 .5"})
    config = own(tmp_path / "a/b/c/labels")
    with pytest.raises(DataError, match="none of data.yaml.*classes have no names. Set names: FILE, or labels: false"):
        imported(config, tmp_path)
    [row] = detected(own(tmp_path / "a/b/c/labels", labels=False), tmp_path, ["a.jpg"]).values()
    assert [one.label for one in row.regions] == [""]
    put(tmp_path, {"a/b/c/classes.txt": "cat\n"})
    with pytest.raises(DataError, match="labels/a.txt: line 1: class 3 has no name"):
        imported(config, tmp_path)


def test_names_are_those_of_format_yolo() -> None:
    with pytest.raises(ConfigError, match="detect.own.*names is used with format: yolo alone"):
        own(Path("x"), "voc", names="classes.txt")


@pytest.mark.parametrize(
    ("kind", "files", "message"),
    [
        ("csv", {}, "in: no such file"),
        ("yolo", {}, "in: no such folder"),
        ("yolo", {"in/a.xml": ""}, "in: holds no .txt of format yolo"),
        ("voc", {"in/a.xml": ""}, "a.xml: is not XML"),
        ("masks", {"in/a.png": b"x"}, "a.png: cannot be read as a PNG"),
        ("mask_folders", {"in/a.png": png(mask(BOX))}, "a.png: is not in a folder of its image.*set format: masks"),
        (
            "mask_folders",
            {"in/a/0.png": png(mask()), "in/a/1.png": png(mask(size=(9, 9)))},
            "1.png: is 9 x 9 pixels, and 0.png beside it",
        ),
    ],
)
def test_what_cannot_be_used_is_one_message(
    tmp_path: Path, kind: str, files: dict[str, bytes | str], message: str
) -> None:
    put(tmp_path, files)
    config = {"engine": "boxes_files", "format": kind, "path": "in"}
    said = refused(
        tmp_path, "import-annotations", "--kind", "detect", "--name", "own", "--manifest", "g.json", config=config
    )
    assert re.search(message, said)
    assert not (tmp_path / "g.json").exists()


def test_the_table_is_made_again_when_a_label_or_a_name_changes(tmp_path: Path) -> None:
    root = put(tmp_path, {"labels/a.txt": "0 .5 .5 .5 .5", "classes.txt": "cat"}) / "labels"
    hashes = [sha256_of(imported(own(root), tmp_path)), sha256_of(imported(own(root, max_regions=3), tmp_path))]
    put(tmp_path, {"classes.txt": "dog"})
    hashes.append(sha256_of(imported(own(root), tmp_path)))
    put(tmp_path, {"labels/a.txt": "0 .5 .5 .5 .25"})
    hashes.append(sha256_of(imported(own(root), tmp_path)))
    put(tmp_path, {"labels/b.txt": ""})
    hashes.append(sha256_of(imported(own(root), tmp_path)))
    assert hashes[0] == hashes[1] and len(set(hashes)) == 4
    rows = list(read_rows(tmp_path / "given/own.json", OwnBoxesRow))
    assert [len(row.regions) for row in rows] == [1, 0] and all(row.fractions for row in rows)
    assert read_manifest(tmp_path / "given/own.json").regions == 1


def test_masks_of_a_json_are_boxes_of_engine_boxes_json(tmp_path: Path) -> None:
    runs = {"size": [48, 64], "counts": [64 * 48 - 3, 3]}
    values = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "segmentation": runs},
            {"image_id": 1, "category_id": 1, "segmentation": [[2, 3, 9, 3, 9, 7.5]]},
            {"image_id": 2, "category_id": 1, "segmentation": {"size": [96, 128], "counts": [0, 96 * 128]}},
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    put(tmp_path, {"boxes.json": json.dumps(values)})
    config = parse(
        DetectConfig, {"engine": "boxes_json", "path": str(tmp_path / "boxes.json"), "min_side_px": 0}, where="x"
    )
    rows = detected(config, tmp_path, ["a.jpg", "b.jpg"])
    assert found(rows["a.jpg"]) == [("cat", (63, 45, 64, 48)), ("cat", (2, 3, 9, 7.5))]
    assert rows["b.jpg"].reason == "other-size"

"""Every fault of an input that a stage stops on or drops is a finding of the audit."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fineclip.check.audit import Audit, audit
from fineclip.check.findings import Finding
from fineclip.config import load
from tests.helpers.audit import IMAGES, configuration, folder, jpeg
from tests.helpers.coco import write_coco

World = Callable[[Path], dict[str, Any]]


def coco(root: Path) -> dict[str, Any]:
    """Drawn images in COCO's layout with their boxes, and the two benchmarks of its other split."""
    write_coco(root, train=IMAGES, val=3)
    values = configuration({"kind": "coco", "root": str(root)})
    values["plan"] |= {"regions": "boxes", "benchmarks": ["boxes", "retrieval"]}
    values["benchmarks"] = {
        "boxes": {"kind": "boxes", "source": {"layout": "coco_panoptic", "root": str(root)}},
        "retrieval": {"kind": "retrieval", "source": {"layout": "coco_captions", "root": str(root)}},
    }
    return values


def tars(root: Path, members: dict[str, bytes] | None = None) -> dict[str, Any]:
    root.mkdir()
    members = members or {
        f"{number}.{suffix}": content
        for number in range(IMAGES)
        for suffix, content in (("jpg", jpeg(number)), ("txt", f"a photo of thing number {number}".encode()))
    }
    with tarfile.open(root / "a.tar", "w") as tar:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return configuration({"kind": "webdataset", "root": str(root)})


def edit_json(path: Path, change: Callable[[Any], None]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def audited(values: dict[str, Any], *, images: int | None = None, processes: int = 1) -> Audit:
    return audit(load(values), images=images, processes=processes)


def finding(result: Audit, text: str, severity: str | None = None) -> Finding:
    """The one finding whose text holds this."""
    found = [one for one in result.findings.sorted() if text in one.text and severity in (None, one.severity)]
    assert len(found) == 1, [one.text for one in result.findings.sorted()]
    return found[0]


@pytest.mark.parametrize("world", [folder, coco, tars])
def test_sound_inputs_have_neither_errors_nor_warnings(tmp_path: Path, world: World) -> None:
    result = audited(world(tmp_path / "in"))
    assert [one.text for one in result.findings.sorted() if one.severity != "note"] == []
    assert (result.images, result.complete) == (IMAGES, True)


# --- boxes and pixels


def instances(root: Path) -> Path:
    return root / "annotations/instances_train2017.json"


def resize_images(root: Path) -> None:
    for path in sorted((root / "train2017").iterdir())[:2]:
        Image.open(path).resize((50, 30)).save(path)


def in_fractions(values: Any) -> None:
    sizes = {one["id"]: one for one in values["images"]}
    for one in values["annotations"]:
        image = sizes[one["image_id"]]
        one["bbox"] = [side / image["width" if place % 2 == 0 else "height"] for place, side in enumerate(one["bbox"])]


def as_corners(values: Any) -> None:
    for one in values["annotations"]:
        x, y, width, height = one["bbox"]
        one["bbox"] = [x, y, x + width, y + height]


def other_ids(values: Any) -> None:
    for one in values["annotations"]:
        one["image_id"] = str(one["image_id"])


def without_box(values: Any) -> None:
    values["annotations"][0]["bbox"] = []


def capitals(values: Any) -> None:
    first = values["categories"][0]["name"]
    values["categories"][1]["name"] = first.upper()
    values["annotations"][0]["category_id"], values["annotations"][1]["category_id"] = 1, 2


BOX_FAULTS: dict[str, tuple[Callable[[Any], None], str, str]] = {
    "fractions": (in_fractions, "error", "fractions"),
    "corners": (as_corners, "error", "beyond the border"),
    "ids of another type": (other_ids, "error", "'image_id'"),
    "a box without numbers": (without_box, "warning", "bbox"),
    "spellings of one class": (capitals, "warning", "differ only by case"),
}


@pytest.mark.parametrize("fault", BOX_FAULTS)
def test_faults_of_boxes(tmp_path: Path, fault: str) -> None:
    change, severity, text = BOX_FAULTS[fault]
    values = coco(tmp_path / "in")
    edit_json(instances(tmp_path / "in"), change)
    assert finding(audited(values), text, severity)


def test_images_of_another_size_than_stated(tmp_path: Path) -> None:
    values = coco(tmp_path / "in")
    resize_images(tmp_path / "in")
    found = finding(audited(values), "other-size")
    assert (found.severity, found.count) == ("warning", 2)
    assert found.example and found.example.picture and "50 x 30 pixels, stated as" in found.example.text


def test_boxes_of_files(tmp_path: Path) -> None:
    values = folder(tmp_path / "in")
    labels = tmp_path / "labels"
    labels.mkdir()
    for number in range(IMAGES - 1):
        (labels / f"{number}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    values["detect"]["boxes"] = {"engine": "boxes_files", "format": "yolo", "path": str(labels), "labels": False}
    values["plan"]["regions"] = "boxes"
    result = audited(values)
    assert finding(result, "have no label").severity == "warning"
    (labels / "0.txt").write_text("0 50 50 20 20\n")
    assert finding(audited(values), "0.txt").severity == "error"


def test_boxes_in_fractions_of_an_image_that_exif_turns(tmp_path: Path) -> None:
    values = folder(tmp_path / "in")
    image = Image.open(tmp_path / "in/1.jpg")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "in/1.jpg", exif=exif)
    (tmp_path / "labels").mkdir()
    for number in range(IMAGES):
        (tmp_path / f"labels/{number}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    labels = {"engine": "boxes_files", "format": "yolo", "path": str(tmp_path / "labels"), "labels": False}
    values["detect"]["boxes"], values["plan"]["regions"] = labels, "boxes"
    assert finding(audited(values), "turned: ").count == 1


# --- texts


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0 0.481 0.338 0.35 0.41", "caption-no-letter"),
        ("a\0b \0c d", "caption-binary"),
        ("one", "caption-short"),
        ("", "caption-empty"),
    ],
)
def test_captions_that_the_filter_drops(tmp_path: Path, text: str, reason: str) -> None:
    values = folder(tmp_path / "in")
    (tmp_path / "in/2.txt").write_text(text)
    found = finding(audited(values), f"{reason}: ")
    assert (found.part, found.severity, found.count, found.of) == ("filter", "warning", 1, IMAGES)
    assert found.example and found.example.text.startswith("2.jpg")


def test_a_row_of_a_table_with_other_values(tmp_path: Path) -> None:
    values = folder(tmp_path / "in")
    (tmp_path / "in/captions.csv").write_text("image,caption\n0.jpg,a dog, running\n")
    values["source"]["captions"] = "captions.csv"
    found = finding(audited(values), "captions.csv: line 2")
    assert found.severity == "error"


def test_scripts_and_encodings_are_counted(tmp_path: Path) -> None:
    values = folder(tmp_path / "in")
    (tmp_path / "in/3.txt").write_bytes("一只狗在草地上".encode("utf-16"))
    (tmp_path / "in/4.txt").write_bytes("un café noir".encode("cp1252"))
    result = audited(values)
    others = finding(result, "2 text files are in another encoding than UTF-8: 1 cp1252, 1 utf-16-le")
    assert (others.severity, others.count) == ("note", 2)
    found = finding(result, "captions in Cjk letters")
    assert (found.severity, found.count, found.of) == ("note", 1, IMAGES)


# --- names, files and tars


def test_names_that_match_no_file(tmp_path: Path) -> None:
    values = folder(tmp_path / "in")
    rows = ["image,caption", "0.jpg,a red dog", "./1.jpg,a red dog", "/data/2.jpg,a red dog"]
    (tmp_path / "in/captions.csv").write_text("\n".join(rows))
    values["source"]["captions"] = "captions.csv"
    result = audited(values)
    assert "1 of 3" in finding(result, "/data/2.jpg").text
    assert finding(result, "missing-image: ").count == 1
    assert finding(result, "no-text: ").count == IMAGES - 2


def test_files_of_other_formats_broken_links_and_circles(tmp_path: Path) -> None:
    values = folder(tmp_path / "in")
    (tmp_path / "in/9.avif").write_bytes(b"x")
    (tmp_path / "in/8.jpg").symlink_to("nothing.jpg")
    (tmp_path / "in/8.txt").write_text("a red dog")
    (tmp_path / "in/again").symlink_to(tmp_path / "in")
    result = audited(values)
    assert ".avif" in finding(result, "avif").text
    assert finding(result, "missing-image: ").count == 1
    assert result.images == IMAGES + 1


def test_an_unreadable_image_and_a_duplicate(tmp_path: Path) -> None:
    values = folder(tmp_path / "in")
    (tmp_path / "in/0.jpg").write_bytes(b"no image")
    (tmp_path / "in/1.jpg").write_bytes((tmp_path / "in/2.jpg").read_bytes())
    result = audited(values)
    assert finding(result, "unreadable: ").count == 1
    assert finding(result, "duplicate: ").count == 1


def test_a_damaged_tar(tmp_path: Path) -> None:
    values = tars(tmp_path / "in")
    path = tmp_path / "in/a.tar"
    content = bytearray(path.read_bytes())
    content[content.index(b"2.jpg") + 1] ^= 1
    path.write_bytes(content)
    result = audited(values)
    assert finding(result, "damaged-member: ").severity == "warning"


def test_data_after_the_end_of_a_tar(tmp_path: Path) -> None:
    values = tars(tmp_path / "in")
    with (tmp_path / "in/a.tar").open("ab") as file:
        file.write(b"no tar" * 1000)
    assert finding(audited(values), "a.tar").severity == "error"


def test_members_that_are_skipped_and_images_without_text(tmp_path: Path) -> None:
    values = tars(tmp_path / "in", {"0.jpg": jpeg(0), "1.jpg": jpeg(1), "1.txt": b"a red dog", "1.npy": b"x"})
    result = audited(values)
    assert finding(result, "no-text: ").count == 1
    assert finding(result, ".npy").severity == "note"


# --- benchmarks


def test_a_benchmark_that_cannot_be_indexed(tmp_path: Path) -> None:
    values = coco(tmp_path / "in")
    next((tmp_path / "in/val2017").iterdir()).unlink()
    result = audited(values)
    assert {one.part for one in result.findings.sorted() if one.severity == "error"} == {
        "benchmarks.boxes",
        "benchmarks.retrieval",
    }


@pytest.mark.parametrize(("exclude", "severity"), [([], "warning"), (["boxes", "retrieval"], "note")])
def test_overlap_with_benchmarks_is_counted(tmp_path: Path, exclude: list[str], severity: str) -> None:
    values = coco(tmp_path / "in") | {"select": {"exclude": exclude}}
    theirs, ours = (sorted((tmp_path / "in" / split).iterdir()) for split in ("val2017", "train2017"))
    ours[0].write_bytes(theirs[0].read_bytes())
    result = audited(values)
    assert result.overlap == {"boxes": 1, "retrieval": 1}
    found = [one for one in result.findings.sorted() if "images of the source are in it" in one.text]
    assert [(one.part, one.severity, one.count) for one in found] == [
        ("benchmarks.boxes", severity, 1),
        ("benchmarks.retrieval", severity, 1),
    ]


def test_a_benchmark_without_data(tmp_path: Path) -> None:
    values = coco(tmp_path / "in")
    values["benchmarks"]["boxes"]["source"]["root"] = str(tmp_path / "absent")
    assert finding(audited(values), "is left out").severity == "warning"
    values["benchmarks"]["boxes"]["if_missing"] = "error"
    assert finding(audited(values), "is left out").severity == "error"


def test_a_benchmark_of_which_nothing_is_left(tmp_path: Path) -> None:
    values = coco(tmp_path / "in")
    edit_json(tmp_path / "in/annotations/panoptic_val2017.json", without_segments)
    result = audited(values)
    assert finding(result, "has a box of the configured sizes", "error").part == "benchmarks.boxes"
    assert finding(result, "images dropped: no-box").count == 3


def without_segments(values: Any) -> None:
    for one in values["annotations"]:
        one["segments_info"] = []


# --- files that are read once


@pytest.mark.parametrize(
    ("section", "entry", "content"),
    [
        ("detect", {"engine": "boxes_json"}, {"images": [], "annotations": [], "categories": []}),
        ("caption", {"engine": "captions_json"}, {}),
    ],
)
def test_a_json_without_images(tmp_path: Path, section: str, entry: dict[str, Any], content: dict[str, Any]) -> None:
    values, path = folder(tmp_path / "in"), tmp_path / "released.json"
    path.write_text(json.dumps(content))
    values[section] = values[section] | {"released": entry | {"path": str(path)}}
    values["plan"] |= {{"detect": "regions", "caption": "captions"}[section]: "released"}
    assert finding(audited(values), "released.json: holds no image").severity == "error"


def test_captions_of_an_image_that_is_kept(tmp_path: Path) -> None:
    values = folder(tmp_path / "in")
    (tmp_path / "in/4.txt").write_text("a red dog runs\ndog\na blue dog")
    found = finding(audited(values), "captions left out as caption-short")
    assert (found.part, found.severity, found.count) == ("filter", "warning", 1)


def test_boxes_are_judged_shard_by_shard(tmp_path: Path) -> None:
    """Boxes of one tar are of larger images; over all tars, they are less than a tenth."""
    root = tmp_path / "in"
    values = tars(root, {f"x{number}.{suffix}": content for number in range(3) for suffix, content in pair(number)})
    (root / "a.tar").rename(root / "z.tar")
    boxes = [{"image_id": number, "category_id": 1, "bbox": [60, 40, 60, 60]} for number in range(3)]
    names = [f"x{number}.jpg" for number in range(3)]
    for tar in range(2):
        members = {
            f"{tar}y{number}.{suffix}": content
            for number in range(40)
            for suffix, content in pair(100 * tar + number + 9)
        }
        tars(tmp_path / f"more{tar}", members)
        (tmp_path / f"more{tar}/a.tar").rename(root / f"{tar}.tar")
        boxes += [{"image_id": len(names) + number, "category_id": 1, "bbox": [1, 1, 30, 30]} for number in range(40)]
        names += [f"{tar}y{number}.jpg" for number in range(40)]
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    values["detect"]["boxes"] = {"engine": "boxes_json", "path": str(tmp_path / "boxes.json")}
    values["plan"]["regions"] = "boxes"
    assert "border" in finding(audited(values), "3 of 3 boxes").text


def pair(number: int) -> list[tuple[str, bytes]]:
    return [("jpg", jpeg(number)), ("txt", b"a photo of a thing")]


# --- samples and processes


def test_a_sample_is_the_beginning_of_the_order_of_the_shards(tmp_path: Path) -> None:
    values = folder(tmp_path / "in")
    result = audited(values, images=2)
    assert (result.images, result.complete) == (2, False)


@pytest.mark.parametrize("world", [folder, tars])
def test_processes_do_not_change_the_findings(tmp_path: Path, world: World) -> None:
    values = world(tmp_path / "in")
    one, two = (audited(values, processes=processes) for processes in (1, 2))
    assert one == two

"""Bad input ends in its reason or in one clear message with exit code 2; never in a traceback or a half-written file."""

import json
from pathlib import Path
from typing import Any

import pytest

from fineclip.shards import DetectRow, FilterRow, read_manifest, read_rows
from tests.helpers.dag import edit_config, small_world, snakemake
from tests.helpers.external import write_json
from tests.helpers.images import HTML, encoded, write_tar
from tests.helpers.verbs import done, message_of, process, refused, written

COCO = {"kind": "coco", "root": "in", "images_per_shard": 2}
TARS = {"kind": "webdataset", "root": "in"}
OWN = {"engine": "annotations", "min_side_px": 1}
ANY = {"min_side_px": 1, "max_aspect": 1000, "min_words": 1}


def coco(folder: Path, *, boxes: list[list[float]] | None = None, images: int = 2) -> dict[str, Any]:
    """COCO's layout at `in`, each image with the same boxes; the instances JSON."""
    listed = [{"id": number, "file_name": f"{number}.png"} for number in range(images)]
    for image in listed:
        path = folder / "in/train2017" / str(image["file_name"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(20, 10, color=int(str(image["id"])), kind="PNG"))
    captions = [{"image_id": image["id"], "caption": "a cat"} for image in listed]
    instances = {
        "images": listed,
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"image_id": image["id"], "category_id": 1, "bbox": box} for image in listed for box in boxes or []
        ],
    }
    write_json(folder / "in/annotations/captions_train2017.json", {"images": listed, "annotations": captions})
    write_json(folder / "in/annotations/instances_train2017.json", instances)
    return instances


def to_detect(folder: Path, *, place: str = "0/1") -> str:
    """From listing to detect by hand; what detect said."""
    done(folder, "index-source", "--manifest", "data/listing.json", config=COCO)
    slices = ("--shard", "s", "--shard-index", place, "--listing", "data/listing.json")
    done(folder, "source", *slices, "--manifest", "data/source/s.json", config=COCO)
    done(folder, "filter", "--source", "data/source/s.json", "--manifest", "data/filter/s.json", config=ANY)
    return done(folder, "detect", "--filter", "data/filter/s.json", "--manifest", "data/detect/s.json", config=OWN)


def to_card(folder: Path) -> None:
    """From detect to the data card by hand."""
    template = {"engine": "template"}
    done(folder, "caption", "--detect", "data/detect/s.json", "--manifest", "data/caption/s.json", config=template)
    done(folder, "pack", "--caption", "data/caption/s.json", "--manifest", "data/pack/s.json")
    done(folder, "card", "--pack", "data/pack/s.json", "--manifest", "data/pack/card.json")


# --- a wrong configuration key


@pytest.mark.parametrize(
    ("verb", "arguments", "config", "message"),
    [
        ("filter", ("--source", "x.json"), {"min_sid_px": 3}, "filter: min_sid_px: unknown key, did you mean min_side_px?"),
        ("detect", ("--filter", "x.json"), OWN | {"max_region": 3}, "detect: max_region: unknown key, did you mean max_regions?"),
        ("detect", ("--filter", "x.json"), {"engine": "yollo"}, "detect: input tag 'yollo'"),
        ("caption", ("--detect", "x.json"), {"engine": "captions_json"}, "caption: path: this key is required"),
        ("index-source", (), {"kind": "coco"}, "source: root: this key is required and has no default"),
        ("index-source", (), COCO | {"captions": None, "instances": None}, "source: captions and instances are both null"),
    ],
)  # fmt: skip
def test_a_wrong_key(
    tmp_path: Path, verb: str, arguments: tuple[str, ...], config: dict[str, Any], message: str
) -> None:
    said = refused(tmp_path, verb, *arguments, "--manifest", "out/s.json", config=config)
    assert said.startswith(message), said
    assert written(tmp_path) == []


def test_a_section_that_is_no_json(tmp_path: Path) -> None:
    ended = process(tmp_path, "filter", "--source", "x.json", "--manifest", "out/s.json", "--config", "{")
    assert ended.code == 2
    assert "'{' is not JSON" in ended.said and "Traceback" not in ended.said


# --- a file that is missing


@pytest.mark.parametrize(
    ("verb", "option"),
    [
        ("filter", "--source"),
        ("detect", "--filter"),
        ("caption", "--detect"),
        ("pack", "--caption"),
        ("card", "--pack"),
    ],
)
def test_a_missing_manifest(tmp_path: Path, verb: str, option: str) -> None:
    config = {"detect": OWN, "caption": {"engine": "template"}}.get(verb)
    said = message_of(process(tmp_path, verb, option, "gone.json", "--manifest", "out/s.json", config=config))
    assert said == "gone.json: no such manifest. Make it with the stage before, or run snakemake."
    assert written(tmp_path) == []


def test_a_missing_json_or_tar(tmp_path: Path) -> None:
    coco(tmp_path)
    (tmp_path / "in/annotations/instances_train2017.json").unlink()
    said = refused(tmp_path, "index-source", "--manifest", "out/listing.json", config=COCO)
    assert said.startswith("in/annotations/instances_train2017.json: no such file.")
    tar = ("--shard", "s", "--tars", "in/gone.tar", "--manifest", "out/s.json")
    assert refused(tmp_path, "source", *tar, config=TARS).startswith("in/gone.tar: cannot be read: No such file")
    boxes = {"engine": "boxes_json", "path": "in/boxes.json"}
    said = refused(
        tmp_path, "import-annotations", "--kind", "detect", "--name", "x", "--manifest", "out/x.json", config=boxes
    )
    assert said == "in/boxes.json: no such file. Put it there, or name another."
    assert not (tmp_path / "out").exists()


def test_images_that_are_gone_since(tmp_path: Path) -> None:
    coco(tmp_path)
    to_detect(tmp_path)
    (tmp_path / "in/train2017/0.png").unlink()
    before = written(tmp_path)
    again = ("--source", "data/source/s.json", "--manifest", "data/filter/s.json", "--force")
    said = refused(tmp_path, "filter", *again, config=ANY)
    assert said.startswith("in/train2017/0.png: cannot be read (No such file or directory), though its table names it")
    assert written(tmp_path) == [name for name in before if name != "data/filter/.s.json"]  # which --force forgot


# --- a key that is missing in a JSON, or another JSON


@pytest.mark.parametrize(
    ("section", "key", "message"),
    [
        ("images", "id", "has no 'id', only file_name."),
        ("images", "file_name", "has no 'file_name', only id."),
        ("annotations", "image_id", "has no 'image_id', only"),
        ("categories", "name", "has no 'name', only id."),
    ],
)
@pytest.mark.parametrize("verb", ["index-source", "import-annotations"])
def test_a_key_that_is_missing_in_a_json(tmp_path: Path, verb: str, section: str, key: str, message: str) -> None:
    instances = coco(tmp_path, boxes=[[1, 2, 3, 4]])
    del instances[section][0][key]
    write_json(tmp_path / "in/annotations/instances_train2017.json", instances)
    config = COCO | {"captions": None}
    arguments = ["--manifest", "out/x.json"]
    if verb == "import-annotations":
        config = {"engine": "boxes_json", "path": "in/annotations/instances_train2017.json"}
        arguments += ["--kind", "detect", "--name", "x"]
    said = refused(tmp_path, verb, *arguments, config=config)
    assert said.startswith(f"in/annotations/instances_train2017.json: {section}[0]: {message}"), said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["bbox", "category_id"])
@pytest.mark.parametrize("verb", ["index-source", "import-annotations"])
def test_an_annotation_without_content_is_left_out_and_counted(tmp_path: Path, verb: str, key: str) -> None:
    path = tmp_path / "in/annotations/instances_train2017.json"
    instances = coco(tmp_path, boxes=[[1, 2, 3, 4]])
    del instances["annotations"][0][key]
    write_json(path, instances)
    config = COCO | {"captions": None}
    arguments = ["--manifest", "out/x.json"]
    if verb == "import-annotations":
        config = {"engine": "boxes_json", "path": "in/annotations/instances_train2017.json"}
        arguments += ["--kind", "detect", "--name", "x"]
    said = done(tmp_path, verb, *arguments, config=config)
    assert "1 of 2 annotations have no 'bbox' or 'category_id' and are left out, such as annotations[0]" in said
    del instances["annotations"][1][key]
    write_json(path, instances)
    said = refused(tmp_path, verb, *arguments, config=config)
    assert said.startswith("in/annotations/instances_train2017.json: none of its 2 annotations has 'bbox'"), said


@pytest.mark.parametrize("content", ["", '{"images": [', "[]", "<html>", '{"images": 3}', '{"images": [3]}'])
def test_a_json_that_is_another(tmp_path: Path, content: str) -> None:
    coco(tmp_path)
    write_json(tmp_path / "in/annotations/captions_train2017.json", content)
    said = refused(tmp_path, "index-source", "--manifest", "out/listing.json", config=COCO)
    assert said.startswith("in/annotations/captions_train2017.json: ")
    assert not (tmp_path / "out").exists()


def test_a_json_where_a_manifest_is_expected(tmp_path: Path) -> None:
    coco(tmp_path)
    arguments = ("--source", "in/annotations/captions_train2017.json", "--manifest", "out/s.json")
    said = refused(tmp_path, "filter", *arguments, config=ANY)
    assert said.startswith("in/annotations/captions_train2017.json: is not a manifest")
    assert written(tmp_path / "out") == []


# --- images and boxes


def test_an_image_that_is_a_page_and_one_that_is_cut(tmp_path: Path) -> None:
    coco(tmp_path, images=3)
    (tmp_path / "in/train2017/1.png").write_bytes(HTML)
    (tmp_path / "in/train2017/2.png").write_bytes(encoded(64, 64, color=5, kind="JPEG")[:-40])
    to_detect(tmp_path)
    assert read_manifest(tmp_path / "data/filter/s.json").dropped == {"unreadable": 1}
    assert read_manifest(tmp_path / "data/detect/s.json").dropped == {"undecodable": 1}
    assert [row.kept for row in read_rows(tmp_path / "data/filter/s.json", FilterRow)].count(True) == 2


def test_a_box_outside_its_image(tmp_path: Path) -> None:
    coco(tmp_path, boxes=[[20, 0, 2, 5], [-2, -2, 2, 2], [15, 5, 7, 7], [3, 3, 0, 4], [3, 3, -2, 4]])
    said = to_detect(tmp_path)
    assert "8 boxes left out: outside the image or empty" in said
    rows = list(read_rows(tmp_path / "data/detect/s.json", DetectRow))
    assert [[tuple(one.box) for one in row.regions] for row in rows] == [
        [(15, 5, 20, 10)],
        [(15, 5, 20, 10)],
    ]


def test_boxes_far_outside_their_images_stop_detect(tmp_path: Path) -> None:
    coco(tmp_path, boxes=[[3, 3, 5, 5]])
    to_detect(tmp_path)
    before = written(tmp_path)
    coco(tmp_path, boxes=[[3, 3, 5, 5], [30, 0, 5, 5]])
    done(tmp_path, "index-source", "--manifest", "data/listing.json", config=COCO)
    slices = ("--shard", "s", "--listing", "data/listing.json")
    done(tmp_path, "source", *slices, "--manifest", "data/source/s.json", config=COCO)
    done(tmp_path, "filter", "--source", "data/source/s.json", "--manifest", "data/filter/s.json", config=ANY)
    again = ("--filter", "data/filter/s.json", "--manifest", "data/detect/s.json")
    said = refused(tmp_path, "detect", *again, config=OWN)
    assert said.startswith("data/source/s.json: 2 of 4 boxes extend more than 2 px beyond the border"), said
    assert written(tmp_path) == before


def test_a_box_that_is_no_box(tmp_path: Path) -> None:
    for bad in ([1, 2, 3], [1, 2, 3, "4"], [1, 2, 3, float("nan")], [1, 2, 3, True]):
        coco(tmp_path, boxes=[bad])
        said = refused(tmp_path, "index-source", "--manifest", "out/listing.json", config=COCO)
        assert "instances_train2017.json: annotations[0]: 'bbox' is" in said and "expected four numbers" in said
    assert not (tmp_path / "out").exists()


# --- tars


@pytest.mark.parametrize("share", [0.5, 0.9, 0.0])
def test_a_tar_that_is_cut(tmp_path: Path, share: float) -> None:
    whole = write_tar(tmp_path / "in/a.tar", [(f"{n}.{end}", encoded()) for n in range(9) for end in ("jpg", "txt")])
    content = whole.read_bytes()
    whole.write_bytes(content[: int(len(content) * share)])
    arguments = ("--shard", "s", "--tars", "in/a.tar", "--manifest", "out/s.json")
    said = refused(tmp_path, "source", *arguments, config=TARS)
    assert said.startswith("in/a.tar: is ") and said.endswith("Fetch it again.")
    assert not (tmp_path / "out").exists()


def test_a_tar_without_samples_is_an_empty_shard(tmp_path: Path) -> None:
    write_tar(tmp_path / "in/a.tar", [("README", b"nothing here")])
    done(tmp_path, "source", "--shard", "s", "--tars", "in/a.tar", "--manifest", "out/s.json", config=TARS)
    assert read_manifest(tmp_path / "out/s.json").read == 0


# --- shards with nothing in them


@pytest.mark.parametrize(("place", "read", "boxes"), [("0/1", 2, [[20.0, 10.0, 2.0, 2.0]]), ("1/2", 0, [])])
def test_no_region_and_no_row_come_through_to_the_card(
    tmp_path: Path, place: str, read: int, boxes: list[list[float]]
) -> None:
    coco(tmp_path, boxes=boxes)
    to_detect(tmp_path, place=place)
    to_card(tmp_path)
    made = read_manifest(tmp_path / "data/pack/card.json")
    assert (made.read, made.kept, made.regions) == (read, read, 0)
    names = written(tmp_path / "data")
    assert [name for name in names if name.endswith(".tmp")] == []
    assert "pack/s.tar" in names


def test_a_prefix_that_is_too_short_for_its_scale(tmp_path: Path) -> None:
    coco(tmp_path)
    to_detect(tmp_path)
    arguments = ("--scale", "10", "--filter", "data/filter/s.json", "--manifest", "out/10.json")
    said = refused(tmp_path, "select", *arguments, config={"scale": {"images": 10}})
    assert said.startswith("scales.10.images: 10 are asked for, but 1 shards of 2 samples leave 2")
    for key in ("plan.shard_margin", "plan.expected_keep_rate", "scales.10.images", "scales.10.allow_fewer"):
        assert key in said
    assert not (tmp_path / "out").exists()
    done(tmp_path, "select", *arguments, config={"scale": {"images": 10, "allow_fewer": True}})
    assert read_manifest(tmp_path / "out/10.json").kept == 2


# --- before the first job


@pytest.mark.slow
def test_what_is_wrong_is_said_before_the_first_job(tmp_path: Path) -> None:
    small_world(tmp_path, images=12)
    whole = (tmp_path / "config.yaml").read_text()
    released: dict[str, Any] = {"engine": "boxes_json", "path": "input/none.json"}
    for change, message in (
        ({"detect": {"annotations": {"max_region": 3}}}, "detect.annotations.max_region: unknown key, did you mean"),
        ({"source": {"root": "gone"}}, "source.root: gone: no such folder. Put COCO or LVIS there"),
        ({"source": {"captions": "none.json"}}, "source.captions: input/none.json: no such file"),
        ({"source": {"root": "."}}, "source.root: the output folder data/small lies inside the input folder ."),
        ({"source": {"root": "data/small/in"}, "dataset": {"name": "small"}}, "source.root: the output folder data/small lies"),
        ({"detect": {"x": released}, "plan": {"regions": "x"}}, "detect.x.path: input/none.json: no such file"),
        ({"plan": {"captions": "y"}}, "plan.captions names 'y'"),
    ):  # fmt: skip
        (tmp_path / "config.yaml").write_text(whole)
        edit_config(tmp_path, change)
        ended = snakemake(tmp_path)
        assert ended.returncode == 2, ended.stderr
        assert message in ended.stderr
        assert "Traceback" not in ended.stderr
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_job_that_is_refused_leaves_nothing_and_says_why(tmp_path: Path) -> None:
    small_world(tmp_path, images=12)
    path = tmp_path / "input/annotations/instances_train2017.json"
    values = json.loads(path.read_text())
    values["annotations"][3]["bbox"] = [1, 2, 3]
    path.write_text(json.dumps(values))
    ended = snakemake(tmp_path, "source")
    assert ended.returncode == 1
    said = ended.stdout + ended.stderr
    assert "instances_train2017.json: annotations[3]: 'bbox' is [1, 2, 3]" in said
    assert written(tmp_path / "data") == []
    log = (tmp_path / "logs/small/listing.log").read_text()
    assert "'bbox' is [1, 2, 3]" in log and "Traceback" not in log

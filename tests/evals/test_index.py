"""The index of a benchmark: content, dropped images with their reasons, and errors that name file and entry."""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fineclip.config import BenchmarkConfig, parse
from fineclip.errors import DataError, ShardError
from fineclip.evals.datasets.coco_layouts import segment_ids, tight_box
from fineclip.evals.index import index_benchmark, missing, read_index
from fineclip.miniature.scenes import CLASSES, STUFF, THINGS, draw_scene
from fineclip.shards import BenchmarkRow, ByteRangeReader, read_manifest, read_rows
from tests.helpers.coco import SEED, write_coco
from tests.helpers.images import bomb

REAL = Path(os.environ.get("FINECLIP_COCO", "../shared/data/coco"))
PANOPTIC, CAPTIONS = "annotations/panoptic_val2017.json", "annotations/captions_val2017.json"
FIRST = 100_000  # of the scenes that the small data set's val2017 shows


def section(kind: str, layout: str, root: Path | None = None, **keys: Any) -> BenchmarkConfig:
    source = {"layout": layout} | ({} if root is None else {"root": str(root)})
    source |= {name: keys.pop(name) for name in ("seed", "images") if name in keys}
    return parse(BenchmarkConfig, {"kind": kind, "source": source} | keys, where="benchmarks")


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    write_coco(tmp_path / "coco", train=0, val=3)
    return tmp_path / "coco"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return tmp_path / "index/small.one.json"


def edit(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_scenes_with_their_boxes(manifest: Path) -> None:
    index_benchmark(manifest, section("boxes", "miniature", seed=5, images=4))
    rows = list(read_rows(manifest, BenchmarkRow))
    scene = draw_scene(5, 2)
    assert [row.key for row in rows] == [f"small-one-{index:06d}" for index in range(4)]
    assert (rows[2].height, rows[2].width) == scene.pixels.shape[:2]
    assert rows[2].captions == []
    parts = [*scene.things, *scene.stuff]
    assert [box.box for box in rows[2].boxes] == [p.box for p in parts]
    classes = json.loads(manifest.with_suffix(".classes.json").read_text())
    assert [classes[box.label]["name"] for box in rows[2].boxes] == [part.label for part in parts]
    assert [one["is_thing"] for one in classes] == [True] * len(THINGS) + [False] * len(STUFF)
    found = read_manifest(manifest)
    assert found.regions == sum(len(row.boxes) for row in rows)
    assert found.read == found.kept == 4
    with ByteRangeReader() as reader:
        for row in rows:
            assert hashlib.sha256(reader.read(row.file, row.offset, row.size)).hexdigest() == row.sha256
    with tarfile.open(manifest.with_suffix(".tar")) as opened:
        names = opened.getnames()
    assert names[:2] == ["small-one-000000.jpg", "small-one-000000.txt"]
    assert len(names) == 8


def test_scenes_with_their_captions(manifest: Path) -> None:
    index_benchmark(manifest, section("retrieval", "miniature", seed=5, images=3))
    rows = list(read_rows(manifest, BenchmarkRow))
    assert [row.captions for row in rows] == [[draw_scene(5, index).clean] for index in range(3)]
    assert not any(row.boxes for row in rows)
    assert not manifest.with_suffix(".classes.json").exists()


def test_an_index_is_made_once(manifest: Path) -> None:
    config = section("boxes", "miniature", seed=5, images=2)
    index_benchmark(manifest, config)
    made = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in manifest.parent.glob("small*[tq]*")}
    text = manifest.read_text()
    manifest.unlink()  # as Snakemake does before a job
    index_benchmark(manifest, config.model_copy(update={"prompts": "vild", "image_size": 48, "candidates": "own_kind"}))
    assert manifest.read_text() == text
    assert made == {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in manifest.parent.glob("small*[tq]*")
    }
    index_benchmark(manifest, section("boxes", "miniature", seed=6, images=2))
    assert manifest.read_text() != text


@pytest.mark.parametrize(("kind", "layout"), [("boxes", "coco_panoptic"), ("retrieval", "coco_captions")])
def test_an_image_that_is_replaced_by_one_of_equal_size_is_indexed_again(
    coco: Path, manifest: Path, kind: str, layout: str
) -> None:
    config = section(kind, layout, coco, min_side_px=0) if kind == "boxes" else section(kind, layout, coco)
    index_benchmark(manifest, config)
    image, table = sorted((coco / "val2017").iterdir())[1], manifest.with_suffix(".parquet")
    image.write_bytes(image.read_bytes()[:-1] + b"?")
    index_benchmark(manifest, config)
    rows = list(read_rows(manifest, BenchmarkRow))
    assert rows[1].sha256 == hashlib.sha256(image.read_bytes()).hexdigest()
    written = table.stat().st_mtime_ns
    index_benchmark(manifest, config)
    assert table.stat().st_mtime_ns == written


def test_an_image_that_is_too_large_is_named(coco: Path, manifest: Path) -> None:
    (coco / "val2017/000000100001.jpg").write_bytes(bomb())
    with pytest.raises(DataError, match=r"000000100001\.jpg: 50000 x 50000 are more pixels than are decoded"):
        index_benchmark(manifest, section("retrieval", "coco_captions", coco))


def test_things_have_their_own_box_and_stuff_that_of_its_mask(coco: Path, manifest: Path) -> None:
    def shift(content: dict[str, Any]) -> None:
        for segment in content["annotations"][0]["segments_info"]:
            segment["bbox"] = [1, 2, 30, 40]
            segment["iscrowd"] = 1  # counts all the same

    edit(coco / PANOPTIC, shift)
    index_benchmark(manifest, section("boxes", "coco_panoptic", coco, min_side_px=0))
    scene = draw_scene(SEED, FIRST)
    boxes = [(*one.box, one.label) for one in next(read_rows(manifest, BenchmarkRow)).boxes]
    things = [(1.0, 2.0, 31.0, 42.0, CLASSES.index(thing.label)) for thing in scene.things]
    assert boxes == things + [(*map(float, one.box), CLASSES.index(one.label)) for one in scene.stuff]


def test_spellings_of_names_of_images_and_masks(coco: Path, manifest: Path) -> None:
    def respell(content: dict[str, Any]) -> None:
        for section in ("images", "annotations"):
            for entry, way in zip(content[section], ("./{}", ".\\{}", "{}"), strict=False):
                entry["file_name"] = way.format(entry["file_name"])
        content["images"][0]["file_name"] = "val2017/" + content["images"][0]["file_name"]

    index_benchmark(manifest, section("boxes", "coco_panoptic", coco))
    before = list(read_rows(manifest, BenchmarkRow))
    edit(coco / PANOPTIC, respell)
    index_benchmark(manifest, section("boxes", "coco_panoptic", coco))
    assert list(read_rows(manifest, BenchmarkRow)) == before


def test_boxes_outside_the_limits_are_left_out(coco: Path, manifest: Path) -> None:
    def resize(content: dict[str, Any]) -> None:
        first, second, third = content["annotations"]
        first["segments_info"] = [
            {"id": 1, "category_id": 1, "bbox": box}
            for box in ([5, 5, 8, 8], [5, 5, 9, 7], [5, 5, 32, 32], [5, 5, 33, 32], [-2, 0, 18, 4], [900, 5, 20, 20])
        ]
        second["segments_info"] = []
        third["segments_info"] = third["segments_info"][:1]
        third["segments_info"][0]["bbox"] = [0, 0, 20, 20]

    edit(coco / PANOPTIC, resize)
    index_benchmark(manifest, section("boxes", "coco_panoptic", coco, max_side_px=32))
    rows = list(read_rows(manifest, BenchmarkRow))
    assert [(box.box.x1, box.box.width, box.box.height) for box in rows[0].boxes] == [
        (5, 8, 8),  # 64: just as much as is asked for; 63 is less
        (5, 32, 32),
        (0, 16, 4),  # what is inside the image
    ]
    assert not rows[1].kept
    assert rows[1].reason == "no-box"
    assert len(rows[1].sha256) == 64
    assert read_manifest(manifest).dropped == {"no-box": 1}


def test_limits_are_those_of_the_part_inside_the_image(coco: Path, manifest: Path) -> None:
    def resize(content: dict[str, Any]) -> None:
        boxes = ([-1, 0, 9, 4], [-2, 0, 18, 20])  # inside 8 x 4, and 16 x 20
        content["annotations"][0]["segments_info"] = [{"id": 1, "category_id": 1, "bbox": box} for box in boxes]

    edit(coco / PANOPTIC, resize)
    index_benchmark(manifest, section("boxes", "coco_panoptic", coco, max_side_px=32))
    assert [one.box for one in next(read_rows(manifest, BenchmarkRow)).boxes] == [(0, 0, 16, 20)]


def test_an_index_is_read_without_its_dropped_images(coco: Path, manifest: Path) -> None:
    def empty(content: dict[str, Any]) -> None:
        content["annotations"][1]["segments_info"] = []

    edit(coco / PANOPTIC, empty)
    config = section("boxes", "coco_panoptic", coco)
    index_benchmark(manifest, config)
    keys = [row.key for row in read_rows(manifest, BenchmarkRow)]
    found = read_index(manifest, config)
    assert [row.key for row in found.images] == [keys[0], keys[2]]
    assert [(one.name, one.is_thing) for one in found.classes] == [(name, name in THINGS) for name in CLASSES]
    manifest.with_suffix(".classes.json").write_text("[]")
    with pytest.raises(ShardError, match="small.one.classes.json"):
        read_index(manifest, config)


def test_an_empty_box_is_left_out_at_any_limit(coco: Path, manifest: Path) -> None:
    """Of no width, of no height, and outside the image, where clipping leaves neither."""

    def resize(content: dict[str, Any]) -> None:
        boxes = ([5, 5, 0, 8], [5, 5, 8, 0], [-30, 5, 20, 20], [5, 5, 1, 1])
        content["annotations"][0]["segments_info"] = [{"id": 1, "category_id": 1, "bbox": box} for box in boxes]

    edit(coco / PANOPTIC, resize)
    index_benchmark(manifest, section("boxes", "coco_panoptic", coco, min_side_px=0))
    assert [one.box for one in next(read_rows(manifest, BenchmarkRow)).boxes] == [(5, 5, 6, 6)]


@pytest.mark.parametrize("limit", [{"min_side_px": 40}, {"max_side_px": 40}])
def test_another_limit_makes_another_index(coco: Path, manifest: Path, limit: dict[str, int]) -> None:
    index_benchmark(manifest, section("boxes", "coco_panoptic", coco))
    before = [len(row.boxes) for row in read_rows(manifest, BenchmarkRow)]
    index_benchmark(manifest, section("boxes", "coco_panoptic", coco, **limit))
    assert sum(len(row.boxes) for row in read_rows(manifest, BenchmarkRow)) < sum(before)
    assert read_manifest(manifest).config.items() >= limit.items()


def test_classes_stand_in_the_order_of_their_ids(coco: Path, manifest: Path) -> None:
    edit(coco / PANOPTIC, lambda content: content["categories"].reverse())
    index_benchmark(manifest, section("boxes", "coco_panoptic", coco))
    classes = json.loads(manifest.with_suffix(".classes.json").read_text())
    assert [one["name"] for one in classes] == list(CLASSES)


def test_all_captions_of_an_image(coco: Path, manifest: Path) -> None:
    def remove(content: dict[str, Any]) -> None:
        content["annotations"] = [*content["annotations"][:4], {"id": 9, "image_id": 77, "caption": "of no image"}]
        content["annotations"][2]["caption"] = "  "

    edit(coco / CAPTIONS, remove)
    index_benchmark(manifest, section("retrieval", "coco_captions", coco))
    scenes = [draw_scene(SEED, FIRST + index) for index in range(2)]
    rows = list(read_rows(manifest, BenchmarkRow))
    assert [row.captions for row in rows] == [[scenes[0].clean, scenes[0].alt.strip()], [scenes[1].alt.strip()], []]
    assert [row.reason for row in rows] == [None, None, "no-text"]


def remove_key(*path: str | int) -> Any:
    def change(content: Any) -> None:
        for step in path[:-1]:
            content = content[step]
        del content[path[-1]]

    return change


def put(value: Any, *path: str | int) -> Any:
    def change(content: Any) -> None:
        for step in path[:-1]:
            content = content[step]
        content[path[-1]] = value

    return change


STUFF_SEGMENT = ("annotations", 0, "segments_info", -1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_key("categories"), "has no list 'categories'"),
        (remove_key("annotations", 1, "image_id"), r"annotations\[1\]: has no 'image_id'"),
        (remove_key("annotations", 1, "segments_info"), r"annotations\[1\]: 'segments_info' is None"),
        (put([1, 2, 3], "annotations", 0, "segments_info", 0, "bbox"), r"100001.png: segments_info\[0\].*four numbers"),
        (put(True, "annotations", 0, "segments_info", 0, "category_id"), r"segments_info\[0\]: 'category_id' is True"),
        (put(999, "annotations", 0, "segments_info", 0, "category_id"), "expected the id of one of 'categories'"),
        (put(12345, *STUFF_SEGMENT, "id"), "expected the id of a pixel of .*100001.png"),
        (put("gone.png", "annotations", 0, "file_name"), r"annotations\[0\]: 'file_name' is 'gone.png'.*mask in"),
        (put("gone.jpg", "images", 2, "file_name"), r"images\[2\]: 'file_name' is 'gone.jpg'.*image in"),
        (put("../captions.jpg", "images", 2, "file_name"), r"images\[2\]: 'file_name' is"),
        (put(None, "categories", 3, "isthing"), r"categories\[3\]: 'isthing' is None"),
        (put(1, "categories", 3, "id"), r"categories\[3\]: 'id' is 1, expected one of its own"),
        (put(100001, "annotations", 1, "image_id"), r"annotations\[1\]: 'image_id'.*another entry"),
        (put([], "annotations"), "none of its 3 images has a box"),
    ],
)
def test_invalid_panoptic_json_is_an_error(coco: Path, manifest: Path, change: Any, message: str) -> None:
    edit(coco / PANOPTIC, change)
    with pytest.raises(DataError, match=message):
        index_benchmark(manifest, section("boxes", "coco_panoptic", coco))
    assert not manifest.parent.exists() or not list(manifest.parent.iterdir())


@pytest.mark.parametrize("side", ["width", "height"])
def test_a_resized_image_stops_the_index(coco: Path, manifest: Path, side: str) -> None:
    image = Image.open(coco / "val2017/000000100002.jpg")
    stated = {"width": image.width, "height": image.height} | {side: 2 * getattr(image, side)}
    edit(coco / PANOPTIC, lambda content: content["images"][1].update(stated))
    says = (
        rf"100002.jpg: is stored with {image.width} x {image.height} px, .* {stated['width']} x {stated['height']} px"
    )
    with pytest.raises(DataError, match=says):
        index_benchmark(manifest, section("boxes", "coco_panoptic", coco))
    assert not manifest.exists()
    edit(coco / PANOPTIC, lambda content: content["images"][1].update(width=None, height=None))
    index_benchmark(manifest, section("boxes", "coco_panoptic", coco))
    edit(coco / CAPTIONS, lambda content: content["images"][1].update(stated))  # no box refers to it
    index_benchmark(manifest.with_name("captions.json"), section("retrieval", "coco_captions", coco))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda x, y, w, h: [x / 400, y / 400, w / 400, h / 400], "fractions"),
        (lambda x, y, w, h: [x + 150, y, w, h], "border"),
    ],
)
def test_boxes_of_things_that_are_not_pixels_stop_the_index(coco: Path, manifest: Path, change: Any, word: str) -> None:
    def changed(content: dict[str, Any]) -> None:
        for image in content["images"]:
            del image["width"], image["height"]
        for annotation in content["annotations"]:
            for segment in annotation["segments_info"]:
                segment["bbox"] = change(*segment["bbox"])

    edit(coco / PANOPTIC, changed)
    with pytest.raises(DataError, match=f"panoptic_val2017.json: .*{word}"):
        index_benchmark(manifest, section("boxes", "coco_panoptic", coco, min_side_px=0))
    assert not manifest.exists()


def test_entries_of_one_image_are_one_image(coco: Path, manifest: Path) -> None:
    def boxes_of(manifest: Path) -> list[list[Any]]:
        return [sorted(row.boxes) for row in read_rows(manifest, BenchmarkRow)]

    def spread(content: dict[str, Any]) -> None:
        content["images"].append(content["images"][0] | {"id": 7})
        first = content["annotations"][0]
        content["annotations"].append(first | {"image_id": 7.0, "segments_info": first["segments_info"][1:]})
        content["annotations"][0] = first | {"segments_info": first["segments_info"][:2]}  # one of them twice

    def spread_captions(content: dict[str, Any]) -> None:
        content["images"].append(content["images"][0] | {"id": 7})
        content["annotations"][1]["image_id"] = 7
        content["annotations"].append({"image_id": 7, "caption": None})

    config, retrieval = section("boxes", "coco_panoptic", coco), section("retrieval", "coco_captions", coco)
    captions = manifest.with_name("captions.json")
    index_benchmark(manifest, config)
    index_benchmark(captions, retrieval)
    before = boxes_of(manifest), [row.captions for row in read_rows(captions, BenchmarkRow)]
    edit(coco / PANOPTIC, spread)
    edit(coco / CAPTIONS, spread_captions)
    index_benchmark(manifest, config)
    index_benchmark(captions, retrieval)
    assert (boxes_of(manifest), [row.captions for row in read_rows(captions, BenchmarkRow)]) == before


def test_segments_without_content_are_left_out_and_counted(
    coco: Path, manifest: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def empty(content: dict[str, Any]) -> None:
        segments = content["annotations"][0]["segments_info"]
        for segment in segments:
            del segment["bbox"]
        del segments[-1]["category_id"]

    edit(coco / PANOPTIC, empty)
    index_benchmark(manifest, section("boxes", "coco_panoptic", coco, min_side_px=0))
    scene = draw_scene(SEED, FIRST)
    assert len(next(read_rows(manifest, BenchmarkRow)).boxes) == len(scene.stuff) - 1
    assert f"{len(scene.things) + 1} of " in caplog.text
    assert "segments have no 'category_id' or 'bbox'" in caplog.text


def test_ids_that_match_nothing_stop_the_index(coco: Path, manifest: Path) -> None:
    def as_texts(content: dict[str, Any]) -> None:
        for annotation in content["annotations"]:
            annotation["image_id"] = str(annotation["image_id"])

    edit(coco / PANOPTIC, as_texts)
    with pytest.raises(DataError, match=r"panoptic_val2017.json: no 'image_id' .*'100001', .* such as 100001"):
        index_benchmark(manifest, section("boxes", "coco_panoptic", coco))
    edit(coco / CAPTIONS, as_texts)
    with pytest.raises(DataError, match=r"captions_val2017.json: no 'image_id' .*'100001', .* such as 100001"):
        index_benchmark(manifest, section("retrieval", "coco_captions", coco))


def test_a_broken_image_or_mask_is_named(coco: Path, manifest: Path) -> None:
    config = section("boxes", "coco_panoptic", coco)
    mask = coco / "annotations/panoptic_val2017/000000100002.png"
    whole = mask.read_bytes()
    mask.write_bytes(whole[:200])
    with pytest.raises(DataError, match=r"100002.png: cannot be read as a mask"):
        index_benchmark(manifest, config)
    Image.new("RGB", (50, 40)).save(mask)
    with pytest.raises(DataError, match=r"100002.png: is 50 x 40 pixels, but its image .*100002.jpg is"):
        index_benchmark(manifest, config)
    mask.write_bytes(whole)
    (coco / "val2017/000000100003.jpg").write_bytes(b"<html>404</html>")
    with pytest.raises(DataError, match=r"100003.jpg: is not an image"):
        index_benchmark(manifest, config)


def test_what_is_missing_is_said_before_anything_is_read(coco: Path, manifest: Path, tmp_path: Path) -> None:
    boxes, retrieval = section("boxes", "coco_panoptic", coco), section("retrieval", "coco_captions", coco)
    assert missing(boxes) is None
    assert missing(retrieval) is None
    assert missing(section("boxes", "miniature")) is None
    (coco / PANOPTIC).write_text("no JSON, and nobody minds yet")
    assert missing(boxes) is None
    (coco / "annotations/panoptic_val2017").rename(tmp_path / "away")
    assert missing(boxes) == f"{coco}/annotations/panoptic_val2017 does not exist or is not a folder."
    (coco / CAPTIONS).unlink()
    assert missing(retrieval) == f"{coco}/{CAPTIONS} does not exist or is not a file."
    assert (
        missing(section("boxes", "coco_panoptic", tmp_path / "x")) == f"{tmp_path}/x does not exist or is not a folder."
    )
    with pytest.raises(DataError, match=r"small.one: .*Provide it"):
        index_benchmark(manifest, retrieval)


def test_a_tight_box_is_half_open() -> None:
    mask = np.zeros((10, 12), dtype=bool)
    mask[3, 4] = mask[6, 9] = True
    assert tight_box(mask) == (4, 3, 10, 7)


def test_ids_of_segments_are_read_from_three_channels() -> None:
    png = Image.fromarray(np.array([[[1, 2, 3], [255, 255, 255]]], dtype=np.uint8))
    assert segment_ids(png).tolist() == [[1 + 2 * 256 + 3 * 65536, 256**3 - 1]]


def test_no_torch() -> None:
    code = "import sys, fineclip.evals.index; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no photographs at {REAL} (FINECLIP_COCO says where)")
def test_photographs(manifest: Path) -> None:
    index_benchmark(manifest, section("boxes", "coco_panoptic", REAL))
    found, rows = read_manifest(manifest), list(read_rows(manifest, BenchmarkRow))
    assert found.read == 60
    assert 600 < found.regions <= 622
    classes = json.loads(manifest.with_suffix(".classes.json").read_text())
    assert len(classes) == 133
    assert sum(one["is_thing"] for one in classes) == 80
    segments = {
        (int(Path(one["file_name"]).stem), segment["category_id"]): segment["bbox"]
        for one in json.loads((REAL / PANOPTIC).read_text())["annotations"]
        for segment in one["segments_info"]
    }
    numbers = sorted({one["id"] for one in json.loads((REAL / PANOPTIC).read_text())["categories"]})
    for row in rows:
        for box in row.boxes:
            if not classes[box.label]["is_thing"]:  # COCO's own box of stuff is tight around its mask too
                x, y, width, height = segments[int(Path(row.file).stem), numbers[box.label]]
                assert box.box == (x, y, x + width, y + height)


def test_an_edited_mask_makes_the_index_again(coco: Path, manifest: Path) -> None:
    config = section("boxes", "coco_panoptic", coco)
    index_benchmark(manifest, config)
    before = dict(read_manifest(manifest).inputs)
    assert set(before) == {(coco / name).as_posix() for name in ("val2017", PANOPTIC, PANOPTIC.removesuffix(".json"))}
    mask = next((coco / PANOPTIC.removesuffix(".json")).glob("*.png"))
    mask.write_bytes(mask.read_bytes() + b"\0")
    index_benchmark(manifest, config)
    after = dict(read_manifest(manifest).inputs)
    assert [name for name in before if before[name] != after[name]] == [(coco / PANOPTIC).with_suffix("").as_posix()]

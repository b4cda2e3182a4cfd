"""Every reason of the stage, boxes of both engines, and what bad input ends in."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from fineclip.config import AnnotationsDetect, WeightsConfig, YoloDetect
from fineclip.errors import CheckpointError, ConfigError, DataError, ShardError
from fineclip.miniature.scenes import draw_scene, jpeg
from fineclip.miniature.seeds import VALIDATION
from fineclip.models.shipped import FOLDER
from fineclip.shards import DetectRow, FilterRow, Job, TableWriter, read_manifest, read_rows, sha256_of
from fineclip.shards.images import read_header
from fineclip.stages import detect as module
from fineclip.stages.detect import detect_shard
from fineclip.stages.given_boxes import given_regions
from fineclip.stages.weights import fetch_weights
from fineclip.types import Box, LabeledBox, Region
from tests.helpers.images import encoded
from tests.helpers.stages import Item, box, write_filtered, write_source

OWN = AnnotationsDetect(engine="annotations", min_side_px=2, max_regions=3)
CUT = encoded(200, 100)[:-40]


def shipped(**changes: object) -> YoloDetect:
    weights = WeightsConfig(shipped="detector.pt", sha256=sha256_of(FOLDER / "detector.pt"))
    return YoloDetect.model_validate({"engine": "yolo", "weights": weights, "image_size": 128} | changes)


def run(kept: Path, folder: Path, config: AnnotationsDetect | YoloDetect, **changes: object) -> list[DetectRow]:
    manifest = folder / "detect/s.json"
    detect_shard(kept, manifest, config, **({"weights": None, "batch_size": 2, "device": "cpu"} | changes))  # type: ignore[arg-type]
    return list(read_rows(manifest, DetectRow))


def edges(row: DetectRow) -> list[tuple[float, ...]]:
    return [tuple(one.box) for one in row.regions]


def test_own_boxes_are_clipped_limited_and_largest_first() -> None:
    boxes = [
        box(-3, 4, 10.004, 12.3456),
        box(90, 0, 130, 60, "dog"),  # hangs over two edges
        box(100, 0, 130, 60),  # beside the image
        box(5, 5, 5, 9),  # empty
        box(20, 20, 21.99, 40),  # thinner than 2 px
        box(20, 20, 30, 30),
        box(21, 20, 31, 30),
        box(40, 40, 42, 42),
    ]
    regions = [Region(one.box, 1.0, one.label) for one in boxes]
    found, left_out = given_regions(regions, width=100, height=50, config=OWN)
    assert found == [
        Region(Box(90, 0, 100, 50), 1.0, "dog"),
        Region(Box(20, 20, 30, 30), 1.0, "cat"),
        Region(Box(21, 20, 31, 30), 1.0, "cat"),
    ]
    assert left_out == {
        "outside the image or empty": 2,
        "smaller than 2 px": 1,
        "more than 3 in their image": 2,
    }


def test_each_reason_and_the_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    items = [
        Item(encoded(20, 10), annotations=[box(0, 0, 9, 9), box(50, 0, 60, 9)]),
        Item(CUT, annotations=[box(0, 0, 9, 9)]),
        Item(encoded(20, 11), annotations=[]),
    ]
    rows = run(write_filtered(tmp_path, items), tmp_path, OWN)
    assert [(row.kept, row.reason, len(row.regions)) for row in rows] == [
        (True, None, 1),
        (False, "undecodable", 0),
        (True, None, 0),
    ]
    assert [(row.width, row.height) for row in rows] == [(20, 10), (200, 100), (20, 11)]
    made = read_manifest(tmp_path / "detect/s.json")
    assert (made.read, made.kept, made.dropped, made.regions) == (3, 2, {"undecodable": 1}, 1)
    assert "1 boxes left out: outside the image or empty" in caplog.text
    assert "1 regions in 2 images; 1 of the images have none" in caplog.text


def test_an_image_of_another_size_than_its_header_said(tmp_path: Path) -> None:
    source = write_source(tmp_path, [Item(encoded(20, 10), annotations=[])])
    kept = tmp_path / "filter/s.json"
    with TableWriter(Job(kept, "filter", 1, {}, [source]), FilterRow) as table:
        table.write(FilterRow(key="s-000000", kept=True, width=20, height=11, format="JPEG", sha256="0"))
    [row] = run(kept, tmp_path, OWN)
    assert (row.reason, row.regions) == ("size-mismatch", [])


def test_what_the_filter_dropped_does_not_come_in(tmp_path: Path) -> None:
    items = [Item(b"<html>", annotations=[]), Item(encoded(), annotations=[box(0, 0, 5, 5)])]
    [row] = run(write_filtered(tmp_path, items), tmp_path, OWN)
    assert (row.key, edges(row)) == ("s-000001", [(0, 0, 5, 5)])


def test_boxes_of_another_size_than_stated_drop_their_image_alone(tmp_path: Path) -> None:
    boxes = [box(0, 0, 9, 9)]
    far = [box(30, 0, 90, 9), box(40, 0, 90, 9)]  # beyond the border, but of images that are dropped
    items = [
        Item(encoded(20, 10), annotations=boxes, stated=(20, 10)),
        Item(encoded(20, 11), annotations=far, stated=(40, 22)),
        Item(encoded(20, 12), annotations=boxes, stated=(12, 20)),
        Item(encoded(20, 13), annotations=boxes, stated=(20, None)),
        Item(encoded(20, 14), annotations=far, stated=(None, 15)),
        Item(encoded(20, 15), annotations=boxes),
    ]
    rows = run(write_filtered(tmp_path, items), tmp_path, OWN)
    assert [row.reason for row in rows] == [None, "other-size", "other-size", None, "other-size", None]
    assert [len(row.regions) for row in rows] == [1, 0, 0, 1, 0, 1]
    assert read_manifest(tmp_path / "detect/s.json").dropped == {"other-size": 3}


def test_stored_pixels_count_and_not_the_upright_picture(tmp_path: Path) -> None:
    """A PNG with an orientation, whose boxes were drawn before and after it was applied."""
    exif = Image.Exif()
    exif[0x0112] = 8
    file = io.BytesIO()
    Image.new("RGB", (40, 20)).save(file, "PNG", exif=exif)
    boxes = [box(0, 0, 15, 15)]
    items = [Item(file.getvalue(), annotations=boxes, stated=stated) for stated in ((40, 20), (20, 40))]
    items[1] = replace(items[1], image=items[1].image + b"\0")  # another image for the filter
    rows = run(write_filtered(tmp_path, items), tmp_path, OWN)
    assert [row.reason for row in rows] == [None, "other-size"]


@pytest.mark.parametrize("least", [0, 2, 8])
@pytest.mark.parametrize(
    ("annotations", "word"),
    [
        ([box(0.1, 0.2, 0.5, 0.9), box(0, 0, 1, 1)], "fractions"),
        ([box(0, 0, 9, 9), box(12, 2, 24, 8), box(0, 0, 4, 13)], "border"),
    ],
)
def test_boxes_that_are_not_pixels_stop_the_shard(
    tmp_path: Path, least: int, annotations: list[LabeledBox], word: str
) -> None:
    items = [Item(encoded(20, 10), annotations=annotations), Item(encoded(20, 11), annotations=[])]
    kept = write_filtered(tmp_path, items)
    with pytest.raises(DataError, match=rf"source/s.json: .*{word}"):
        run(kept, tmp_path, OWN.model_copy(update={"min_side_px": least}))
    assert not (tmp_path / "detect").exists()


def test_a_detector_does_not_mind_the_boxes_of_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_detector", lambda *_, **__: Recorder())
    items = [Item(encoded(20, 10), annotations=[box(0, 0, 0.5, 0.5)], stated=(40, 20))]
    [row] = run(write_filtered(tmp_path, items), tmp_path, shipped(), weights=weights(tmp_path))
    assert row.kept


def test_a_source_without_boxes(tmp_path: Path) -> None:
    kept = write_filtered(tmp_path, [Item(encoded())])
    with pytest.raises(ConfigError, match="s-000000: its source has no boxes of its own.*engine yolo"):
        run(kept, tmp_path, OWN)
    assert not (tmp_path / "detect").exists()


def test_a_box_that_is_no_number(tmp_path: Path) -> None:
    kept = write_filtered(tmp_path, [Item(encoded(), annotations=[box(0, float("nan"), 5, 5)])])
    with pytest.raises(DataError, match="s-000000 .*'cat' has edges .*expected finite numbers"):
        run(kept, tmp_path, OWN)
    assert not (tmp_path / "detect").exists()


def test_images_that_were_cut_since_stop_it(tmp_path: Path) -> None:
    kept = write_filtered(tmp_path, [Item(encoded(), annotations=[])])
    (tmp_path / "source/s.bin").write_bytes(b"short")
    with pytest.raises(ShardError, match="s.bin: ends at byte 5"):
        run(kept, tmp_path, OWN)
    assert not (tmp_path / "detect").exists()


class Recorder:
    """A detector that finds each image's width, and notes how many images it saw at once."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def find(self, images: Sequence[Image.Image]) -> list[tuple[Region, ...]]:
        self.seen.append(len(images))
        return [(Region(Box(0, 0, image.width, 1), 0.5, "it"),) for image in images]


def test_regions_go_to_their_images_with_dropped_ones_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(module, "_detector", lambda *_, **__: recorder)
    images = [encoded(11, 9), CUT, CUT, CUT, encoded(12, 9), encoded(13, 9), encoded(14, 9), encoded(15, 9)]
    kept = write_filtered(tmp_path, [Item(image + bytes([i])) for i, image in enumerate(images)])
    rows = run(kept, tmp_path, shipped(), weights=weights(tmp_path), batch_size=3)
    assert [one[2] for row in rows for one in edges(row)] == [11, 12, 13, 14, 15]
    assert [row.reason for row in rows] == [None, *["undecodable"] * 3, *[None] * 4]
    assert max(recorder.seen) <= 3


def weights(folder: Path) -> Path:
    manifest = folder / "weights/detect/mini.json"
    fetch_weights("detect", "mini", manifest, shipped().weights)
    return manifest


@pytest.mark.parametrize("items", [[], [Item(b"<html>")]], ids=["empty shard", "nothing kept"])
def test_no_model_is_loaded_without_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, items: list[Item]) -> None:
    monkeypatch.setattr(module, "_detector", lambda *_, **__: pytest.fail("a model was opened"))
    assert run(write_filtered(tmp_path, items), tmp_path, shipped(), weights=weights(tmp_path)) == []
    assert read_manifest(tmp_path / "detect/s.json").read == 0


def test_yolo_needs_weights_with_a_hash(tmp_path: Path) -> None:
    kept = write_filtered(tmp_path, [Item(encoded())])
    with pytest.raises(ConfigError, match="--weights"):
        run(kept, tmp_path, shipped())
    without = shipped(weights=WeightsConfig(shipped="detector.pt"))
    with pytest.raises(CheckpointError, match="detect.mini.weights.sha256 is not set"):
        run(kept, tmp_path, without, weights=weights(tmp_path))


def test_the_same_table_whatever_the_batch_size(tmp_path: Path) -> None:
    scenes = [draw_scene(VALIDATION, index) for index in range(5)]
    kept = write_filtered(tmp_path, [Item(jpeg(scene)) for scene in scenes])
    hashes = set()
    for batch_size in (2, 16):
        rows = run(kept, tmp_path / str(batch_size), shipped(), weights=weights(tmp_path), batch_size=batch_size)
        hashes.add(sha256_of(tmp_path / str(batch_size) / "detect/s.parquet"))
    assert len(hashes) == 1
    assert sum(len(row.regions) for row in rows) >= 5
    for row, scene in zip(rows, scenes, strict=True):
        header = read_header(jpeg(scene))
        assert header is not None
        assert (row.width, row.height) == (header.width, header.height)
        assert all(0 <= x1 < x2 <= row.width and 0 <= y1 < y2 <= row.height for x1, y1, x2, y2 in edges(row))
        assert [one.score for one in row.regions] == sorted((one.score for one in row.regions), reverse=True)


def test_work_that_is_done_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = write_filtered(tmp_path, [Item(encoded(), annotations=[])])
    first = run(kept, tmp_path, OWN)
    monkeypatch.setattr(module, "decode", lambda _: pytest.fail("an image was decoded again"))
    assert run(kept, tmp_path, OWN) == first

"""Boxes depend on their image only and are in its pixels; unknown pickles are not loaded."""

import pickle
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fineclip.boxes import Letterbox
from fineclip.config import WeightsConfig, YoloDetect
from fineclip.errors import CheckpointError, ConfigError
from fineclip.miniature.scenes import draw_scene
from fineclip.miniature.seeds import VALIDATION
from fineclip.models import detector as module
from fineclip.models.batches import batches, full_batches
from fineclip.models.detector import (
    UltralyticsDetector,
    decode_prediction,
    letterbox,
    non_max_suppression,
    to_regions,
)
from fineclip.models.shipped import FOLDER
from fineclip.shards import sha256_of
from fineclip.shards.images import UndecodableImage, decode
from fineclip.types import Box

SHIPPED = FOLDER / "detector.pt"


def config(path: Path = SHIPPED, **changes: object) -> YoloDetect:
    weights = WeightsConfig(path=str(path), sha256=sha256_of(path))
    values = {"engine": "yolo", "weights": weights, "image_size": 128, "confidence": 0.2, "min_side_px": 4}
    return YoloDetect.model_validate(values | changes)


@cache
def shipped(batch_size: int = 4) -> UltralyticsDetector:
    return UltralyticsDetector(SHIPPED, config(), device="cpu", batch_size=batch_size)


@cache
def scenes(count: int) -> tuple:
    return tuple(draw_scene(VALIDATION, index) for index in range(count))


def images(count: int) -> list[Image.Image]:
    return [Image.fromarray(scene.pixels) for scene in scenes(count)]


@pytest.mark.parametrize("size", [(64, 64), (200, 100), (33, 190), (640, 7), (3, 5)])
def test_letterbox_is_inverted(size: tuple[int, int]) -> None:
    square, place = letterbox(Image.new("RGB", size, "red"), 128)
    pixels = np.asarray(square)
    is_red = (pixels == (255, 0, 0)).all(axis=2)
    assert (pixels[~is_red] == 114).all()
    rows, columns = is_red.any(axis=1).nonzero()[0], is_red.any(axis=0).nonzero()[0]
    inside = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert place.to_image(Box(*inside)) == pytest.approx((0, 0, *size), abs=1e-9)
    assert max(inside[2] - inside[0], inside[3] - inside[1]) == 128


def test_anchors_take_their_best_class() -> None:
    # columns: sure of class 1; not sure; sure of class 0; the last row is a mask's and no class
    prediction = torch.tensor(
        [[10, 0, 4], [20, 0, 4], [4, 0, 2], [6, 0, 2], [0.1, 0.2, 0.9], [0.8, 0.1, 0.3], [9, 9, 9]]
    )
    found = decode_prediction(prediction, classes=2, confidence=0.5)
    assert found[:, :4].tolist() == [[8, 17, 12, 23], [3, 3, 5, 5]]
    assert found[:, 4].tolist() == pytest.approx([0.8, 0.9])
    assert found[:, 5].tolist() == [1, 0]


def test_output_of_an_end_to_end_head() -> None:
    found = decode_prediction(torch.tensor([[1.0, 2, 3, 4, 0.9, 7], [1, 2, 3, 4, 0.1, 7]]), classes=0, confidence=0.5)
    assert found[:, :4].tolist() == [[1, 2, 3, 4]]
    assert found[:, 5].tolist() == [7]


@pytest.mark.parametrize("classes", [2, 0])
def test_a_score_equal_to_the_confidence_is_enough(classes: int) -> None:
    prediction = torch.tensor([[4, 4, 2, 2, 0.5, 0.5], [4, 4, 2, 2, 0.4999, 0.25]])
    found = decode_prediction(prediction if classes == 0 else prediction.T, classes=classes, confidence=0.5)
    assert found[:, 4].tolist() == [0.5]


def test_the_model_sees_pixels_from_0_to_1_and_channels_first(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, seen = UltralyticsDetector(SHIPPED, config(), device="cpu", batch_size=1), []

    def record(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(pixels)
        return torch.zeros(len(pixels), 4 + detector._classes, 1)

    monkeypatch.setattr(detector, "_model", record)
    detector.find([Image.new("RGB", (20, 10), (255, 51, 0))])
    assert seen[0].shape[1:] == (3, 128, 128)
    torch.testing.assert_close(seen[0][0, :, 64, 64], torch.tensor([1, 0.2, 0]))
    torch.testing.assert_close(seen[0][0, :, 0, 0], torch.full((3,), 114 / 255))


def found_of(*boxes: tuple[float, float, float, float, float, int]) -> torch.Tensor:
    return torch.tensor(boxes, dtype=torch.float64).reshape(-1, 6)


def test_nms_ignores_classes() -> None:
    found = found_of(
        (0, 0, 10, 10, 0.5, 0),  # shares 80 of 120 with the next: goes
        (0, 2, 10, 12, 0.9, 1),
        (0, 7, 10, 17, 0.4, 1),  # shares 50 of 150 with the best, which is no more than a third: stays
        (50, 50, 60, 60, 0.1, 0),
    )
    assert non_max_suppression(found, iou=1 / 3)[:, 4].tolist() == [0.9, 0.4, 0.1]
    assert non_max_suppression(found, iou=0.3)[:, 4].tolist() == [0.9, 0.1]
    assert non_max_suppression(found, iou=0.7)[:, 4].tolist() == [0.9, 0.5, 0.4, 0.1]
    assert non_max_suppression(found_of(), iou=0.5).shape == (0, 6)


def test_nms_ignores_removed_boxes() -> None:
    found = found_of((0, 0, 10, 10, 0.9, 0), (4, 0, 14, 10, 0.8, 0), (8, 0, 18, 10, 0.7, 0))
    assert non_max_suppression(found, iou=0.4)[:, 4].tolist() == [0.9, 0.7]


def test_regions_are_clipped_limited_and_ordered() -> None:
    found = found_of(
        (-5, 2, 10.006, 12, 0.5, 0),
        (2, 2, 10, 9.9, 0.5, 0),
        (2, 2, 30, 6, 0.9, 1),  # 4 px high in the square, 2 in the image
        (200, 2, 300, 50, 0.9, 1),  # beside the image
        (1, 1, 40, 40, 0.123456, 1),
        (1, 2, 40, 40, 0.1, 1),  # one too many
    )
    limits = config(min_side_px=3, max_regions=3)
    regions = to_regions(found, Letterbox(2.0, 2.0, 0, 0), size=(60, 60), names={0: "cat", 1: "dog"}, config=limits)
    assert [(region.box, region.score, region.label) for region in regions] == [
        (Box(0, 1, 5, 6), 0.5, "cat"),
        (Box(1, 1, 5, 4.95), 0.5, "cat"),
        (Box(0.5, 0.5, 20, 20), 0.1235, "dog"),
    ]


def test_boxes_without_area_are_dropped_at_any_least_side() -> None:
    found = found_of(
        (10, 10, 10, 30, 0.9, 0),  # no width
        (10, 10, 30, 10, 0.9, 0),  # no height
        (30, 30, 10, 10, 0.9, 0),  # corners the wrong way round
        (130, 10, 150, 30, 0.9, 0),  # right of the image
        (10, -30, 30, -2, 0.9, 0),  # above the image
        (10, 10, 10.004, 30, 0.9, 0),  # 0.002 px wide in the image: no width at the precision of 0.01
        (10, 10, 10.04, 30, 0.5, 0),  # 0.02 px wide
    )
    place, size = Letterbox(2.0, 2.0, 0, 0), (60, 60)
    for least, boxes in ((0, [Box(5, 5, 5.02, 15)]), (1, [])):
        regions = to_regions(found, place, size=size, names={0: "cat"}, config=config(min_side_px=least))
        assert [region.box for region in regions] == boxes


def test_boxes_do_not_depend_on_the_batch() -> None:
    pictures = [*images(11), Image.new("RGB", (30, 300), "gray")]
    together = shipped().find(pictures)
    assert sum(map(len, together)) > 20
    assert together[-1] == ()
    assert [shipped().find([picture])[0] for picture in pictures] == together
    assert shipped(batch_size=3).find(pictures[::-1]) == together[::-1]
    assert shipped().find([]) == []


def test_shipped_detector_is_accurate() -> None:
    count = 20
    hits = things = 0
    for scene, regions in zip(scenes(count), shipped().find(images(count)), strict=True):
        for thing in scene.things:
            things += 1
            hits += any(
                overlap(Box(*thing.box), region.box) > 0.5 and region.label == thing.label for region in regions
            )
    assert hits / things > 0.7


def overlap(left: Box, right: Box) -> float:
    width, height = min(left.x2, right.x2) - max(left.x1, right.x1), min(left.y2, right.y2) - max(left.y1, right.y1)
    shared = max(width, 0) * max(height, 0)
    return shared / (left.width * left.height + right.width * right.height - shared)


@pytest.mark.parametrize(("min_side_px", "kept"), [(0, [1, 2, 3]), (1, [2, 3]), (1.5, [3])])
def test_a_box_without_area_is_no_region(min_side_px: float, kept: list[int]) -> None:
    """One outside the image, one that is a line in hundredths, and three of side 0.5, 1 and 1.5 px."""
    boxes = [[-9, 0, -2, 9], [3, 3, 3.004, 9], [1, 1, 1.5, 9], [2, 2, 3, 9], [3, 3, 4.5, 9]]
    found = found_of(*((*box, 0.5, number - 1) for number, box in enumerate(boxes)))
    _, place = letterbox(Image.new("RGB", (64, 64)), 64)
    names = {number: str(number) for number in range(-1, 5)}
    regions = to_regions(found, place, size=(64, 64), names=names, config=config(min_side_px=min_side_px))
    assert [int(region.label) for region in regions] == kept


def test_a_pickle_without_its_hash_is_not_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (Path(tmp_path / "exploded").touch, ())

    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(Bomb()))
    without = config(path).model_copy(update={"weights": WeightsConfig(path=str(path))})
    with pytest.raises(CheckpointError, match=rf"detect.mine.weights.sha256 is not set.*{sha256_of(path)}"):
        UltralyticsDetector(path, without, device="cpu", batch_size=1, name="mine")
    with pytest.raises(CheckpointError, match=f"has sha256 {sha256_of(path)}, but detect.mine.weights.sha256 is "):
        UltralyticsDetector(path, config(), device="cpu", batch_size=1, name="mine")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (b"GGUF", "GGUF"),
        (b"\x02\0\0\0\0\0\0\0{}", "is a safetensors file"),
    ],
)
def test_files_of_other_kinds_are_named_before_their_hash_is_asked_for(
    tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    without = config(path).model_copy(update={"weights": WeightsConfig(path=str(path))})
    with pytest.raises(CheckpointError, match=says):
        UltralyticsDetector(path, without, device="cpu", batch_size=1)


def test_file_without_a_detector_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"PK nothing")
    with pytest.raises(CheckpointError, match="model.pt: ultralytics cannot load it"):
        UltralyticsDetector(path, config(path), device="cpu", batch_size=1)
    renamed = path.rename(tmp_path / "model.bin")
    with pytest.raises(CheckpointError, match="ends in .pt"):
        UltralyticsDetector(renamed, config(renamed), device="cpu", batch_size=1)


def test_model_of_another_task_is_refused(tmp_path: Path) -> None:
    module._yolo()("yolov8n-cls.yaml").save(tmp_path / "classes.pt")
    with pytest.raises(CheckpointError, match="is a ClassificationModel for classify"):
        UltralyticsDetector(tmp_path / "classes.pt", config(tmp_path / "classes.pt"), device="cpu", batch_size=1)


def test_end_to_end_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = module._yolo()("yolov10n.yaml")
    made.model.model[-1].end2end = True
    made.save(tmp_path / "v10.pt")
    every = config(tmp_path / "v10.pt", confidence=0, iou=1, image_size=64, max_regions=7, min_side_px=1)
    detector = UltralyticsDetector(tmp_path / "v10.pt", every, device="cpu", batch_size=1)
    [regions] = detector.find(images(1))
    assert detector._classes == 0
    assert len(regions) == 7
    assert {region.label for region in regions} <= set(made.names.values())


def test_missing_ultralytics_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    module._yolo.cache_clear()
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(ConfigError, match=r"AGPL-3.0.*pip install 'fineclip\[detect\]'"):
        UltralyticsDetector(SHIPPED, config(), device="cpu", batch_size=1)


def test_an_absent_device_is_named() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ConfigError, match="no cuda device"):
        UltralyticsDetector(SHIPPED, config(), device="cuda", batch_size=1)


def test_batches() -> None:
    assert list(batches(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(full_batches([0, 1, 2], 2)) == [[0, 1], [2, 2]]
    assert list(full_batches([], 2)) == []


def test_pillow_is_not_changed() -> None:
    before = Image.open
    module._yolo()
    assert "ultralytics" in sys.modules
    assert Image.open is before
    with pytest.raises(UndecodableImage):
        decode(b"<html>404</html>")

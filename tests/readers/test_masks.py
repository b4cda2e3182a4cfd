"""Boxes of masks are tight and half-open; compressed runs are those of pycocotools."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fineclip.errors import DataError
from fineclip.readers import masks
from fineclip.readers.mask_annotations import add_boxes_of_masks
from fineclip.readers.masks import box_of_runs, box_of_segmentation, mask_boxes, read_ids, run_lengths, tight_box

# Texts and boxes (x, y, width, height) that pycocotools 2.0 writes of masks.
GOLDEN = [
    ((5, 7), ";230009", (2, 1, 3, 2)),
    ((3, 3), "09", (0, 0, 3, 3)),
    ((6, 4), ";2;", (1, 0, 2, 6)),  # one run over the end of a column
    ((9, 11), ":120O24NM0O041M042KM0030N14OK030N061O0", (1, 1, 10, 8)),
    (
        (40, 70),
        "b6g0a000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000n:ZOhE",
        (5, 0, 65, 33),
    ),
]


def ids() -> np.ndarray:
    ids_HW = np.zeros((12, 16), np.uint8)
    ids_HW[0, 0] = 9
    ids_HW[2:5, 3:7] = 4
    ids_HW[10, 15] = 4  # an instance in two parts
    return ids_HW


BOXES = [(3, 2, 16, 11), (0, 0, 1, 1)]


@pytest.mark.parametrize(("size", "counts", "xywh"), GOLDEN)
def test_compressed_runs(size: tuple[int, int], counts: str, xywh: tuple[int, ...]) -> None:
    lengths = run_lengths(counts)
    assert sum(lengths) == size[0] * size[1]
    box = box_of_segmentation({"size": list(size), "counts": counts})
    assert box is not None
    assert (box.x1, box.y1, box.width, box.height) == xywh
    assert box_of_segmentation({"size": list(size), "counts": lengths}) == box


def test_runs_of_a_mask_without_pixels() -> None:
    assert run_lengths("PP\\9") == [480 * 640]
    assert box_of_segmentation({"size": [480, 640], "counts": "PP\\9"}) is None
    assert box_of_segmentation({"size": [2, 2], "counts": [4, 0]}) is None


@pytest.mark.parametrize("seed", range(20))
def test_the_box_of_runs_is_that_of_the_mask(seed: int) -> None:
    draw = np.random.default_rng(seed)
    mask_HW = draw.random((draw.integers(1, 9), draw.integers(1, 9))) < draw.choice([0.1, 0.5, 0.9])
    flat = mask_HW.T.reshape(-1).astype(int)
    changes = np.flatnonzero(np.diff(flat, prepend=0))  # a mask that begins with a pixel has a run of 0 before it
    lengths = np.diff([0, *changes, len(flat)]).tolist()
    assert box_of_runs(lengths, mask_HW.shape[0]) == (tight_box(mask_HW) if mask_HW.any() else None)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [5, 7], "counts": ";23000"}, "its runs cover"),
        ({"size": [7, 7], "counts": ";230009"}, "its runs cover 35 pixels, and its size is 7 x 7"),
        ({"size": [5, 7], "counts": "é"}, "is not a part of a run length"),
        ({"size": [5, 7], "counts": "oooooooooooooooo"}, "is not a part of a run length"),
        ({"size": [5, 7], "counts": "o"}, "ends within a run length"),
        ({"size": [5, 7], "counts": [10, -1, 26]}, "neither a list of run lengths"),
        ({"size": [5, 7]}, "neither a list"),
        ({"size": [100_000, 100_000], "counts": [10**10]}, "more than"),
        ({"size": 5, "counts": "0"}, "no size"),
        ([[1, 2, 3, 4]], "three or more points"),
        ([1, 2, 3, 4, 5, 6], "three or more points"),
        ([[1, 2, 3, 4, 5, "6"]], "other than numbers"),
        ("mask.png", "no size"),
    ],
)
def test_any_other_segmentation_is_an_error(segmentation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        box_of_segmentation(segmentation)


def test_polygons_have_the_box_around_all_of_them() -> None:
    assert box_of_segmentation([[1, 2, 5.5, 2, 5, 9], [0.5, 3, 1, 3, 1, 4]]) == (0.5, 2, 5.5, 9)
    assert box_of_segmentation([]) is None


# --- PNG


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **more: Any) -> Path:
    image = Image.fromarray(pixels)
    if mode == "P":
        image = Image.fromarray(pixels).convert("P")
        image.putdata(pixels.reshape(-1).tolist())
    image.save(path, **more)
    return path


@pytest.mark.parametrize("at_once", [1, 40, 1 << 20])
def test_gray_palette_and_colors_are_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(masks, "PIXELS_AT_ONCE", at_once)
    gray = ids()
    colors = np.stack([gray * 7, gray * 3, gray], axis=-1)
    transparent = np.dstack([colors, np.where(gray > 0, 255, 0).astype(np.uint8)])
    transparent[11, 0] = (9, 9, 9, 0)  # a color that is not seen
    deep = gray.astype(np.uint16) * 1000
    for name, pixels, mode in (
        ("l", gray, None), ("p", gray, "P"), ("rgb", colors, None), ("rgba", transparent, None), ("deep", deep, None),
    ):  # fmt: skip
        boxes, size = mask_boxes(save(tmp_path / f"{name}.png", pixels, mode))
        assert size == (16, 12), name
        assert boxes == BOXES, name


def test_colors_with_equal_sums_are_different_instances(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0], pixels[1, 1], pixels[2, 2] = (1, 0, 0), (0, 1, 0), (0, 0, 1)
    boxes, _ = mask_boxes(save(tmp_path / "a.png", pixels))
    assert boxes == [(0, 0, 1, 1), (1, 1, 2, 2), (2, 2, 3, 3)]


def test_the_border_of_a_palette_is_background(tmp_path: Path) -> None:
    pixels = ids()
    pixels[6] = masks.VOID
    assert mask_boxes(save(tmp_path / "a.png", pixels, "P"))[0] == BOXES
    assert len(mask_boxes(save(tmp_path / "b.png", pixels))[0]) == 3  # in gray it is a value as any other


def test_every_index_of_a_palette_counts_where_a_file_is_one_instance(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6), np.uint8)
    pixels[1:3, 2:5] = masks.VOID
    assert (masks.read_ids(save(tmp_path / "a.png", pixels, "P")) > 0).sum() == 6


def test_black_is_a_mask_without_instances(tmp_path: Path) -> None:
    assert mask_boxes(save(tmp_path / "a.png", np.zeros((4, 6), np.uint8))) == ([], (6, 4))
    assert mask_boxes(save(tmp_path / "b.png", np.ones((4, 6), bool))) == ([(0, 0, 6, 4)], (6, 4))


def test_a_photograph_is_no_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with pytest.raises(DataError, match="photo.png: it has more than 2000 different values"):
        mask_boxes(save(tmp_path / "photo.png", noise))
    with pytest.raises(DataError, match="cannot be read as a PNG"):
        read_ids(save(tmp_path / "a.jpg", noise))
    (tmp_path / "cut.png").write_bytes((tmp_path / "photo.png").read_bytes()[:500])
    with pytest.raises(DataError, match="cut.png: cannot be read as a PNG"):
        read_ids(tmp_path / "cut.png")
    monkeypatch.setattr(masks, "MAX_PIXELS", 100)
    with pytest.raises(DataError, match="photo.png: 64 x 64 are more than 100 pixels"):
        read_ids(tmp_path / "photo.png")


# --- JSON


def document(mask: Any, **image: Any) -> dict[str, Any]:
    return {"images": [{"id": 1, **image}], "annotations": [{"image_id": 1, "category_id": 1, "segmentation": mask}]}


RUNS = {"size": [5, 7], "counts": ";230009"}


def test_an_annotation_without_box_has_that_of_its_mask() -> None:
    for mask in (RUNS, {"size": [5, 7], "counts": [11, 2, 3, 2, 3, 2, 12]}, [[2, 1, 5, 1, 5, 3]]):
        values = document(mask, width=7, height=5)
        add_boxes_of_masks(values, Path("x.json"))
        assert values["annotations"][0]["bbox"] == [2, 1, 3, 2]


def test_the_size_of_a_mask_is_that_of_its_image() -> None:
    values = document(RUNS)
    add_boxes_of_masks(values, Path("x.json"))
    assert values["images"] == [{"id": 1, "width": 7, "height": 5}]
    with pytest.raises(
        DataError, match=r"x.json: annotations\[0\]: the mask is 7 x 5 pixels, but width of its image is 14"
    ):
        add_boxes_of_masks(document(RUNS, width=14, height=10), Path("x.json"))


def test_a_stated_box_stays_and_an_empty_mask_gives_none() -> None:
    values = document(RUNS)
    values["annotations"][0]["bbox"] = [0, 0, 1, 1]
    add_boxes_of_masks(values, Path("x.json"))
    assert values["annotations"][0]["bbox"] == [0, 0, 1, 1] and values["images"] == [{"id": 1}]
    values = document({"size": [5, 7], "counts": [35]})
    add_boxes_of_masks(values, Path("x.json"))
    assert "bbox" not in values["annotations"][0]


def test_a_mask_of_another_form_gives_no_box_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    values = document({"size": [5, 8], "counts": ";230009"})
    add_boxes_of_masks(values, Path("x.json"))
    assert "bbox" not in values["annotations"][0]
    assert "x.json: 1 masks cannot be read, such as that of annotations[0]: its runs cover 35 pixels" in caplog.text


@pytest.mark.parametrize("values", [[], {}, {"annotations": None}, {"annotations": [1]}])
def test_json_of_another_form_is_not_touched(values: Any) -> None:
    before = copy.deepcopy(values)
    add_boxes_of_masks(values, Path("x.json"))
    assert values == before


def test_a_mask_needs_no_image_to_have_a_box() -> None:
    values = {"annotations": [1, {"segmentation": RUNS, "image_id": []}]}
    add_boxes_of_masks(values, Path("x.json"))
    assert values["annotations"][1]["bbox"] == [2, 1, 3, 2]

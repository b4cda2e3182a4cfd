"""Masks of instances, as PNG or in COCO's JSON, and their tight half-open boxes.

    one PNG per image       equal pixels are one instance, 0 (black) is background; colors count as R + 256 G + 65536 B
    one PNG per instance    every pixel that is not 0 belongs to it
    JSON                    `segmentation`: polygons, or runs (`counts`, a list or compressed to a text) of `size` [height, width]

Runs are counted down the columns, from the left, and begin with background. Their box follows from the runs; no mask is made.

Source: pycocotools, maskApi.c: rleFrString, rleToBbox.

Legend: H W pixels.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fineclip.errors import DataError
from fineclip.shards.images import MAX_PIXELS
from fineclip.types import Box

MOST_INSTANCES = 2000  # of one PNG; a photograph, or a mask that was scaled or saved as JPEG, has far more values
PIXELS_AT_ONCE = 1 << 20
VOID = 255  # index of the border between instances in a palette, as in VOC's SegmentationObject

_BROKEN = (OSError, SyntaxError, ValueError, ArithmeticError, EOFError, LookupError, Image.DecompressionBombError)


def tight_box(is_inside_HW: np.ndarray) -> Box:
    """Return the smallest box that contains the true pixels.

    Args:
        is_inside_HW: bool; at least one pixel is true.

    Returns:
        Half-open box in pixels.

    Examples:
        >>> mask_HW = np.zeros((4, 6), dtype=bool)
        >>> mask_HW[1:3, 2:5] = True
        >>> tight_box(mask_HW)
        Box(x1=2.0, y1=1.0, x2=5.0, y2=3.0)
    """
    rows, columns = (np.flatnonzero(is_inside_HW.any(axis=axis)) for axis in (1, 0))
    return Box(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def boxes_of_ids(ids_HW: np.ndarray) -> list[Box]:
    """Return the tight box of each id but 0, in the order of the ids. A part of the rows is in memory at a time.

    Args:
        ids_HW: Whole numbers.

    Returns:
        Half-open boxes in pixels.

    Raises:
        ValueError: There are more than `MOST_INSTANCES` ids.

    Examples:
        >>> boxes_of_ids(np.array([[7, 0, 0], [0, 2, 2]]))
        [Box(x1=1.0, y1=1.0, x2=3.0, y2=2.0), Box(x1=0.0, y1=0.0, x2=1.0, y2=1.0)]
    """
    boxes: dict[int, Box] = {}
    height, width = ids_HW.shape
    rows = max(1, PIXELS_AT_ONCE // width)
    for top in range(0, height, rows):
        for number, box in _boxes_of_part(ids_HW[top : top + rows], top):
            known = boxes.get(number, box)
            boxes[number] = Box(*map(min, known[:2], box[:2]), *map(max, known[2:], box[2:]))
        if len(boxes) > MOST_INSTANCES:
            raise ValueError(f"it has more than {MOST_INSTANCES} different values")
    return [boxes[number] for number in sorted(boxes)]


def _boxes_of_part(ids_HW: np.ndarray, top: int) -> list[tuple[int, Box]]:
    """Return each id but 0 of some rows, the first of which is row `top`, with its box."""
    width = ids_HW.shape[1]
    is_start_HW = np.ones(ids_HW.shape, dtype=bool)  # of a run of equal ids in a row
    is_start_HW[:, 1:] = ids_HW[:, 1:] != ids_HW[:, :-1]
    starts = np.flatnonzero(is_start_HW)
    ends = np.append(starts[1:], ids_HW.size)
    found = ids_HW.reshape(-1)[starts]
    starts, ends, found = starts[found != 0], ends[found != 0], found[found != 0]
    ids, which = np.unique(found, return_inverse=True)
    first, last = np.full((2, len(ids)), np.iinfo(np.int64).max), np.full((2, len(ids)), -1)
    for axis, (low, high) in enumerate(((starts % width, (ends - 1) % width), (starts // width + top,) * 2)):
        np.minimum.at(first[axis], which, low)
        np.maximum.at(last[axis], which, high)
    edges = np.stack([*first, *(last + 1)], axis=1).astype(float)
    return [(number, Box(*box)) for number, box in zip(ids.tolist(), edges.tolist(), strict=True)]


def read_ids(path: Path, *, void: int | None = None) -> np.ndarray:
    """Return the id of each pixel of a PNG: (H, W), whole numbers.

    Args:
        path: Gray, RGB or palette PNG. Of a palette the indices count; a transparent pixel is background.
        void: Index of a palette that is background; None: none but 0.

    Returns:
        Ids; 0 is background.

    Raises:
        DataError: The file cannot be read, is not a PNG, or is too large.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"{path}: {image.width} x {image.height} are more than {MAX_PIXELS} pixels. Move it away."
                )
            image.load()
            mode, pixels = image.mode, np.asarray(image)
    except _BROKEN as error:
        raise DataError(
            f"{path}: cannot be read as a PNG: {error}. Masks must be PNG files, which lose nothing."
        ) from None
    if mode == "P" and void is not None:
        return np.where(pixels == void, 0, pixels)
    if pixels.ndim == 2:
        return pixels
    channels = pixels.shape[-1] - (mode in ("LA", "RGBA"))
    ids_HW = np.zeros(pixels.shape[:2], np.int32)
    for channel in range(channels):
        ids_HW += pixels[..., channel].astype(np.int32) << (8 * channel)
    if mode in ("LA", "RGBA"):
        ids_HW[pixels[..., -1] == 0] = 0
    return ids_HW


def mask_boxes(path: Path) -> tuple[list[Box], tuple[int, int]]:
    """Return the boxes of the instances of one PNG, and its width and height.

    Args:
        path: PNG in which equal pixels are one instance.

    Returns:
        Half-open boxes in the order of the ids; width and height.

    Raises:
        DataError: The file cannot be read, or has more than `MOST_INSTANCES` different pixels.
    """
    ids_HW = read_ids(path, void=VOID)
    try:
        boxes = boxes_of_ids(ids_HW)
    except ValueError as error:
        raise DataError(
            f"{path}: {error}, expected one for each instance. A photograph, or a mask that was scaled, is no mask of instances."
        ) from None
    return boxes, (ids_HW.shape[1], ids_HW.shape[0])


def run_lengths(counts: str) -> list[int]:
    """Return the lengths of the runs of a compressed `counts`.

    A length has one or more characters of five bits, the lowest bits first, and from the fourth length on is the difference from the
    length two before it.

    Args:
        counts: Text of COCO's tools, characters `0` to `o`.

    Returns:
        Lengths, of background first.

    Raises:
        ValueError: The text has another character, or ends within a number.

    Examples:
        >>> run_lengths(";230009")
        [11, 2, 3, 2, 3, 2, 12]
    """
    lengths: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError(f"{character!r} is not a part of a run length")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("it ends within a run length")
    return lengths


def box_of_runs(lengths: Sequence[int], height: int) -> Box | None:
    """Return the tight box of runs down the columns, or None if all is background.

    Args:
        lengths: Lengths of the runs, of background first.
        height: Height of the mask in pixels.

    Returns:
        Half-open box in pixels.

    Examples:
        >>> box_of_runs([11, 2, 3, 2, 3, 2, 12], height=5)
        Box(x1=2.0, y1=1.0, x2=5.0, y2=3.0)
    """
    ends = np.cumsum(np.asarray(lengths, dtype=np.int64))
    runs = [(int(start), int(end)) for start, end in list(pairwise(ends))[::2] if end > start]
    if not runs:
        return None
    columns = [place // height for start, end in runs for place in (start, end - 1)]
    spans = [
        (0, height) if start // height < (end - 1) // height else (start % height, (end - 1) % height + 1)
        for start, end in runs
    ]
    return Box(
        float(min(columns)),
        float(min(first for first, _ in spans)),
        float(max(columns) + 1),
        float(max(last for _, last in spans)),
    )


def box_of_segmentation(segmentation: Any) -> Box | None:
    """Return the box of a `segmentation` of COCO's JSON.

    Args:
        segmentation: List of polygons [x, y, x, y, ...], or a map with `size` [height, width] and `counts`, a list or a text.

    Returns:
        Box around all polygons, or half-open box of the mask; None if there is no pixel or polygon.

    Raises:
        ValueError: The value has another form, or the runs do not fill the size.
    """
    if isinstance(segmentation, list):
        polygons = [_points(one) for one in segmentation]
        xs, ys = [x for one in polygons for x in one[::2]], [y for one in polygons for y in one[1::2]]
        return Box(min(xs), min(ys), max(xs), max(ys)) if xs else None
    height, _ = size_of_segmentation(segmentation)
    return box_of_runs(_lengths(segmentation), height)


def size_of_segmentation(segmentation: Any) -> tuple[int, int]:
    """Return height and width of a mask in runs.

    Args:
        segmentation: Map with `size` and `counts`.

    Returns:
        Height and width in pixels.

    Raises:
        ValueError: The value has another form.
    """
    size = segmentation.get("size") if isinstance(segmentation, dict) else None
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        raise ValueError("it has no size [height, width]")
    height, width = size
    if height * width > MAX_PIXELS:
        raise ValueError(f"its size {height} x {width} is more than {MAX_PIXELS} pixels")
    return height, width


def _lengths(segmentation: dict[str, Any]) -> list[int]:
    height, width = size_of_segmentation(segmentation)
    counts = segmentation.get("counts")
    lengths = run_lengths(counts) if isinstance(counts, str) else counts
    if not isinstance(lengths, list) or not all(type(length) is int and length >= 0 for length in lengths):
        raise ValueError("counts are neither a list of run lengths nor their text")
    if sum(lengths) != height * width:
        raise ValueError(f"its runs cover {sum(lengths)} pixels, and its size is {height} x {width}")
    return lengths


def _points(polygon: Any) -> list[float]:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise ValueError("a polygon is a list x, y, x, y, ... of three or more points")
    if not all(
        isinstance(number, int | float) and not isinstance(number, bool) and np.isfinite(number) for number in polygon
    ):
        raise ValueError("a polygon holds something other than numbers")
    return [float(number) for number in polygon]

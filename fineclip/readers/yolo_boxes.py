"""YOLO text files: one file per image, one object per line, all numbers as fractions of the image.

    CLASS CENTER_X CENTER_Y WIDTH HEIGHT [CONFIDENCE]       a box
    CLASS X1 Y1 X2 Y2 X3 Y3 ... [CONFIDENCE]                a polygon of three or more points, which becomes its box
    CLASS CENTER_X CENTER_Y WIDTH HEIGHT KEYPOINTS ...      only if data.yaml states `kpt_shape`; keypoints are left out

CLASS is an index, from 0, into the names of data.yaml (`names`, a list or a map) or of classes.txt (a name per line).

Source: ultralytics, data/utils.py, verify_image_label. Deviation: every value outside 0 to 1 is an error that names the line, where
ultralytics leaves out the image.
"""

import math
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from fineclip.errors import DataError
from fineclip.readers.image_boxes import ScoredBox, number_of, numbered_lines, read_labels, score_of
from fineclip.readers.text import decode_text, lines_of, to_valid_utf8
from fineclip.types import Box

NAMES_FILES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt")
SLACK = 1e-3  # rounded fractions may exceed 1


class Classes(NamedTuple):
    """Names of the classes by index (None: labels are empty), and the number of values of the keypoints behind a box (0: none)."""

    names: Mapping[int, str] | None
    keypoints: int = 0


def find_names(folder: Path) -> Path | None:
    """Return the file of class names in a folder of labels or in one of the two folders around it, the nearest first, or None."""
    places = (folder, folder.parent, folder.parent.parent)
    return next((place / name for place in places for name in NAMES_FILES if (place / name).is_file()), None)


def read_classes(path: Path) -> Classes:
    """Return the names of the classes.

    Args:
        path: A .yaml or .yml with the key `names`, a list or a map from number to name; any other file has a name per line.

    Returns:
        Names by index, and the size of keypoints that a YAML states.

    Raises:
        DataError: The file cannot be read, or `names` has another form.
    """
    content = read_labels(path)
    if path.suffix.lower() not in (".yaml", ".yml"):
        lines = lines_of(decode_text(content))
        return Classes({index: to_valid_utf8(line.strip()) for index, line in enumerate(lines) if line.strip()})
    try:
        values = yaml.safe_load(decode_text(content))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not YAML: {str(error).splitlines()[0]}. Correct it.") from None
    values = values if isinstance(values, dict) else {}
    return Classes(_names(path, values.get("names")), _keypoints(path, values.get("kpt_shape")))


def yolo_boxes(content: bytes, classes: Classes | None, where: str) -> list[ScoredBox]:
    """Return the boxes of one label file, in fractions of the image.

    Args:
        content: Bytes of the file.
        classes: Names of the classes; None: labels are empty, and lines have no keypoints.
        where: Path of the file, for messages.

    Returns:
        Boxes in file order; none for an empty file.

    Raises:
        DataError: A line has another form, a value outside 0 to 1, or a class without a name.

    Examples:
        >>> yolo_boxes(b"1 0.5 0.5 0.5 0.25", Classes({1: "cat"}), "a.txt")
        [ScoredBox(box=Box(x1=0.25, y1=0.375, x2=0.75, y2=0.625), label='cat', score=1.0)]
    """
    return [_object(line.split(), classes, f"{where}: line {number}") for number, line in numbered_lines(content)]


def _object(fields: Sequence[str], classes: Classes | None, where: str) -> ScoredBox:
    first, *values = fields
    label = _label(first, classes, where)
    keypoints = classes.keypoints if classes else 0
    if keypoints:
        if len(values) not in (4, 4 + keypoints, 5 + keypoints):
            raise DataError(
                f"{where}: has {len(fields)} values, expected a class, a box and {keypoints} values of keypoints (`kpt_shape`)."
            )
        return ScoredBox(_box(_fractions(values[:4], where), where), label)
    if len(values) < 4:
        raise DataError(
            f"{where}: has {len(fields)} values, expected CLASS CENTER_X CENTER_Y WIDTH HEIGHT. Correct it."
        )
    has_score = len(values) % 2 == 1
    score = score_of(values[-1], where) if has_score else 1.0
    numbers = _fractions(values[:-1] if has_score else values, where)
    return ScoredBox(_box(numbers, where) if len(numbers) == 4 else _around(numbers), label, score)


def _box(numbers: Sequence[float], where: str) -> Box:
    x, y, width, height = numbers
    if width < 0 or height < 0:
        raise DataError(
            f"{where}: width and height are {width:g} and {height:g}, expected no negative number. Correct it."
        )
    return Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _around(numbers: Sequence[float]) -> Box:
    """Return the box of a polygon x, y, x, y, ..."""
    xs, ys = numbers[::2], numbers[1::2]
    return Box(min(xs), min(ys), max(xs), max(ys))


def _fractions(values: Sequence[str], where: str) -> list[float]:
    numbers = [number_of(value, where, f"value {index}") for index, value in enumerate(values, start=2)]
    for value, number in zip(values, numbers, strict=True):
        if not -SLACK <= number <= 1 + SLACK:
            raise DataError(
                f"{where}: {value} is not between 0 and 1. YOLO's numbers are fractions of the width and height of the image:"
                " CLASS CENTER_X CENTER_Y WIDTH HEIGHT."
            )
    return numbers


def _label(text: str, classes: Classes | None, where: str) -> str:
    number = number_of(text, where, "the class")
    if number < 0 or number != int(number):
        raise DataError(f"{where}: the class is {text}, expected a whole number from 0. Correct it.")
    if classes is None or classes.names is None:
        return ""
    if int(number) not in classes.names:
        known = f"{min(classes.names)} to {max(classes.names)}" if classes.names else "none"
        raise DataError(
            f"{where}: class {int(number)} has no name; the names are those of {known}. Add it to the names."
        )
    return classes.names[int(number)]


def _names(path: Path, names: Any) -> dict[int, str]:
    named = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(named, dict) or not all(
        str(index).isdecimal() and isinstance(name, str | int | float) for index, name in named.items()
    ):
        raise DataError(
            f"{path}: names is {reprlib.repr(names):.60}, expected a list of names, or a map from the number of a class to its name."
        )
    return {int(index): to_valid_utf8(str(name)) for index, name in named.items()}


def _keypoints(path: Path, shape: Any) -> int:
    if shape is None:
        return 0
    if not isinstance(shape, list) or not all(isinstance(side, int) and side > 0 for side in shape):
        raise DataError(f"{path}: kpt_shape is {reprlib.repr(shape):.60}, expected two numbers such as [17, 3].")
    return math.prod(shape)

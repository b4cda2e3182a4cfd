"""YOLO's lines become boxes in fractions; whatever else a line holds is an error with its number."""

from itertools import pairwise
from pathlib import Path

import pytest

from fineclip.errors import DataError
from fineclip.readers.yolo_boxes import Classes, find_names, read_classes, yolo_boxes

CLASSES = Classes({0: "cat", 2: "dog"})
POSE = Classes({0: "cat"}, keypoints=6)


def edges(content: bytes, classes: Classes | None = CLASSES) -> list[tuple[float, ...]]:
    return [tuple(round(edge, 9) for edge in one.box) for one in yolo_boxes(content, classes, "a.txt")]


@pytest.mark.parametrize(
    "content",
    [
        b"2 0.5 0.25 0.5 0.1 0.75\n0 0.1 0.1 0.2 0.2\n",
        b"2 0.5 0.25 0.5 0.1 0.75\r\n0 0.1 0.1 0.2 0.2\r\n",
        b"\xef\xbb\xbf2 0.5 0.25 0.5 0.1 0.75\r0\t.1 1e-1 +0.2  0.20 \r\n\r\n",
        b"2.0 0.5 0.25 0.5 0.1 0.75\n\n  0 0.1 0.1 0.2 0.2",
    ],
)
def test_a_line_is_a_box_with_its_class_and_confidence(content: bytes) -> None:
    found = yolo_boxes(content, CLASSES, "a.txt")
    assert [(one.label, one.score) for one in found] == [("dog", 0.75), ("cat", 1.0)]
    assert edges(content) == [(0.25, 0.2, 0.75, 0.3), (0, 0, 0.2, 0.2)]


@pytest.mark.parametrize("content", [b"", b"\n", b" \r\n \r\n", b"\xef\xbb\xbf"])
def test_an_empty_file_has_no_boxes(content: bytes) -> None:
    assert yolo_boxes(content, CLASSES, "a.txt") == []


def test_a_polygon_becomes_its_box() -> None:
    assert edges(b"0 0.5 0.1 0.9 0.4 0.2 0.8") == [(0.2, 0.1, 0.9, 0.8)]
    [corners] = yolo_boxes(
        b"0 0.1 0.1 0.6 0.1 0.6 0.3 0.1 0.3 0.5", CLASSES, "a.txt"
    )  # an oriented box with a confidence
    assert (tuple(corners.box), corners.score) == ((0.1, 0.1, 0.6, 0.3), 0.5)


def test_keypoints_are_left_out_where_the_names_state_them() -> None:
    line = b"0 0.5 0.5 0.2 0.4 0.1 0.1 2 0.3 0.3 0"
    assert edges(line, POSE) == [(0.4, 0.3, 0.6, 0.7)]
    assert edges(b"0 0.5 0.5 0.2 0.4", POSE) == [(0.4, 0.3, 0.6, 0.7)]
    with pytest.raises(DataError, match="line 1: has 7 values, expected a class, a box and 6 values"):
        edges(b"0 0.5 0.5 0.2 0.4 0.1 0.1", POSE)
    with pytest.raises(DataError, match="line 1: 2 is not between 0 and 1"):
        edges(line + b" 0.3")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"0 320 240 60 40", "320 is not between 0 and 1. YOLO's numbers are fractions"),
        (b"0 0.5 0.5 0.2 1.5", "1.5 is not between 0 and 1"),
        (b"0 -0.2 0.5 0.2 0.1", "-0.2 is not between 0 and 1"),
        (b"0 0.5 0.5 -0.2 0.1", "-0.2 is not between 0 and 1"),
        (b"0 0.5 0.5 0.2", "has 4 values, expected CLASS CENTER_X"),
        (b"0", "has 1 values"),
        (b"0 0,5 0,5 0,2 0,2", "value 2 is '0,5', expected a number with a point and not a comma"),
        (b"0,0.5,0.5,0.2,0.2", "the class is '0,0.5,0.5,0.2,0.2', expected a number"),
        (b"cat 0.5 0.5 0.2 0.2", "the class is 'cat', expected a number"),
        (b"-1 0.5 0.5 0.2 0.2", "the class is -1, expected a whole number from 0"),
        (b"1.5 0.5 0.5 0.2 0.2", "the class is 1.5"),
        (b"7 0.5 0.5 0.2 0.2", "class 7 has no name; the names are those of 0 to 2"),
        (b"0 nan 0.5 0.2 0.2", "value 2 is 'nan'"),
        (b"0 1_0 0.5 0.2 0.2", "value 2 is '1_0'"),
        (b"0 0.5 0.5 0.2 0.2 1.5", "the score is 1.5, expected a number from 0 to 1"),
        (b"a dog runs", "the class is 'a'"),
        (b"0 0.5 0.5 0.2 0.2\x00", "value 5 is"),
    ],
)
def test_any_other_line_is_an_error_with_its_number(line: bytes, message: str) -> None:
    with pytest.raises(DataError, match=f"^labels/a.txt: line 3: {message}"):
        yolo_boxes(b"\r\n0 0.5 0.5 0.2 0.2\r\n" + line, CLASSES, "labels/a.txt")


def test_rounded_fractions_may_exceed_one() -> None:
    assert edges(b"0 0.5 0.5 1.000001 1") == [(-0.0000005, 0, 1.0000005, 1)]


def test_without_classes_labels_are_empty() -> None:
    [one] = yolo_boxes(b"7 0.5 0.5 0.2 0.2", None, "a.txt")
    assert one.label == ""


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        ("data.yaml", b"names: [cat, dog]\nnc: 2\n", {0: "cat", 1: "dog"}),
        ("data.yaml", b"\xef\xbb\xbfnames:\r\n  0: cat\r\n  5: 12\r\n", {0: "cat", 5: "12"}),
        ("data.yml", b"names: {'1': dog}", {1: "dog"}),
        ("classes.txt", b"\xef\xbb\xbfcat\r\nhot dog\r\n", {0: "cat", 1: "hot dog"}),
        ("obj.names", "caf\u00e9\n\nduck\n".encode(), {0: "caf\u00e9", 2: "duck"}),  # a blank line keeps its number
    ],
)
def test_names_of_classes(tmp_path: Path, name: str, content: bytes, names: dict[int, str]) -> None:
    (tmp_path / name).write_bytes(content)
    assert read_classes(tmp_path / name).names == names


def test_a_yaml_states_the_size_of_keypoints(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("names: [cat]\nkpt_shape: [17, 3]")
    assert read_classes(tmp_path / "data.yaml").keypoints == 51


BOMB = "".join(f"{name}: &{name} [{', '.join(['*' + inner] * 9)}]\n" for inner, name in pairwise("abcdefghi"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nc: 2", "names is None, expected a list of names"),
        ("names: cat", "names is 'cat'"),
        ("names: [[cat]]", "names is"),
        ("names: {a: cat}", "names is"),
        ("names: [cat\n", "is not YAML"),
        ("- cat", "names is None"),
        ("made: 2020-99-99", "is not YAML"),
        ("a: &a [x, x, x, x, x, x, x, x, x]\n" + BOMB + "names: [*i]", "names is"),
        ("names: [cat]\nkpt_shape: 17", "kpt_shape is 17"),
        ("names: !!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_other_yaml_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "data.yaml").write_text(content)
    with pytest.raises(DataError, match=f"data.yaml: {message}"):
        read_classes(tmp_path / "data.yaml")


def test_the_nearest_names_are_found(tmp_path: Path) -> None:
    labels = tmp_path / "data/train/labels"
    labels.mkdir(parents=True)
    assert find_names(labels) is None
    (tmp_path / "data/data.yaml").touch()
    assert find_names(labels) == tmp_path / "data/data.yaml"
    (labels / "classes.txt").touch()
    assert find_names(labels) == labels / "classes.txt"

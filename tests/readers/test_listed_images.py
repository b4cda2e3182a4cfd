"""Ids of a JSON, several entries of one image, and entries without content."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from fineclip.errors import DataError
from fineclip.readers.json_documents import Document, Entry, with_content
from fineclip.readers.listed_images import by_name, distinct, images_by_id, listed_once, referring

BIG = 2**53


def document(tmp_path: Path, images: list[Any], refer: list[Any] | None = None) -> Document:
    """Images with these ids, or these entries; annotations that refer to these ids."""
    listed = [
        one if isinstance(one, dict) else {"id": one, "file_name": f"{index}.jpg"} for index, one in enumerate(images)
    ]
    annotations = [{"image_id": number, "text": f"t{index}"} for index, number in enumerate(refer or [])]
    path = tmp_path / "some.json"
    path.write_text(json.dumps({"images": listed, "annotations": annotations}))
    return Document(path)


def texts(document: Document) -> dict[str, list[str]]:
    images = images_by_id(document, Entry.image_name)
    found: dict[Any, list[str]] = {}
    for number, entry in referring(document.entries("annotations"), images):
        found.setdefault(number, []).append(entry.text("text"))
    return by_name(found, images)


@pytest.mark.parametrize(
    ("ids", "refer"),
    [
        ([1.0, 2], [1, 2.0]),
        (["1", 1], ["1", 1]),
        ([BIG, BIG + 1], [BIG, BIG + 1]),
        ([10**30, -5], [10**30, -5.0]),
        (["a", "1.0"], ["a", "1.0"]),
        ([0, -1], [-0.0, -1]),
    ],
)
def test_ids_that_are_equal_as_numbers_are_equal(tmp_path: Path, ids: list[Any], refer: list[Any]) -> None:
    assert texts(document(tmp_path, ids, refer)) == {"0.jpg": ["t0"], "1.jpg": ["t1"]}


@pytest.mark.parametrize("wrong", [True, None, 1.5, float("nan"), float("inf"), float(BIG), [1]])
def test_what_is_no_id_is_an_error(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(DataError, match=r"some.json: images\[1\]: 'id' is .*, expected a whole number or a text"):
        texts(document(tmp_path, [1, wrong]))
    with pytest.raises(DataError, match=r"some.json: annotations\[0\]: 'image_id' is .*, expected a whole number"):
        texts(document(tmp_path, [1, 0], [wrong]))


@pytest.mark.parametrize(
    ("ids", "refer", "says"),
    [
        ([1, 2], ["1", "2"], r"'image_id' of its 2 annotations .*annotations\[0\] has '1', .* such as 1\."),
        (["1"], [1.0], r"annotations\[0\] has 1.0, .* such as '1'\."),
        ([BIG + 1], [BIG], f"has {BIG}, .* such as {BIG + 1}"),
    ],
)
def test_no_shared_id_is_an_error_with_both_as_written(tmp_path: Path, ids: Any, refer: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        texts(document(tmp_path, ids, refer))


def test_some_unknown_ids_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert texts(document(tmp_path, [1, 2], [1, "2", 77])) == {"0.jpg": ["t0"], "1.jpg": []}
    assert "2 of 3 annotations refer to no image" in caplog.text
    assert "annotations[1]: its 'image_id' is '2', and the images have ids such as 1" in caplog.text


def test_no_annotations_are_no_error(tmp_path: Path) -> None:
    assert texts(document(tmp_path, [1])) == {"0.jpg": []}


def test_entries_of_one_name_are_one_image(tmp_path: Path) -> None:
    same = [
        {"id": number, "file_name": "a.jpg"} | more
        for number, more in ((1, {}), (7, {"width": 5}), ("x", {"height": 4}))
    ]
    made = document(
        tmp_path, [*same, {"id": 2, "file_name": "b.jpg"}, {"id": 1.0, "file_name": "a.jpg"}], ["x", 1, 2, 7]
    )
    images = images_by_id(made, Entry.image_name)
    assert [(image.name, image.ids) for image in listed_once(images)] == [("a.jpg", [1, 7, "x"]), ("b.jpg", [2])]
    assert images["x"].stated_size() == (5, 4)
    assert texts(made) == {"a.jpg": ["t1", "t3", "t0"], "b.jpg": ["t2"]}


def test_one_id_of_two_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"images\[1\]: 'id' is 3.0, expected one of its own: 0.jpg has it too"):
        texts(document(tmp_path, [3, 3.0]))


@pytest.mark.parametrize("side", ["width", "height"])
def test_sizes_of_one_image_must_agree(tmp_path: Path, side: str) -> None:
    entries = [{"id": n, "file_name": "a.jpg", side: size} for n, size in enumerate((None, 40, 40.0, 50))]
    texts(document(tmp_path, entries[:3]))
    with pytest.raises(DataError, match=rf"images\[3\]: '{side}' is 50, expected 40 as in images\[1\].*a.jpg"):
        texts(document(tmp_path, entries))


@pytest.mark.parametrize("size", [0, -1, 1.5, "160", True])
def test_a_size_is_a_whole_number_of_pixels(tmp_path: Path, size: Any) -> None:
    [image] = images_by_id(document(tmp_path, [{"id": 1, "file_name": "a", "width": size}]), Entry.image_name).values()
    with pytest.raises(DataError, match=r"images\[0\]: 'width' is"):
        image.stated_size()


def test_what_a_later_entry_repeats_is_left_out() -> None:
    assert distinct([]) == []
    assert distinct([["a", "a"]]) == ["a", "a"]
    assert distinct([["a"], ["b", "b", "a"], ["b", "c"]]) == ["a", "b", "b", "c"]


def entries(*values: Any) -> list[Entry]:
    return [Entry(Path("some.json"), "annotations", index, {"bbox": value}) for index, value in enumerate(values)]


@pytest.mark.parametrize("empty", [None, [], "", " \n", {}])
def test_entries_without_content_are_left_out_and_counted(empty: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        kept = list(with_content(entries(0, [1], empty, False), "bbox"))
    assert [entry.values["bbox"] for entry in kept] == [0, [1], False]
    assert "some.json: 1 of 4 annotations have no 'bbox' and are left out, such as annotations[2]" in caplog.text
    with pytest.raises(
        DataError, match=r"some.json: none of its 2 annotations has 'bbox'; annotations\[0\] has only bbox"
    ):
        list(with_content(entries(empty, empty), "bbox"))
    assert list(with_content([], "bbox")) == []


@pytest.mark.parametrize(
    "wrong", [["1", "2", "3", "4"], [1, 2, 3], [[1, 2], [3, 4]], [1, 2, 3, float("nan")], "1 2 3 4", [1, 2, 3, 10**400]]
)
def test_a_box_of_another_form_is_an_error(wrong: Any) -> None:
    [entry] = with_content(entries(wrong), "bbox")
    with pytest.raises(DataError, match=r"some.json: annotations\[0\]: 'bbox' is .*, expected four numbers"):
        entry.box("bbox")

"""Boxes of a CSV by the names of its columns; every other row is an error with the line on which it begins."""

from pathlib import Path

import pytest

from fineclip.errors import DataError
from fineclip.readers.box_tables import table_boxes
from fineclip.readers.image_boxes import ImageBoxes


def read(folder: Path, content: str | bytes) -> list[ImageBoxes]:
    path = folder / "boxes.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return table_boxes(path)


def test_rows_of_an_image_are_its_boxes(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        '\ufeffimage,x1,y1,x2,y2,label,score\r\nb.jpg,1,2,3,4.5,cat,0.5\r\n\r\na.jpg,0,0,9,9,"dog, black",\r\nb.jpg,5,5,5,9,cat,1\r\n',
    )
    assert [one.image for one in found] == ["b.jpg", "a.jpg"]
    assert [(tuple(box.box), box.label, box.score) for box in found[0].boxes] == [
        ((1, 2, 3, 4.5), "cat", 0.5),
        ((5, 5, 5, 9), "cat", 1.0),  # empty: left out and counted by the stage
    ]
    assert [(box.label, box.score) for box in found[1].boxes] == [("dog, black", 1.0)]
    assert not found[0].fractions and found[0].width is None


def test_columns_of_other_tools(tmp_path: Path) -> None:
    [tensorflow] = read(tmp_path, "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,64,48,cat,1,2,30,40\n")
    assert (tensorflow.width, tensorflow.height, tensorflow.fractions) == (64, 48, False)
    [box] = tensorflow.boxes
    assert (tuple(box.box), box.label) == ((1, 2, 30, 40), "cat")
    header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded"
    [open_images] = read(tmp_path, f"{header}\n000a,x,/m/01g317,1,0.25,0.5,0,1,0\n")
    assert open_images.fractions and open_images.width is None
    [box] = open_images.boxes
    assert (tuple(box.box), box.label) == ((0.25, 0, 0.5, 1), "/m/01g317")


def test_a_row_without_edges_lists_an_image(tmp_path: Path) -> None:
    assert read(tmp_path, "image,x1,y1,x2,y2\na.jpg,,,,\n") == [ImageBoxes("a.jpg", [])]
    assert read(tmp_path, "image,x1,y1,x2,y2\n") == []


def test_spellings_of_one_name_are_one_image(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "image,x1,y1,x2,y2\nsub/cafe\u0301.jpg,0,0,1,1\n./sub/caf\u00e9.jpg,1,1,2,2\nsub\\caf\u00e9.jpg,2,2,3,3\n",
    )
    assert [len(one.boxes) for one in found] == [3]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_are_read(tmp_path: Path, separator: str) -> None:
    [image] = read(tmp_path, "image,x1,y1,x2,y2,label\na.jpg,1,2,3,4,cat\n".replace(",", separator))
    assert [(tuple(one.box), one.label) for one in image.boxes] == [((1, 2, 3, 4), "cat")]


ROW = "a.jpg,1,2,3,4,cat"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1: the header is ''"),
        (f"{ROW}\n", "line 1: the header is 'a.jpg,1,2,3,4,cat', expected image,x1,y1,x2,y2,label"),
        ("image,x,y,width,height,label\n", "line 1: the header is"),
        ("image,x1,y1,x2,y2,x2\n", "line 1: two columns have the same name"),
        (f"image,x1,y1,x2,y2,label\n{ROW}\na.jpg,1,2,3,4,cat, black\n", "line 3 has 7 values, and the first line 6"),
        ("image,x1,y1,x2,y2,label\na.jpg,1,2,3,4\n", "line 2 has 5 values"),
        (
            'image,x1,y1,x2,y2,label\na.jpg,1,2,3,4,"a\ncat"\na.jpg,1,2,x,4,cat\n',
            "line 4: x2 is 'x', expected a number",
        ),
        (
            'image,x1,y1,x2,y2\na.jpg,"1,5",2,3,4\n',
            "line 2: x1 is '1,5', expected a number with a point and not a comma",
        ),
        ("image,x1,y1,x2,y2\na.jpg,1,2,,4\n", "line 2: x2 is ''"),
        ("image,x1,y1,x2,y2\na.jpg,inf,2,3,4\n", "line 2: x1 is 'inf'"),
        (
            "image,x1,y1,x2,y2\na.jpg,100,80,30,40\n",
            "line 2: x1 100, y1 80, x2 30, y2 40: the second corner lies before",
        ),
        ("image,x1,y1,x2,y2\n,1,2,3,4\n", "line 2: image is empty"),
        ("image,x1,y1,x2,y2,score\na.jpg,1,2,3,4,97\n", "line 2: the score is 97"),
        ("image,x1,y1,x2,y2,width,height\na,1,2,3,4,9,9\na,1,2,3,4,9,8\n", "line 3: a is 9 x 8 pixels here, and 9 x 9"),
        ("image,x1,y1,x2,y2,width,height\na,1,2,3,4,9.5,9\n", "line 2: width is 9.5, expected a whole number"),
        ("ImageID,XMin,XMax,YMin,YMax\na,10,20,0,1\n", "line 2: XMin to YMax are fractions"),
        ('image,x1,y1,x2,y2\na.jpg,1,2,3,4\n"a.jpg,1,2,3,4\n', "line 3 cannot be read as CSV"),
    ],
)
def test_any_other_row_is_an_error_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=f"boxes.csv: {message}"):
        read(tmp_path, content)

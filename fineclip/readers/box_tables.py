"""Boxes in a CSV with a header and one box per row.

The names of the columns decide between three forms:

    image,x1,y1,x2,y2[,label][,score][,width,height]        pixels, x2 and y2 exclusive
    filename,width,height,class,xmin,ymin,xmax,ymax         pixels, as TensorFlow's and Roboflow's exports
    ImageID,XMin,XMax,YMin,YMax[,LabelName][,Confidence]    fractions of the image, as Open Images

Order and further columns do not matter. A row with four empty edges lists an image without boxes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fineclip.errors import DataError
from fineclip.readers.csv_rows import csv_rows
from fineclip.readers.image_boxes import ImageBoxes, ScoredBox, number_of, score_of
from fineclip.readers.names import canonical_name
from fineclip.readers.text import to_valid_utf8
from fineclip.types import Box


class Columns(NamedTuple):
    """Names of the columns of one form, and whether edges are fractions."""

    image: str
    edges: tuple[str, str, str, str]
    label: str
    score: str
    width: str = "width"
    height: str = "height"
    fractions: bool = False


FORMS = (
    Columns("image", ("x1", "y1", "x2", "y2"), "label", "score"),
    Columns("filename", ("xmin", "ymin", "xmax", "ymax"), "class", "confidence"),
    Columns("ImageID", ("XMin", "YMin", "XMax", "YMax"), "LabelName", "Confidence", fractions=True),
)


def table_boxes(path: Path) -> list[ImageBoxes]:
    """Return the boxes of a CSV by image.

    Args:
        path: CSV with a header.

    Returns:
        Images in the order of their first rows, with boxes in file order.

    Raises:
        DataError: The header has none of the three forms, or a row has another number of fields, an edge that is not a number, or
            corners in the wrong order.
    """
    rows = csv_rows(path, [[form.image, *form.edges] for form in FORMS])
    header = [name.strip() for name in next(rows).values]
    form = _form(path, header)
    images: dict[str, ImageBoxes] = {}
    for line, fields in rows:
        where = f"{path}: line {line}"
        values = dict(zip(header, (field.strip() for field in fields), strict=True))
        name = to_valid_utf8(values[form.image])
        if not name:
            raise DataError(f"{where}: {form.image} is empty, expected the name of an image. Correct it.")
        width, height = (_side(values.get(side, ""), f"{where}: {side}") for side in (form.width, form.height))
        found = images.setdefault(canonical_name(name), ImageBoxes(name, [], width, height, form.fractions))
        if (found.width, found.height) != (width, height):
            raise DataError(
                f"{where}: {name} is {width} x {height} pixels here, and {found.width} x {found.height} in an earlier row. Correct one."
            )
        if any(values[edge] for edge in form.edges):
            found.boxes.append(_box(values, form, where))
    return list(images.values())


def _form(path: Path, header: Sequence[str]) -> Columns:
    for form in FORMS:
        if {form.image, *form.edges} <= set(header):
            if len(set(header)) < len(header):
                raise DataError(f"{path}: line 1: two columns have the same name: {', '.join(header)}. Rename one.")
            return form
    raise DataError(
        f"{path}: line 1: the header is {','.join(header)!r:.100}, expected image,x1,y1,x2,y2,label with commas between them (or the"
        " columns filename,class,xmin,ymin,xmax,ymax, or ImageID,LabelName,XMin,XMax,YMin,YMax). Name the columns so."
    )


def _box(values: Mapping[str, str], form: Columns, where: str) -> ScoredBox:
    edges = [number_of(values[edge], where, edge) for edge in form.edges]
    box = Box(*edges)
    if box.width < 0 or box.height < 0:
        stated = ", ".join(f"{edge} {values[edge]}" for edge in form.edges)
        raise DataError(
            f"{where}: {stated}: the second corner lies before the first. Give corners, not widths and heights."
        )
    if form.fractions and not all(0 <= edge <= 1 for edge in edges):
        raise DataError(
            f"{where}: {form.edges[0]} to {form.edges[3]} are fractions, expected from 0 to 1, not {edges}."
        )
    score = values.get(form.score, "")
    return ScoredBox(box, to_valid_utf8(values.get(form.label, "")), score_of(score, where) if score else 1.0)


def _side(text: str, where: str) -> int | None:
    if not text:
        return None
    pixels = number_of(text, where, "the side")
    if pixels < 1 or pixels != int(pixels):
        raise DataError(f"{where} is {text}, expected a whole number of pixels. Correct it.")
    return int(pixels)

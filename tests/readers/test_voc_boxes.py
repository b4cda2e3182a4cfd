"""Pascal VOC's pixels, counted from 1 with the last one included, become half-open boxes; XML cannot declare entities."""

import pytest

from fineclip.errors import DataError
from fineclip.readers.voc_boxes import voc_boxes

OBJECT = "<object><name>{name}</name><bndbox>{bounds}</bndbox></object>"


def bounds(*edges: object) -> str:
    return "".join(
        f"<{name}>{edge}</{name}>" for name, edge in zip(("xmin", "ymin", "xmax", "ymax"), edges, strict=True)
    )


def xml(*objects: str, size: str = "<size><width>64</width><height>48</height><depth>3</depth></size>") -> bytes:
    return f"<annotation><filename>a.jpg</filename>{size}{''.join(objects)}</annotation>".encode()


def cat(*edges: object) -> str:
    return OBJECT.format(name="cat", bounds=bounds(*edges))


@pytest.mark.parametrize(
    ("stated", "box"),
    [
        ((1, 1, 1, 1), (0, 0, 1, 1)),  # the first pixel
        ((1, 1, 64, 48), (0, 0, 64, 48)),  # the whole image
        ((64, 48, 64, 48), (63, 47, 64, 48)),  # the last pixel
        ((10, 20, 12, 29), (9, 19, 12, 29)),
        ((45.70, " 2.5\n", 60.25, 40), (44.7, 1.5, 60.25, 40)),  # as VOC 2011 states some
    ],
)
def test_pixels_are_counted_from_one(stated: tuple[object, ...], box: tuple[float, ...]) -> None:
    [found] = voc_boxes(xml(cat(*stated)), "a", "a.xml").boxes
    assert (found.box, found.label, found.score) == (pytest.approx(box), "cat", 1.0)


def test_size_order_parts_and_difficult_objects() -> None:
    parts = "<part><name>head</name><bndbox><xmin>2</xmin></bndbox></part>"
    second = OBJECT.format(name=" dining\ttable ", bounds=bounds(5, 5, 9, 9)).replace(
        "</name>", f"</name>{parts}<difficult>1</difficult>"
    )
    found = voc_boxes(xml(cat(2, 2, 9, 9), second), "a", "a.xml")
    assert [one.label for one in found.boxes] == ["cat", "dining\ttable"]
    assert (found.width, found.height, found.fractions) == (64, 48, False)


@pytest.mark.parametrize(
    "size", ["", "<size/>", "<size><width>0</width><height>0</height></size>", "<size><width> </width></size>"]
)
def test_a_size_that_is_not_stated(size: str) -> None:
    found = voc_boxes(xml(size=size), "a", "a.xml")
    assert (found.width, found.height, found.boxes) == (None, None, [])


@pytest.mark.parametrize(
    "content",
    [
        b"<?xml version='1.0' encoding='ISO-8859-1'?>" + xml(OBJECT.format(name="café", bounds=bounds(1, 1, 2, 2))).decode().encode("latin-1"),
        b"\xef\xbb\xbf" + xml(OBJECT.format(name="café", bounds=bounds(1, 1, 2, 2))).replace(b"><", b">\r\n<"),
        xml(OBJECT.format(name="caf&#233;", bounds=bounds(1, 1, 2, 2))),
    ],
)  # fmt: skip
def test_encodings(content: bytes) -> None:
    assert [one.label for one in voc_boxes(content, "a", "a.xml").boxes] == ["café"]


BOMB = b'<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;">]><annotation>&y;</annotation>'
EXTERNAL = b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>'


@pytest.mark.parametrize("content", [BOMB, EXTERNAL, b"<!DOCTYPE annotation>" + xml(cat(1, 1, 2, 2))])
def test_a_document_type_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="^a.xml: has a document type"):
        voc_boxes(content, "a", "a.xml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not XML, or is truncated"),
        (xml(cat(1, 1, 2, 2))[:-5], "is not XML, or is truncated"),
        (b"<html/>", "begins with <html>"),
        (b"<?xml version='1.0' encoding='x-none'?><annotation/>", "is not XML"),
        (xml(cat(9, 1, 2, 2)), r"object 1 \(cat\): xmin, ymin, xmax, ymax are 9, 1, 2, 2: the last edge lies before"),
        (xml(cat(1, 1, 2, 2), cat(1, "1,5", 2, 2)), r"object 2 \(cat\): ymin is '1,5', expected a number with a point"),
        (xml(cat(1, 1, "", 2)), "xmax is ''"),
        (xml(cat(0.1, 0.2, 0.5, 1)), r"\(cat\): xmin, ymin, xmax, ymax are 0.1, 0.2, 0.5, 1: these are fractions"),
        (xml("<object><name>cat</name></object>"), "has no <bndbox>"),
        (xml("<object><bndbox/></object>"), "has no name"),
        (xml(size="<size><width>6.5</width></size>"), "width is 6.5, expected a whole number"),
    ],
)
def test_any_other_file_is_an_error(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=f"^a.xml: .*{message}"):
        voc_boxes(content, "a", "a.xml")

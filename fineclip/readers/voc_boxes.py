"""Pascal VOC XML: one file per image, `annotation/object/bndbox` with xmin, ymin, xmax, ymax.

Pixels are counted from 1 and the last pixel is part of the object. The half-open box of a `bndbox` is therefore (xmin - 1, ymin - 1,
xmax, ymax): the first pixel alone is 1, 1, 1, 1 and becomes 0, 0, 1, 1. Objects marked `difficult` or `truncated` are kept.

XML is read by expat without a document type: entities of its own and external files cannot be declared.

Source: VOC development kit, VOCreadrecxml. Tools that count from 0 write boxes that are one pixel off here.
"""

from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from fineclip.errors import DataError
from fineclip.readers.image_boxes import ImageBoxes, ScoredBox, number_of
from fineclip.readers.text import decode_text, to_valid_utf8
from fineclip.types import Box

EDGES = ("xmin", "ymin", "xmax", "ymax")


def voc_boxes(content: bytes, image: str, where: str) -> ImageBoxes:
    """Return the boxes of one file, in pixels.

    Args:
        content: Bytes of the XML.
        image: Name of the image.
        where: Path of the file, for messages.

    Returns:
        Half-open boxes in file order, with the size that `size` states; a size of 0 counts as not stated.

    Raises:
        DataError: The file is not XML, has a document type, is not an annotation, or an object lacks a number or name.
    """
    root = _parsed(content, where)
    if root.tag != "annotation":
        raise DataError(
            f"{where}: begins with <{root.tag}>, expected <annotation> of Pascal VOC. Is it the right file?"
        )
    boxes = [_box(found, f"{where}: object {number}") for number, found in enumerate(root.iterfind("object"), start=1)]
    width, height = (_side(root, side, where) for side in ("width", "height"))
    return ImageBoxes(image, boxes, width, height)


def _box(found: Element, where: str) -> ScoredBox:
    name = (found.findtext("name") or "").strip()
    if not name:
        raise DataError(f"{where}: has no name. Add <name>.")
    bounds = found.find("bndbox")
    if bounds is None:
        raise DataError(f"{where} ({name}): has no <bndbox>. Add one.")
    left, upper, right, lower = (number_of(bounds.findtext(edge) or "", f"{where} ({name})", edge) for edge in EDGES)
    if right < left or lower < upper:
        raise DataError(
            f"{where} ({name}): xmin, ymin, xmax, ymax are {left:g}, {upper:g}, {right:g}, {lower:g}: the last edge lies before the"
            " first. Correct them."
        )
    if 0 <= left < right <= 1 and 0 <= upper < lower <= 1:
        raise DataError(
            f"{where} ({name}): xmin, ymin, xmax, ymax are {left:g}, {upper:g}, {right:g}, {lower:g}: these are fractions, expected"
            " pixels from 1 on. Multiply them by the width and height of the image."
        )
    return ScoredBox(Box(left - 1, upper - 1, right, lower), to_valid_utf8(name))


def _side(root: Element, side: str, where: str) -> int | None:
    text = (root.findtext(f"size/{side}") or "").strip()
    pixels = number_of(text, where, side) if text else 0
    if pixels < 0 or pixels != int(pixels):
        raise DataError(f"{where}: {side} is {text}, expected a whole number of pixels. Correct it.")
    return int(pixels) or None


def _parsed(content: bytes, where: str) -> Element:
    """Return the outermost element. Bytes without a declared encoding are decoded as any text is."""
    is_declared = b"encoding" in content[:200].partition(b"?>")[0]
    parser = expat.ParserCreate(None if is_declared else "utf-8")
    tree = TreeBuilder()

    def refuse(*_: Any) -> None:
        raise DataError(f"{where}: has a document type (<!DOCTYPE>), which Pascal VOC does not need. Remove it.")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = tree.start
    parser.EndElementHandler = tree.end
    parser.CharacterDataHandler = tree.data
    try:
        parser.Parse(content if is_declared else decode_text(content).encode("utf-8", "backslashreplace"), True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise DataError(f"{where}: is not XML, or is truncated: {error}. Correct it.") from None
    return tree.close()

"""The rule for boxes that users bring: they are in pixels of the stored image, from its upper left corner.

A file may state the size of the image that its boxes refer to. If the stored image has another size, because it was resized or
turned (EXIF orientation included: stored pixels count, not the upright picture), its boxes cannot be used. Otherwise the boxes
decide. This rule is independent of limits in the configuration:

    fractions   every box that is not empty has numbers between 0 and 1
    border      more than a tenth of the boxes, and at least two, extend more than 2 px beyond their image

Of COCO's own boxes 0 of 1,350 do. One box alone is no evidence of the second kind, because any annotation may have a slip.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

from fineclip.errors import DataError
from fineclip.types import Box, LabeledBox

log = logging.getLogger(__name__)

MARGIN_PX = 2.0
MAX_OUTSIDE_FRACTION = 0.1
MIN_OUTSIDE = 2  # boxes
MIN_UPPER_LEFT = 20  # boxes
FRACTION_SLACK = 0.05  # fractions that a program computed may lie a little outside 0 to 1


class StatedSize(NamedTuple):
    """Size in pixels that a file states of an image; a side is None where it states none."""

    width: int | None = None
    height: int | None = None

    def is_other_than(self, width: int | None, height: int | None) -> bool:
        """Return whether a stated side differs from that of the stored image."""
        return self.width not in (None, width) or self.height not in (None, height)

    def or_else(self, other: "StatedSize") -> "StatedSize":
        """Return this size, with the sides of another one where this one has none."""
        return StatedSize(*(one if one is not None else theirs for one, theirs in zip(self, other, strict=True)))

    def __str__(self) -> str:
        return f"{'?' if self.width is None else self.width} x {'?' if self.height is None else self.height}"


class FramedBoxes(NamedTuple):
    """The boxes of one image before clipping, with the image that they refer to.

    Attributes:
        image: Name of the image, for messages.
        boxes: Boxes as the file states them, as corners.
        size: Size of the image; sides are None where nothing states it.
    """

    image: str
    boxes: Sequence[Box]
    size: StatedSize = StatedSize()

    def outside(self) -> list[Box]:
        """Return the boxes that extend more than `MARGIN_PX` beyond a side whose place is known."""
        return [box for box in self.boxes if _excess(box, self.size) > MARGIN_PX]


class ImageAnnotations(NamedTuple):
    """The boxes of one image with their labels, and the size of the image that their file states."""

    boxes: list[LabeledBox]
    size: StatedSize = StatedSize()

    def framed(self, image: str) -> FramedBoxes:
        """Return the boxes alone; `image` is the name of the image."""
        return FramedBoxes(image, [one.box for one in self.boxes], self.size)


class Evidence(NamedTuple):
    """What the boxes of a file or shard say about their unit.

    Attributes:
        boxes: Number of boxes.
        solid: Number of boxes with a positive area.
        fractions: Number of those whose numbers x, y, width, height are all between 0 and 1.
        outside: Number of boxes that extend beyond their image.
        corners: Number of those that are inside it if their numbers are read as two corners.
        upper_left: Number of boxes inside the upper left quarter of their image.
        example: First of the boxes with its image: outside if there is one, else of fractions.
    """

    boxes: int = 0
    solid: int = 0
    fractions: int = 0
    outside: int = 0
    corners: int = 0
    upper_left: int = 0
    example: FramedBoxes | None = None

    @classmethod
    def of(cls, images: Iterable[FramedBoxes]) -> Self:
        """Return the evidence of the boxes of images, each visited once."""
        counts = dict.fromkeys(("boxes", "solid", "fractions", "outside", "corners", "upper_left"), 0)
        first_fraction: FramedBoxes | None = None
        first_outside: FramedBoxes | None = None
        for one in images:
            solid = [box for box in one.boxes if box.width > 0 and box.height > 0]
            fractions, outside = [box for box in solid if _is_fraction(box)], one.outside()
            counts["boxes"] += len(one.boxes)
            counts["solid"] += len(solid)
            counts["fractions"] += len(fractions)
            counts["outside"] += len(outside)
            counts["corners"] += sum(_fits_as_corners(box, one.size) for box in outside)
            counts["upper_left"] += sum(_is_upper_left(box, one.size) for box in one.boxes)
            if fractions and first_fraction is None:
                first_fraction = one._replace(boxes=fractions[:1])
            if outside and first_outside is None:
                first_outside = one._replace(boxes=outside[:1])
        return cls(**counts, example=first_outside or first_fraction)

    @property
    def are_fractions(self) -> bool:
        """Whether the boxes are fractions of the image."""
        return self.solid > 0 and self.fractions == self.solid

    @property
    def are_beyond_the_border(self) -> bool:
        """Whether too many boxes extend beyond their image."""
        return self.outside >= MIN_OUTSIDE and self.outside > MAX_OUTSIDE_FRACTION * self.boxes

    @property
    def may_be_of_smaller_images(self) -> bool:
        """Whether all boxes, and not just a few, are in the upper left quarter: their images may have been smaller."""
        return self.boxes >= MIN_UPPER_LEFT and self.upper_left == self.boxes

    @property
    def shown(self) -> str:
        """The example as x, y, width, height with its image."""
        if self.example is None:
            return "none"
        [box], size = self.example.boxes, self.example.size
        numbers = ", ".join(f"{round(number, 6):.9g}" for number in (box.x1, box.y1, box.width, box.height))
        known = "" if size == StatedSize() else f" ({size} px)"
        return f"{numbers} in {self.example.image}{known}"


def require_no_fractions(images: Iterable[FramedBoxes], *, where: str) -> Evidence:
    """Check the boxes of a file whose images have not been read: they must not be fractions.

    Boxes beyond a stated size are counted in the log. They are no error yet, because an image of another size is dropped later.

    Args:
        images: Boxes of each image with the stated size, if any.
        where: File that holds the boxes, for messages.

    Returns:
        What the boxes say about their unit.

    Raises:
        DataError: All boxes are fractions.

    Examples:
        >>> boxes = [Box(0.25, 0.5, 0.75, 1.0)]
        >>> require_no_fractions([FramedBoxes("1.jpg", boxes)], where="boxes.json")
        Traceback (most recent call last):
        fineclip.errors.DataError: boxes.json: all boxes (1) are fractions, ...
    """
    found = Evidence.of(images)
    _refuse_fractions(found, where)
    _warn_of_some(found, where)
    return found


def _refuse_fractions(found: Evidence, where: str) -> None:
    if found.are_fractions:
        raise DataError(
            f"{where}: all boxes ({found.solid}) are fractions, numbers between 0 and 1, such as {found.shown}. Boxes must be in pixels"
            " of the stored image: multiply x and width by its width, y and height by its height."
        )


def _warn_of_some(found: Evidence, where: str) -> None:
    if found.fractions:
        log.warning("%s: %d of %d boxes lie within one pixel: are they fractions?", where, found.fractions, found.boxes)
    if found.outside:
        log.warning(
            "%s: %d of %d boxes extend more than %g px beyond the border of their image, such as %s",
            where, found.outside, found.boxes, MARGIN_PX, found.shown,
        )  # fmt: skip


def require_pixels(images: Iterable[FramedBoxes], *, where: str) -> None:
    """Check that boxes are in pixels of their images; a few that extend beyond the border are counted in the log.

    Args:
        images: Boxes of each image of a shard or a benchmark, with the size of the stored image. Images whose size is another than
            the stated one are left out by the caller.
        where: File or table that holds the boxes, for messages.

    Raises:
        DataError: The boxes are fractions, or too many extend beyond the border.
    """
    found = Evidence.of(images)
    _refuse_fractions(found, where)
    if found.are_beyond_the_border:
        raise DataError(
            f"{where}: {found.outside} of {found.boxes} boxes extend more than {MARGIN_PX:g} px beyond the border of their image, such"
            f" as x, y, width, height {found.shown}. {_advice(found)}"
        )
    _warn_of_some(found, where)
    if found.may_be_of_smaller_images:
        log.warning(
            "%s: all %d boxes lie in the upper left quarter of their images: are they percentages, or of smaller images?",
            where, found.boxes,
        )  # fmt: skip


def require_stated_size(stated: StatedSize, stored: StatedSize, *, image: str, where: str) -> None:
    """Check that an image of a benchmark has the size that the file of its boxes states.

    Args:
        stated: Size in the file; sides that are None are not compared.
        stored: Size of the stored image.
        image: Path of the image, for the message.
        where: File that states the size, for the message.

    Raises:
        DataError: A side differs.
    """
    if stated.is_other_than(*stored):
        raise DataError(
            f"{image}: is stored with {stored} px, but {where} states {stated} px, and its boxes refer to that. Provide the image as it"
            " was annotated, neither resized nor turned."
        )


def _excess(box: Box, size: StatedSize) -> float:
    """Return the pixels by which a box extends beyond the border of its image; not positive if it is inside."""
    beyond = [-box.x1, -box.y1, -box.x2, -box.y2]  # x2 is the left edge if the width is negative
    if size.width is not None:
        beyond += [box.x2 - size.width, box.x1 - size.width]
    if size.height is not None:
        beyond += [box.y2 - size.height, box.y1 - size.height]
    return max(beyond)


def _is_fraction(box: Box) -> bool:
    return all(-FRACTION_SLACK <= number <= 1 + FRACTION_SLACK for number in (box.x1, box.y1, box.width, box.height))


def _is_upper_left(box: Box, size: StatedSize) -> bool:
    return None not in size and 2 * box.x2 <= (size.width or 0) and 2 * box.y2 <= (size.height or 0)


def _fits_as_corners(box: Box, size: StatedSize) -> bool:
    """Return whether the numbers x, y, width, height of a box would be two corners of a box inside its image."""
    read = Box(box.x1, box.y1, box.width, box.height)
    return read.width > 0 and read.height > 0 and _excess(read, size) <= MARGIN_PX


def _advice(found: Evidence) -> str:
    if found.corners == found.outside:
        return "Their numbers fit as two corners x1, y1, x2, y2: write x, y, width, height instead, in pixels of the stored image."
    return (
        "Boxes must be x, y, width, height in pixels of the stored image: were the images resized or turned since, or are the"
        " numbers two corners or a center?"
    )

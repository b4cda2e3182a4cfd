"""Boxes are in pixels of the stored image: which boxes are refused, which counted, and which are no evidence."""

import logging
from collections.abc import Sequence

import pytest

from fineclip.boxes import from_xywh
from fineclip.errors import DataError
from fineclip.readers.boxes import FramedBoxes, StatedSize, require_no_fractions, require_pixels, require_stated_size

SIZE = StatedSize(160, 120)
INSIDE = (10, 8, 60, 40)
OUTSIDE = (150, 8, 13, 40)  # 3 px beyond the right border
FRACTION = (0.1, 0.2, 0.5, 0.25)

Xywh = tuple[float, float, float, float]


def check(boxes: Sequence[Xywh], size: StatedSize = SIZE) -> None:
    require_pixels([FramedBoxes("a.jpg", [from_xywh(*box) for box in boxes], size)], where="boxes.xml")


@pytest.mark.parametrize(
    "boxes",
    [
        [FRACTION],
        [FRACTION, (0, 0, 1, 1), (0, 0, 0, 0)],  # an empty box says nothing
        [(0.5, 0.5, 1.0, 1.0)],  # corners
        [(-0.01, 0.2, 1.02, 0.5)],  # a little outside, as computed
    ],
)
@pytest.mark.parametrize("size", [SIZE, StatedSize()])
def test_fractions_are_refused_with_and_without_a_size(boxes: Sequence[Xywh], size: StatedSize) -> None:
    with pytest.raises(DataError, match=r"boxes.xml: all boxes .* are fractions.* in a.jpg"):
        check(boxes, size)


@pytest.mark.parametrize("boxes", [[], [(0, 0, 0, 0)], [(0, 0, 2, 2)], [(3, 0, 0.5, 0.5)], [FRACTION, INSIDE]])
def test_what_is_not_all_fractions_passes(boxes: Sequence[Xywh]) -> None:
    check(boxes)


def test_a_fraction_among_pixels_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check([FRACTION, INSIDE, INSIDE])
    assert "boxes.xml: 1 of 3 boxes lie within one pixel" in caplog.text


@pytest.mark.parametrize(
    ("outside", "inside", "is_refused"),
    [(1, 0, False), (1, 1, False), (2, 0, True), (2, 17, True), (2, 18, False), (3, 26, True), (3, 27, False)],
)
def test_more_than_a_tenth_and_at_least_two_beyond_the_border(outside: int, inside: int, is_refused: bool) -> None:
    boxes = [OUTSIDE] * outside + [INSIDE] * inside
    if not is_refused:
        check(boxes)
        return
    with pytest.raises(DataError, match=rf"{outside} of {len(boxes)} boxes .* border .* 150, 8, 13, 40 in a.jpg"):
        check(boxes)


@pytest.mark.parametrize(
    ("box", "is_outside"),
    [
        ((-2, -2, 164, 124), False),
        ((-2.5, 0, 5, 5), True),
        ((0, -2.5, 5, 5), True),
        ((158, 0, 4, 5), False),
        ((158, 0, 4.5, 5), True),
        ((0, 118, 5, 4.5), True),
        ((500, 10, -5, 5), True),  # a negative width
        ((10, 10, -15, 5), True),
        ((500, 10, 0, 0), True),
    ],
)
def test_each_side_has_a_margin_of_two_pixels(box: Xywh, is_outside: bool) -> None:
    if is_outside:
        with pytest.raises(DataError, match="border"):
            check([box, box])
    else:
        check([box, box])


def test_a_file_whose_images_are_not_read_may_have_boxes_beyond_the_border(caplog: pytest.LogCaptureFixture) -> None:
    images = [FramedBoxes("a.jpg", [from_xywh(*OUTSIDE)] * 3, SIZE)]
    with caplog.at_level(logging.WARNING):
        assert require_no_fractions(images, where="x.json").are_beyond_the_border
    assert "x.json: 3 of 3 boxes extend more than 2 px beyond the border" in caplog.text
    with pytest.raises(DataError, match="x.json: all boxes .* fractions"):
        require_no_fractions([FramedBoxes("a.jpg", [from_xywh(*FRACTION)])], where="x.json")


def test_a_side_that_is_not_stated_is_not_compared() -> None:
    check([(500, 100, 60, 20)] * 5, StatedSize(None, 120))
    with pytest.raises(DataError, match=r"border.*\(\? x 120 px\)"):
        check([(500, 100, 60, 30)] * 5, StatedSize(None, 120))


def test_corners_are_recognized() -> None:
    boxes = [(70, 50, 130, 100), (90, 20, 140, 50), INSIDE]
    with pytest.raises(DataError, match="fit as two corners"):
        check(boxes)
    with pytest.raises(DataError, match="resized or turned"):
        check([OUTSIDE, OUTSIDE])


def test_evidence_is_that_of_all_images() -> None:
    images = [FramedBoxes(f"{n}.jpg", [from_xywh(*(OUTSIDE if n in (3, 4) else INSIDE))], SIZE) for n in range(10)]
    with pytest.raises(DataError, match=r"2 of 10 .* in 3.jpg \(160 x 120 px\)"):
        require_pixels(images, where="x")


def test_images_beyond_are_counted_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check([OUTSIDE] + [INSIDE] * 20)
    assert "1 of 21 boxes extend more than 2 px beyond the border" in caplog.text


@pytest.mark.parametrize(
    ("count", "last", "is_warned"),
    [(20, None, True), (19, None, False), (20, INSIDE, True), (20, (81, 0, 9, 9), False)],
)
def test_boxes_that_may_be_of_smaller_images_are_warned_of(
    count: int, last: Xywh | None, is_warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        check([(10, 10, 70, 50)] * count + ([last] if last else []))
    assert ("boxes lie in the upper left quarter" in caplog.text) is is_warned


@pytest.mark.parametrize(
    ("stated", "is_other"),
    [((160, 120), False), ((120, 160), True), ((160, None), False), ((161, None), True), ((None, None), False)],
)
def test_a_benchmark_image_has_its_stated_size(stated: tuple[int | None, int | None], is_other: bool) -> None:
    size = StatedSize(*stated)
    assert size.is_other_than(160, 120) == is_other
    if is_other:
        with pytest.raises(DataError, match=r"val/1.jpg: is stored with 160 x 120 px, but p.json states"):
            require_stated_size(size, SIZE, image="val/1.jpg", where="p.json")
    else:
        require_stated_size(size, SIZE, image="val/1.jpg", where="p.json")

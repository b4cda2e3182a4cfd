"""Geometry of boxes, by hand-computed numbers."""

import pytest

from fineclip.boxes import Letterbox, clip, clip_and_round, enlarge, fractions, from_xywh, rejection_reason
from fineclip.types import Box


def test_a_corner_and_a_size_become_edges() -> None:
    assert from_xywh(1.5, -2, 3, 4) == Box(1.5, -2, 4.5, 2)


def test_a_box_is_clipped_to_its_image_and_may_become_empty() -> None:
    assert clip(Box(-1, 2.5, 30, 5), 20, 10) == (0, 2.5, 20, 5)
    outside = clip(Box(25, 0, 30, 5), 20, 10)
    assert outside.width < 0 < outside.height


def test_a_clipped_box_is_rounded_to_hundredths() -> None:
    assert clip_and_round(Box(-0.004, 1.004, 3.3349, 99.999), 20, 10) == (0, 1.0, 3.33, 10)


def test_a_box_is_enlarged_around_its_center() -> None:
    assert enlarge(Box(10, 10, 20, 14), 1.5) == (7.5, 9, 22.5, 15)
    assert enlarge(Box(1, 2, 3, 4), 1) == (1, 2, 3, 4)


def test_fractions_are_of_width_and_height() -> None:
    assert fractions(Box(5, 5, 10, 10), 20, 10) == (0.25, 0.5, 0.5, 1)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        (Box(0, 0, 10, 10), None),
        (Box(0, 0, 5, 10), None),
        (Box(0, 0, 4.99, 10), "smaller than 5 px"),
        (Box(0, 0, 10, 20), None),
        (Box(0, 0, 20.01, 6), "larger than 20 px"),
        (Box(3, 3, 3, 9), "outside the image or empty"),
        (Box(5, 0, 3, 9), "outside the image or empty"),
    ],
)
def test_why_a_box_is_left_out(box: Box, reason: str | None) -> None:
    assert rejection_reason(box, min_side_px=5, max_side_px=20) == reason


def test_an_empty_box_is_left_out_whatever_the_limits() -> None:
    assert rejection_reason(Box(3, 3, 3, 9), min_side_px=0) == "outside the image or empty"
    assert rejection_reason(Box(0, 0, 0.01, 1e6), min_side_px=0) is None


def test_a_box_of_a_square_comes_back_to_its_image() -> None:
    place = Letterbox(0.5, 0.25, left=10, top=20)
    assert place.to_image(Box(10, 20, 20, 30)) == (0, 0, 20, 40)

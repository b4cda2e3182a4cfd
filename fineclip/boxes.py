"""Geometry of boxes: convert, clip, round, enlarge, fractions, and the way back from a letterboxed square. No torch.

Boxes are `Box(x1, y1, x2, y2)` in pixels of the stored image with half-open edges, unless a function states otherwise.
"""

from typing import NamedTuple

from fineclip.types import Box

DECIMALS = 2  # tables hold hundredths of a pixel

Fractions = tuple[float, float, float, float]


def from_xywh(x: float, y: float, width: float, height: float) -> Box:
    """Return the box of a corner and a size, as COCO states it.

    Args:
        x: Left edge in pixels.
        y: Upper edge in pixels.
        width: Width in pixels; a negative one gives an empty box.
        height: Height in pixels, likewise.

    Returns:
        Box that is neither clipped nor rounded.
    """
    return Box(x, y, x + width, y + height)


def clip(box: Box, width: float, height: float) -> Box:
    """Return the part of a box inside an image of `width` x `height` pixels. It may be empty.

    Args:
        box: Box in pixels.
        width: Width of the image in pixels.
        height: Height of the image in pixels.

    Returns:
        Box whose edges are in the image, or an empty one with x2 <= x1 or y2 <= y1.

    Examples:
        >>> clip(Box(-1, 2, 30, 5), 20, 10)
        Box(x1=0.0, y1=2, x2=20.0, y2=5)
    """
    return Box(max(0.0, box.x1), max(0.0, box.y1), min(float(width), box.x2), min(float(height), box.y2))


def clip_and_round(box: Box, width: float, height: float) -> Box:
    """Return the clipped box in hundredths of a pixel, as every table holds it. It may be empty."""
    return Box(*(round(edge, DECIMALS) for edge in clip(box, width, height)))


def enlarge(box: Box, factor: float) -> Box:
    """Return the box with the same center, `factor` times as wide and as high. It may reach outside the image."""
    grow_x, grow_y = box.width * (factor - 1) / 2, box.height * (factor - 1) / 2
    return Box(box.x1 - grow_x, box.y1 - grow_y, box.x2 + grow_x, box.y2 + grow_y)


def fractions(box: Box, width: float, height: float) -> Fractions:
    """Return the edges as fractions of a rectangle of `width` x `height` pixels."""
    return box.x1 / width, box.y1 / height, box.x2 / width, box.y2 / height


def from_fractions(edges: Fractions | Box, width: float, height: float) -> Box:
    """Return the box in pixels of edges that are fractions of a rectangle of `width` x `height` pixels."""
    x1, y1, x2, y2 = edges
    return Box(x1 * width, y1 * height, x2 * width, y2 * height)


def rejection_reason(box: Box, *, min_side_px: float, max_side_px: float | None = None) -> str | None:
    """Return the reason to skip a clipped box, as a phrase for the log, or None for a box that is kept.

    Args:
        box: A box after `clip_and_round`. An empty one is always skipped.
        min_side_px: Least length of the shorter side.
        max_side_px: Greatest length of the longer side; None sets no limit.

    Returns:
        Phrase such as `smaller than 8 px`, or None.
    """
    shorter, longer = sorted((box.width, box.height))
    if shorter <= 0:
        return "outside the image or empty"
    if shorter < min_side_px:
        return f"smaller than {min_side_px:g} px"
    if max_side_px is not None and longer > max_side_px:
        return f"larger than {max_side_px:g} px"
    return None


class Letterbox(NamedTuple):
    """Placement of an image in a square: pixels of the square per pixel of the image, and its top left corner."""

    scale_x: float
    scale_y: float
    left: int
    top: int

    def to_image(self, box: Box) -> Box:
        """Return a box of the square in pixels of the image. It may reach outside the image."""
        left, top = self.left, self.top
        return Box(
            (box.x1 - left) / self.scale_x,
            (box.y1 - top) / self.scale_y,
            (box.x2 - left) / self.scale_x,
            (box.y2 - top) / self.scale_y,
        )

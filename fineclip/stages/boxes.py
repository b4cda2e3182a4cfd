"""Boxes as the tables hold them: in pixels of the stored image, in hundredths, clipped to it."""

from fineclip.types import Box

DECIMALS = 2


def stored(box: Box, *, width: int, height: int) -> Box:
    """The part of a box inside an image of that size, in hundredths; may be empty."""
    return Box(*(round(edge, DECIMALS) for edge in box.clipped(width, height)))


def fault(box: Box, *, min_side_px: float, max_side_px: float | None = None) -> str | None:
    """Why a stored box is left out, in words for the log; None for a good one."""
    shorter, longer = sorted((box.width, box.height))
    if shorter <= 0:
        return "outside the image or empty"
    if shorter < min_side_px:
        return f"smaller than {min_side_px:g} px"
    if max_side_px is not None and longer > max_side_px:
        return f"larger than {max_side_px:g} px"
    return None

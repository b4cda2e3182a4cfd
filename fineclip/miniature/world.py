"""Content of a scene of the miniature world: things, stuff, pixels and captions.

Legend: H W pixels.
"""

from dataclasses import dataclass

import numpy as np

IntBox = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Thing:
    """A thing in a scene.

    Attributes:
        label: One of the 20 classes of things.
        color: One of the 9 colors.
        box: x1, y1, x2, y2 in pixels, half-open, tight around its visible pixels.
        ground: Label of the stuff below its lower edge.
        segment_id: Its value in the panoptic map.
        area: Number of its visible pixels.
    """

    label: str
    color: str
    box: IntBox
    ground: str
    segment_id: int
    area: int


@dataclass(frozen=True, slots=True)
class Stuff:
    """A region of stuff.

    Attributes:
        label: One of the 6 classes of stuff.
        box: x1, y1, x2, y2 in pixels, half-open, tight around its visible pixels.
        segment_id: Its value in the panoptic map.
    """

    label: str
    box: IntBox
    segment_id: int


@dataclass(frozen=True, slots=True)
class Scene:
    """A scene and its annotations.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        panoptic: (H, W) uint8 segment ids. Pixels of mostly hidden things are 0.
        things: Without mostly hidden things.
        stuff: From top to bottom.
        alt: Noisy text in the style of web alt texts.
        clean: Complete caption in the style of COCO.
    """

    pixels: np.ndarray
    panoptic: np.ndarray
    things: tuple[Thing, ...]
    stuff: tuple[Stuff, ...]
    alt: str
    clean: str

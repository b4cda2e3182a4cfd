"""Shapes of the twenty kinds of things, and their nine colors.

A shape is a list of polygons in a square of -1 to 1, y downwards, painted in order. Each polygon has a paint and corners, (N, 2):

    main            the color of the thing
    shade, shine    that color, darker or lighter
    hole            cuts through everything painted before
    black, …        a color that does not depend on the thing's
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

COLOR_RGB: Mapping[str, tuple[int, int, int]] = {
    "red": (205, 40, 40),
    "orange": (240, 140, 30),
    "yellow": (240, 220, 50),
    "green": (45, 150, 60),
    "blue": (45, 85, 205),
    "purple": (135, 60, 170),
    "pink": (245, 140, 185),
    "white": (240, 240, 240),
    "black": (35, 35, 40),
}
COLORS: tuple[str, ...] = tuple(COLOR_RGB)

FIXED_RGBA: Mapping[str, tuple[int, int, int, int]] = {
    "hole": (0, 0, 0, 0),
    "black": (25, 25, 28, 255),
    "white": (235, 235, 235, 255),
    "brown": (120, 80, 45, 255),
    "green": (40, 130, 50, 255),
    "yellow": (245, 205, 60, 255),
    "orange": (240, 150, 40, 255),
}

SUPERSAMPLING = 3  # a thing is painted this much larger and averaged down, for smooth edges


def ellipse(
    x: float = 0.0,
    y: float = 0.0,
    radius: float = 1.0,
    radius_y: float | None = None,
    *,
    turn: tuple[float, float] = (0.0, 2 * math.pi),
    corners: int = 22,
) -> np.ndarray:
    """Return a polygon that approximates an ellipse or an arc of one.

    Args:
        x: Center, in units of the sprite.
        y: Center, downward.
        radius: Horizontal radius.
        radius_y: Vertical radius; None: `radius`.
        turn: First and last angle in radians, clockwise from the right.
        corners: Number of corners.

    Returns:
        (corners, 2) x and y.
    """
    whole = abs(turn[1] - turn[0]) >= 6.28
    angle = np.linspace(turn[0], turn[1], corners, endpoint=not whole)
    return np.stack([x + radius * np.cos(angle), y + (radius_y or radius) * np.sin(angle)], axis=1)


def rectangle(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    """Return the four corners of a rectangle.

    Args:
        x1: Left edge, in units of the sprite.
        y1: Upper edge.
        x2: Right edge.
        y2: Lower edge.

    Returns:
        (4, 2) x and y, clockwise from the upper left.
    """
    return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])


def five_pointed_star() -> np.ndarray:
    """Return a star of ten corners, one point upwards."""
    angle = np.arange(10) * math.pi / 5 - math.pi / 2
    radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def heart_curve() -> np.ndarray:
    """Return a heart of 28 corners."""
    t = np.linspace(0, 2 * math.pi, 28, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], axis=1) / 17


def crescent() -> np.ndarray:
    """Return a crescent: an outer arc and an inner one backwards."""
    outer = ellipse(turn=(0.6, 2 * math.pi - 0.6))
    inner = ellipse(0.55, 0, 0.62, turn=(2 * math.pi - 1.1, 1.1), corners=14)
    return np.concatenate([outer, inner])


_UPPER_HALF = (math.pi, 2 * math.pi - 1e-3)
_SIXTHS = [turn * math.pi / 3 for turn in range(6)]  # of a full turn, in radians
_PLUS = (
    (-0.33, -1), (0.33, -1), (0.33, -0.33), (1, -0.33), (1, 0.33), (0.33, 0.33),
    (0.33, 1), (-0.33, 1), (-0.33, 0.33), (-1, 0.33), (-1, -0.33), (-0.33, -0.33),
)  # fmt: skip
_BELL = ((-0.9, 0.7), (-0.6, 0.3), (-0.5, -0.4), (-0.25, -0.85), (0.25, -0.85), (0.5, -0.4), (0.6, 0.3), (0.9, 0.7))

SHAPES: Mapping[str, list[tuple[str, ArrayLike]]] = {
    "ball": [("main", ellipse()), ("shine", ellipse(-0.35, -0.35, 0.25))],
    "star": [("main", five_pointed_star())],
    "heart": [("main", heart_curve())],
    "tree": [("brown", rectangle(-0.15, 0.3, 0.15, 1)), ("main", ellipse(0, -0.25, 0.75))],
    "house": [
        ("main", rectangle(-0.8, -0.1, 0.8, 1)),
        ("shade", [(-1, -0.1), (0, -1), (1, -0.1)]),
        ("black", rectangle(-0.2, 0.4, 0.2, 1)),
        ("white", rectangle(0.35, 0.15, 0.65, 0.45)),
    ],
    "car": [
        ("main", rectangle(-1, -0.05, 1, 0.45)),
        ("main", [(-0.6, -0.05), (-0.35, -0.5), (0.35, -0.5), (0.6, -0.05)]),
        ("white", rectangle(-0.3, -0.4, 0.3, -0.1)),
        ("black", ellipse(-0.55, 0.45, 0.25)),
        ("black", ellipse(0.55, 0.45, 0.25)),
    ],
    "boat": [
        ("main", [(-1, 0.35), (1, 0.35), (0.65, 0.9), (-0.65, 0.9)]),
        ("brown", rectangle(-0.06, -1, 0.06, 0.35)),
        ("white", [(0.1, -0.9), (0.85, 0.2), (0.1, 0.2)]),
    ],
    "fish": [
        ("main", ellipse(-0.15, 0, 0.75, 0.5)),
        ("shade", [(0.45, 0), (1, -0.5), (1, 0.5)]),
        ("black", ellipse(-0.5, -0.12, 0.1)),
    ],
    "flower": [
        ("green", rectangle(-0.07, 0.2, 0.07, 1)),
        *(("main", ellipse(0.48 * math.cos(turn), -0.3 + 0.48 * math.sin(turn), 0.3)) for turn in _SIXTHS),
        ("yellow", ellipse(0, -0.3, 0.26)),
    ],
    "mushroom": [
        ("white", rectangle(-0.28, 0, 0.28, 0.95)),
        ("main", ellipse(0, 0.05, 0.95, turn=_UPPER_HALF)),
        ("white", ellipse(-0.4, -0.4, 0.15)),
        ("white", ellipse(0.35, -0.35, 0.15)),
    ],
    "cup": [
        ("shade", ellipse(0.6, 0, 0.42)),
        ("hole", ellipse(0.6, 0, 0.22)),
        ("main", [(-0.8, -0.7), (0.55, -0.7), (0.4, 0.8), (-0.65, 0.8)]),
    ],
    "umbrella": [
        ("black", rectangle(-0.05, -0.2, 0.05, 1)),
        ("main", ellipse(0, 0, 1, 0.85, turn=_UPPER_HALF)),
        ("shade", [(-0.33, 0), (0, -0.85), (0.33, 0)]),
    ],
    "kite": [
        ("main", [(0, -1), (0.6, -0.2), (0, 0.6), (-0.6, -0.2)]),
        ("shine", [(0, -1), (0.6, -0.2), (0, -0.2)]),
        ("shade", [(0, 0.6), (0.2, 1), (-0.2, 1)]),
    ],
    "ring": [("main", ellipse()), ("hole", ellipse(0, 0, 0.58))],
    "cross": [("main", _PLUS)],
    "arrow": [("main", [(-1, -0.22), (0.1, -0.22), (0.1, -0.65), (1, 0), (0.1, 0.65), (0.1, 0.22), (-1, 0.22)])],
    "moon": [("main", crescent())],
    "bell": [("black", ellipse(0, 0.75, 0.2)), ("main", _BELL)],
    "bottle": [
        ("shade", rectangle(-0.15, -1, 0.15, -0.5)),
        ("main", [(-0.15, -0.5), (0.15, -0.5), (0.4, -0.15), (0.4, 1), (-0.4, 1), (-0.4, -0.15)]),
        ("white", rectangle(-0.4, 0.1, 0.4, 0.55)),
    ],
    "bird": [
        ("main", ellipse(0, 0.1, 0.65, 0.45)),
        ("main", ellipse(-0.6, -0.25, 0.32)),
        ("orange", [(-0.88, -0.3), (-1.1, -0.15), (-0.85, -0.12)]),
        ("shade", [(-0.1, 0), (0.6, -0.6), (0.5, 0.15)]),
        ("shade", [(0.5, 0.1), (1, -0.1), (0.95, 0.35)]),
        ("black", ellipse(-0.68, -0.32, 0.07)),
    ],
}
THINGS: tuple[str, ...] = tuple(SHAPES)


def paint(
    label: str, color: np.ndarray, transform: np.ndarray, center: tuple[float, float]
) -> tuple[Image.Image, tuple[int, int]]:
    """Paint one thing.

    Args:
        label: One of `THINGS`.
        color: (3,) RGB from 0 to 255.
        transform: (2, 2) from the square of the shape to pixels.
        center: In pixels of the scene.

    Returns:
        RGBA image, and the position of its upper left corner in the scene, in pixels.
    """
    varying = {"main": color, "shade": color * 0.68, "shine": color * 0.45 + 255 * 0.55}
    fills = {**FIXED_RGBA, **{name: (*map(int, rgb), 255) for name, rgb in varying.items()}}
    placed = [(fills[name], np.asarray(corners) @ transform.T + center) for name, corners in SHAPES[label]]
    everything = np.concatenate([corners for _, corners in placed])
    left, top = (np.floor(everything.min(axis=0)).astype(int) - 1).tolist()
    width, height = (np.ceil(everything.max(axis=0)).astype(int) + 2 - (left, top)).tolist()
    canvas = Image.new("RGBA", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    for fill, corners in placed:
        draw.polygon(((corners - (left, top)) * SUPERSAMPLING).ravel().tolist(), fill)
    return canvas.reduce(SUPERSAMPLING), (left, top)

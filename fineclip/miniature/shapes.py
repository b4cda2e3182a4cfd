"""Shapes of the twenty kinds of things, and their nine colors.

A shape is a list of polygons in a square of -1 to 1, y downwards, painted in order. Each polygon has a paint:

    main            the color of the thing
    shade, shine    that color, darker or lighter
    hole            cuts through everything painted before
    black, …        a color that does not depend on the thing's
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

RGB = tuple[int, int, int]

COLOR_RGB: Mapping[str, RGB] = {
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

FIXED_RGB: Mapping[str, RGB] = {
    "black": (25, 25, 28),
    "white": (235, 235, 235),
    "brown": (120, 80, 45),
    "green": (40, 130, 50),
    "yellow": (245, 205, 60),
    "orange": (240, 150, 40),
}

SUPERSAMPLING = 3  # a thing is painted this much larger and averaged down, for smooth edges


class Part(NamedTuple):
    """One polygon, (N, 2) corners, and its paint."""

    corners: np.ndarray
    paint: str


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
    return polygon((x1, y1), (x2, y1), (x2, y2), (x1, y2))


def polygon(*corners: tuple[float, float]) -> np.ndarray:
    """Return corners as an array."""
    return np.array(corners, dtype=float)


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


UPPER_HALF = (math.pi, 2 * math.pi - 1e-3)
_PETALS = [
    Part(ellipse(0.48 * math.cos(angle), -0.3 + 0.48 * math.sin(angle), 0.3), "main")
    for angle in (turn * math.pi / 3 for turn in range(6))
]
_PLUS = (
    (-0.33, -1), (0.33, -1), (0.33, -0.33), (1, -0.33), (1, 0.33), (0.33, 0.33),
    (0.33, 1), (-0.33, 1), (-0.33, 0.33), (-1, 0.33), (-1, -0.33), (-0.33, -0.33),
)  # fmt: skip
_BELL = ((-0.9, 0.7), (-0.6, 0.3), (-0.5, -0.4), (-0.25, -0.85), (0.25, -0.85), (0.5, -0.4), (0.6, 0.3), (0.9, 0.7))
_BOTTLE = ((-0.15, -0.5), (0.15, -0.5), (0.4, -0.15), (0.4, 1), (-0.4, 1), (-0.4, -0.15))

SHAPES: Mapping[str, list[Part]] = {
    "ball": [Part(ellipse(), "main"), Part(ellipse(-0.35, -0.35, 0.25), "shine")],
    "star": [Part(five_pointed_star(), "main")],
    "heart": [Part(heart_curve(), "main")],
    "tree": [Part(rectangle(-0.15, 0.3, 0.15, 1), "brown"), Part(ellipse(0, -0.25, 0.75), "main")],
    "house": [
        Part(rectangle(-0.8, -0.1, 0.8, 1), "main"),
        Part(polygon((-1, -0.1), (0, -1), (1, -0.1)), "shade"),
        Part(rectangle(-0.2, 0.4, 0.2, 1), "black"),
        Part(rectangle(0.35, 0.15, 0.65, 0.45), "white"),
    ],
    "car": [
        Part(rectangle(-1, -0.05, 1, 0.45), "main"),
        Part(polygon((-0.6, -0.05), (-0.35, -0.5), (0.35, -0.5), (0.6, -0.05)), "main"),
        Part(rectangle(-0.3, -0.4, 0.3, -0.1), "white"),
        Part(ellipse(-0.55, 0.45, 0.25), "black"),
        Part(ellipse(0.55, 0.45, 0.25), "black"),
    ],
    "boat": [
        Part(polygon((-1, 0.35), (1, 0.35), (0.65, 0.9), (-0.65, 0.9)), "main"),
        Part(rectangle(-0.06, -1, 0.06, 0.35), "brown"),
        Part(polygon((0.1, -0.9), (0.85, 0.2), (0.1, 0.2)), "white"),
    ],
    "fish": [
        Part(ellipse(-0.15, 0, 0.75, 0.5), "main"),
        Part(polygon((0.45, 0), (1, -0.5), (1, 0.5)), "shade"),
        Part(ellipse(-0.5, -0.12, 0.1), "black"),
    ],
    "flower": [
        Part(rectangle(-0.07, 0.2, 0.07, 1), "green"),
        *_PETALS,
        Part(ellipse(0, -0.3, 0.26), "yellow"),
    ],
    "mushroom": [
        Part(rectangle(-0.28, 0, 0.28, 0.95), "white"),
        Part(ellipse(0, 0.05, 0.95, turn=UPPER_HALF), "main"),
        Part(ellipse(-0.4, -0.4, 0.15), "white"),
        Part(ellipse(0.35, -0.35, 0.15), "white"),
    ],
    "cup": [
        Part(ellipse(0.6, 0, 0.42), "shade"),
        Part(ellipse(0.6, 0, 0.22), "hole"),
        Part(polygon((-0.8, -0.7), (0.55, -0.7), (0.4, 0.8), (-0.65, 0.8)), "main"),
    ],
    "umbrella": [
        Part(rectangle(-0.05, -0.2, 0.05, 1), "black"),
        Part(ellipse(0, 0, 1, 0.85, turn=UPPER_HALF), "main"),
        Part(polygon((-0.33, 0), (0, -0.85), (0.33, 0)), "shade"),
    ],
    "kite": [
        Part(polygon((0, -1), (0.6, -0.2), (0, 0.6), (-0.6, -0.2)), "main"),
        Part(polygon((0, -1), (0.6, -0.2), (0, -0.2)), "shine"),
        Part(polygon((0, 0.6), (0.2, 1), (-0.2, 1)), "shade"),
    ],
    "ring": [Part(ellipse(), "main"), Part(ellipse(0, 0, 0.58), "hole")],
    "cross": [Part(polygon(*_PLUS), "main")],
    "arrow": [
        Part(polygon((-1, -0.22), (0.1, -0.22), (0.1, -0.65), (1, 0), (0.1, 0.65), (0.1, 0.22), (-1, 0.22)), "main")
    ],
    "moon": [Part(crescent(), "main")],
    "bell": [Part(ellipse(0, 0.75, 0.2), "black"), Part(polygon(*_BELL), "main")],
    "bottle": [
        Part(rectangle(-0.15, -1, 0.15, -0.5), "shade"),
        Part(polygon(*_BOTTLE), "main"),
        Part(rectangle(-0.4, 0.1, 0.4, 0.55), "white"),
    ],
    "bird": [
        Part(ellipse(0, 0.1, 0.65, 0.45), "main"),
        Part(ellipse(-0.6, -0.25, 0.32), "main"),
        Part(polygon((-0.88, -0.3), (-1.1, -0.15), (-0.85, -0.12)), "orange"),
        Part(polygon((-0.1, 0), (0.6, -0.6), (0.5, 0.15)), "shade"),
        Part(polygon((0.5, 0.1), (1, -0.1), (0.95, 0.35)), "shade"),
        Part(ellipse(-0.68, -0.32, 0.07), "black"),
    ],
}
THINGS: tuple[str, ...] = tuple(SHAPES)


class Sprite(NamedTuple):
    """A painted thing: an RGBA image and the position of its upper left corner in the scene, in pixels."""

    image: Image.Image
    left: int
    top: int


def paint(label: str, color: np.ndarray, transform: np.ndarray, center: tuple[float, float]) -> Sprite:
    """Paint one thing.

    Args:
        label: One of `THINGS`.
        color: (3,) RGB from 0 to 255.
        transform: (2, 2) from the square of the shape to pixels.
        center: In pixels of the scene.

    Returns:
        RGBA image and its position.
    """
    placed = [(part.corners @ transform.T + center, part.paint) for part in SHAPES[label]]
    corners = np.concatenate([corners for corners, _ in placed])
    left, top = (math.floor(value) - 1 for value in corners.min(axis=0))
    width, height = (math.ceil(high) + 2 - low for high, low in zip(corners.max(axis=0), (left, top), strict=True))
    canvas = Image.new("RGBA", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    for corners, paint_name in placed:
        outline = ((corners - (left, top)) * SUPERSAMPLING).ravel().tolist()
        draw.polygon(outline, fill=_fill(paint_name, color))
    return Sprite(canvas.reduce(SUPERSAMPLING), left, top)


def _fill(paint_name: str, color: np.ndarray) -> tuple[int, int, int, int]:
    if paint_name == "hole":
        return (0, 0, 0, 0)
    varying = {"main": color, "shade": color * 0.68, "shine": color * 0.45 + 255 * 0.55}
    red, green, blue = varying[paint_name] if paint_name in varying else FIXED_RGB[paint_name]
    return (int(red), int(green), int(blue), 255)

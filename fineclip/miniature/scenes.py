"""Scenes of the miniature world: drawn images of colored things on textured stuff, with boxes, panoptic maps and captions.

A scene is a pure function of seed and index.

Legend: H W pixels.
"""

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from fineclip.miniature.shapes import COLOR_RGB, COLORS, THINGS, paint
from fineclip.miniature.textures import STUFF, texture
from fineclip.miniature.wording import alt_text, clean_caption
from fineclip.miniature.world import IntBox, Scene, Stuff, Thing

CLASSES: tuple[str, ...] = THINGS + STUFF

MIN_SIDE_PX, MAX_SIDE_PX = 128, 224
LAYOUTS: tuple[tuple[str, ...], ...] = (  # from top to bottom
    ("sky", "grass"),
    ("sky", "sand"),
    ("sky", "water"),
    ("sky", "road"),
    ("wall", "road"),
    ("wall", "grass"),
    ("water", "sand"),
    ("sky",),
    ("grass",),
    ("sand",),
    ("water",),
    ("wall",),
)
CLOSE_UP_SHARE = 0.18  # share of scenes with one large thing
CLOSE_UP_RADIUS = (0.20, 0.45)  # of the shorter side
RADIUS = (0.085, 0.23)  # of the shorter side, in a scene of several things
MOST_THINGS = 6
PLACEMENT_TRIES = 12
MIN_VISIBLE_SHARE = 0.45  # of its area; less visible things are left out
MIN_VISIBLE_PX = 20
# Segment ids: 0 none, 1 and up things, 200 and up stuff.
STUFF_IDS: Mapping[str, int] = {label: index for index, label in enumerate(STUFF, start=200)}
JPEG_QUALITY = 88


def draw_scene(seed: int, index: int) -> Scene:
    """Draw scene `index` of collection `seed`."""
    generator = np.random.default_rng([seed, index])
    width = int(generator.integers(MIN_SIDE_PX, MAX_SIDE_PX))
    height = int(np.clip(width * generator.uniform(0.72, 1.3), MIN_SIDE_PX, MAX_SIDE_PX))
    layout = LAYOUTS[generator.integers(len(LAYOUTS))]
    horizon = int(height * generator.uniform(0.3, 0.65)) if len(layout) == 2 else height
    picture, panoptic = _backdrop(layout, horizon, (height, width), generator)
    drawn = _draw_things(picture, panoptic, generator)
    panoptic_HW = np.array(panoptic)
    things = _visible_things(drawn, panoptic_HW, layout, horizon)
    stuff = tuple(Stuff(label, _tight_box(panoptic_HW == STUFF_IDS[label]), STUFF_IDS[label]) for label in layout)
    pixels_HW3 = _expose(picture, generator)
    alt = alt_text(things, layout[-1], generator)
    return Scene(pixels_HW3, panoptic_HW, things, stuff, alt, clean_caption(things, layout[-1]))


def jpeg(scene: Scene) -> bytes:
    """Encode a scene as JPEG of quality 88."""
    return encode_jpeg(Image.fromarray(scene.pixels))


def encode_jpeg(image: Image.Image) -> bytes:
    """Encode an image as JPEG of quality 88."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _backdrop(
    layout: tuple[str, ...], horizon: int, size: tuple[int, int], generator: np.random.Generator
) -> tuple[Image.Image, Image.Image]:
    """Draw the stuff of a scene as RGB image and panoptic map."""
    height, width = size
    pixels_HW3 = np.empty((height, width, 3), dtype=np.uint8)
    panoptic_HW = np.empty((height, width), dtype=np.uint8)
    for label, top, bottom in zip(layout, (0, horizon), (horizon, height), strict=False):
        pixels_HW3[top:bottom] = texture(label, bottom - top, width, generator)
        panoptic_HW[top:bottom] = STUFF_IDS[label]
    return Image.fromarray(pixels_HW3), Image.fromarray(panoptic_HW)


def _draw_things(
    picture: Image.Image, panoptic: Image.Image, generator: np.random.Generator
) -> list[tuple[str, str, int]]:
    """Draw one large thing or several smaller ones into both images, in place.

    Args:
        picture: RGB.
        panoptic: Segment ids; the first thing has 1.
        generator: Source of all random draws.

    Returns:
        Label and color of each thing, and its number of pixels before other things were drawn over it.
    """
    shorter = min(picture.size)
    alone = generator.random() < CLOSE_UP_SHARE
    drawn: list[tuple[str, str, int]] = []
    taken: list[tuple[float, float, float]] = []
    for _ in range(1 if alone else int(generator.integers(2, MOST_THINGS + 1))):
        label, color = THINGS[generator.integers(len(THINGS))], COLORS[generator.integers(len(COLORS))]
        radius = shorter * _radius_share(alone, generator)
        center = _free_place(radius, picture.size, taken, generator)
        if center is None:
            continue
        taken.append((*center, radius))
        rgb = np.clip(np.array(COLOR_RGB[color]) + generator.uniform(-16, 16, 3), 0, 255)
        sprite, corner = paint(label, rgb, _random_transform(radius, generator), center)
        alpha, segment_id = sprite.getchannel("A"), len(drawn) + 1
        picture.paste(sprite, corner, alpha)
        panoptic.paste(segment_id, corner, alpha.point(_OPAQUE))
        drawn.append((label, color, panoptic.histogram()[segment_id]))
    return drawn


_OPAQUE = [0] * 128 + [255] * 128  # a pixel belongs to a thing that covers more than half of it


def _radius_share(alone: bool, generator: np.random.Generator) -> float:
    if alone:
        return generator.uniform(*CLOSE_UP_RADIUS)
    low, high = RADIUS
    return math.exp(generator.uniform(math.log(low), math.log(high)))


def _free_place(
    radius: float,
    size: tuple[int, int],
    taken: list[tuple[float, float, float]],
    generator: np.random.Generator,
) -> tuple[float, float] | None:
    """Draw a center for a thing inside the image with little overlap, or None after too many tries."""
    width, height = size
    for _ in range(PLACEMENT_TRIES):
        x, y = generator.uniform(radius, width - radius), generator.uniform(radius, height - radius)
        if all(math.hypot(x - other_x, y - other_y) > 0.85 * (radius + other) for other_x, other_y, other in taken):
            return x, y
    return None


def _random_transform(radius: float, generator: np.random.Generator) -> np.ndarray:
    """Draw a (2, 2) matrix from shape to pixels: small rotation, aspect ratio of 0.85 to 1.15, mirrored half the time."""
    tilt, proportion = generator.normal(0, 0.18), generator.uniform(0.85, 1.15)
    mirror = -1 if generator.random() < 0.5 else 1
    rotation = np.array([[math.cos(tilt), -math.sin(tilt)], [math.sin(tilt), math.cos(tilt)]])
    return rotation * [radius * proportion * mirror, radius / proportion]


def _visible_things(
    drawn: Sequence[tuple[str, str, int]], panoptic_HW: np.ndarray, layout: tuple[str, ...], horizon: int
) -> tuple[Thing, ...]:
    """Return things that are visible enough; set the others to 0 in the panoptic map."""
    things = []
    for segment_id, (label, color, drawn_area) in enumerate(drawn, start=1):
        mask_HW = panoptic_HW == segment_id
        area = int(mask_HW.sum())
        if area < max(MIN_VISIBLE_PX, MIN_VISIBLE_SHARE * drawn_area):
            panoptic_HW[mask_HW] = 0
            continue
        box = _tight_box(mask_HW)
        stands_below = min(len(panoptic_HW) - 1, box[3]) > horizon + 2
        things.append(Thing(label, color, box, layout[-1 if stands_below else 0], segment_id, area))
    return tuple(things)


def _tight_box(mask_HW: np.ndarray) -> IntBox:
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _expose(picture: Image.Image, generator: np.random.Generator) -> np.ndarray:
    """Apply exposure and sensor noise; (H, W, 3) uint8."""
    exposure = np.float32(generator.uniform(0.8, 1.15))
    noise_HW = 4 * generator.standard_normal((picture.height, picture.width), dtype=np.float32)
    exposed_HW3 = np.asarray(picture, dtype=np.float32) * exposure + noise_HW[..., None]
    pixels_HW3: np.ndarray = np.clip(exposed_HW3, 0, 255).astype(np.uint8)
    return pixels_HW3

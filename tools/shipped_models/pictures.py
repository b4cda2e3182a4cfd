"""Scenes and close-ups as arrays. A close-up is a crop of one thing with some context."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain

import numpy as np
from PIL import Image

from fineclip.miniature.scenes import draw_scene
from fineclip.miniature.world import IntBox, Scene, Thing

CHUNK_SCENES = 500

FloatBox = tuple[float, float, float, float]
Frame = Callable[[IntBox, np.random.Generator], FloatBox]


@dataclass(frozen=True)
class Pictures:
    """Scenes resized to squares, and a close-up of each of their things.

    Attributes:
        scenes: (N, S, S, 3) uint8.
        close_ups: (M, s, s, 3) uint8, in the order of `things`.
        things_of_scene: Things of each of the N scenes.
    """

    scenes: np.ndarray
    close_ups: np.ndarray
    things_of_scene: Sequence[tuple[Thing, ...]]
    places: Sequence[str]

    @property
    def things(self) -> list[Thing]:
        """Things of all scenes, M in the order of the close-ups."""
        return list(chain.from_iterable(self.things_of_scene))


@dataclass(frozen=True)
class Plan:
    """Scenes to draw: `count` scenes of `seed`, sizes in pixels, and the frame of a close-up."""

    seed: int
    count: int
    scene_px: int
    close_up_px: int
    frame: Frame


def loose_frame(box: IntBox, generator: np.random.Generator) -> FloatBox:
    """Enlarge a box by up to 1.5, and make it square half the time."""
    factor, square = generator.uniform(1.0, 1.5), generator.random() < 0.5
    return _enlarged(box, factor, square, shift=(0.0, 0.0))


def square_frame(box: IntBox, _: np.random.Generator) -> FloatBox:
    """Return the square of 1.2 times the longer side, the input of the captioner."""
    return _enlarged(box, 1.2, square=True, shift=(0.0, 0.0))


def detected_frame(box: IntBox, generator: np.random.Generator) -> FloatBox:
    """Return `square_frame`, moved and scaled by up to 8 %, like the boxes of a detector."""
    shift_x, shift_y = generator.uniform(-0.08, 0.08, 2)
    return _enlarged(box, 1.2 * generator.uniform(0.92, 1.08), square=True, shift=(shift_x, shift_y))


def draw_pictures(plan: Plan, workers: int = 1) -> Pictures:
    """Draw all scenes of a plan. The result does not depend on the number of processes."""
    starts = range(0, plan.count, CHUNK_SCENES)
    if workers == 1:
        chunks = [_draw_chunk(plan, start) for start in starts]
    else:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            chunks = list(pool.map(_draw_chunk, [plan] * len(starts), starts))
    return Pictures(
        scenes=np.concatenate([chunk.scenes for chunk in chunks]),
        close_ups=np.concatenate([chunk.close_ups for chunk in chunks]),
        things_of_scene=[things for chunk in chunks for things in chunk.things_of_scene],
        places=[place for chunk in chunks for place in chunk.places],
    )


def close_up(image: Image.Image, box: FloatBox, side_px: int) -> np.ndarray:
    """Crop the part of a box inside the image, and resize it; (s, s, 3)."""
    inside = (max(0.0, box[0]), max(0.0, box[1]), min(image.width, box[2]), min(image.height, box[3]))
    return np.asarray(image.resize((side_px, side_px), Image.Resampling.BICUBIC, box=inside))


def _draw_chunk(plan: Plan, start: int) -> Pictures:
    scenes: list[Scene] = []
    resized, close_ups = [], []
    for index in range(start, min(plan.count, start + CHUNK_SCENES)):
        scene = draw_scene(plan.seed, index)
        generator = np.random.default_rng([plan.seed, index, 1])
        image = Image.fromarray(scene.pixels)
        resized.append(close_up(image, (0, 0, image.width, image.height), plan.scene_px))
        close_ups += [close_up(image, plan.frame(thing.box, generator), plan.close_up_px) for thing in scene.things]
        scenes.append(scene)
    things_of_scene = [scene.things for scene in scenes]
    return Pictures(
        np.stack(resized), np.stack(close_ups), things_of_scene, [scene.stuff[-1].label for scene in scenes]
    )


def _enlarged(box: IntBox, factor: float, square: bool, shift: tuple[float, float]) -> FloatBox:
    x1, y1, x2, y2 = box
    width, height = (max(x2 - x1, y2 - y1),) * 2 if square else (x2 - x1, y2 - y1)
    x, y = (x1 + x2) / 2 + shift[0] * (x2 - x1), (y1 + y2) / 2 + shift[1] * (y2 - y1)
    return x - width * factor / 2, y - height * factor / 2, x + width * factor / 2, y + height * factor / 2

"""Textures of the six kinds of stuff: a color, smooth variation and a grain.

Legend: H W pixels. All noise is float32, in units of one gray level of 255.
"""

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

STUFF_RGB: Mapping[str, tuple[int, int, int]] = {
    "sky": (150, 195, 235),
    "grass": (110, 165, 75),
    "sand": (222, 200, 150),
    "water": (60, 130, 170),
    "road": (120, 120, 125),
    "wall": (190, 170, 160),
}
STUFF: tuple[str, ...] = tuple(STUFF_RGB)

PATCH_PX = 16  # distance between values of the smooth variation

Grain = Callable[[int, int, np.random.Generator], np.ndarray]


def texture(label: str, height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """Draw a texture of one kind of stuff.

    Args:
        label: Kind of stuff, a key of `STUFF_RGB`.
        height: H, in pixels.
        width: W, in pixels.
        generator: Source of all random draws.

    Returns:
        (H, W, 3) float32 from 0 to 255.
    """
    base = np.array(STUFF_RGB[label], dtype=np.float32) + generator.uniform(-18, 18, 3).astype(np.float32)
    slow = slow_variation(height, width, generator) * (14.4 if label == "sky" else 9.0)
    grain_HW = slow + GRAINS[label](height, width, generator)
    return np.clip(base + grain_HW[..., None], 0, 255)


def slow_variation(height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """Draw smooth noise with a standard deviation of about 1; (H, W)."""
    coarse = generator.standard_normal((max(2, height // PATCH_PX), max(2, width // PATCH_PX)), dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def white_noise(height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """Draw independent normal values; (H, W)."""
    return generator.standard_normal((height, width), dtype=np.float32)


def running_mean(noise: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Average `length` neighbors along an axis, which becomes shorter by `length - 1`."""
    total = np.cumsum(np.insert(noise, 0, 0, axis=axis), axis=axis, dtype=np.float32)
    upper, lower = np.split(total, [length], axis=axis)[1], np.split(total, [total.shape[axis] - length], axis=axis)[0]
    return (upper - lower) / length


def _sky(height: int, width: int, _: np.random.Generator) -> np.ndarray:
    return np.broadcast_to(-np.linspace(0, 14, height, dtype=np.float32)[:, None], (height, width))


def _grass(height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    return 28 * running_mean(white_noise(height + 6, width, generator), 7, axis=0)


def _sand(height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    return 7 * white_noise(height, width, generator)


def _water(height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    waves = 6 * np.sin(np.arange(height, dtype=np.float32) / 2.2)[:, None]
    moving: np.ndarray = 45 * running_mean(white_noise(height, width + 14, generator), 15, axis=1) + waves
    return moving


def _road(height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    return 5 * white_noise(height, width, generator)


def _wall(height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    brick = int(generator.integers(10, 18))
    row, column = np.arange(height)[:, None], np.arange(width)[None, :]
    mortar = (row % brick < 1) | ((column + (row // brick % 2) * brick) % (2 * brick) < 1)
    return -25 * mortar.astype(np.float32)


GRAINS: Mapping[str, Grain] = {
    "sky": _sky,
    "grass": _grass,
    "sand": _sand,
    "water": _water,
    "road": _road,
    "wall": _wall,
}

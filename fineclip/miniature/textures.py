"""Textures of the six kinds of stuff: a color, smooth variation and a grain.

Legend: H W pixels. All noise is float32, in units of one gray level of 255.
"""

from collections.abc import Mapping

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
    slow_HW = slow_variation(height, width, generator) * (14.4 if label == "sky" else 9.0)
    grain_HW = slow_HW + _grain(label, height, width, generator)
    pixels_HW3: np.ndarray = np.clip(base + grain_HW[..., None], 0, 255)
    return pixels_HW3


def slow_variation(height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """Draw smooth noise with a standard deviation of about 1; (H, W)."""
    coarse = generator.standard_normal((max(2, height // PATCH_PX), max(2, width // PATCH_PX)), dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def running_mean(noise: np.ndarray, length: int) -> np.ndarray:
    """Average `length` neighbors of each column, which becomes shorter by `length - 1`."""
    total = np.cumsum(np.insert(noise, 0, 0, axis=0), axis=0, dtype=np.float32)
    return (total[length:] - total[:-length]) / length


def _grain(label: str, height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """Draw the grain of one kind of stuff: (H, W), or (H, 1) if all columns are equal."""

    def noise(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape, dtype=np.float32)

    match label:
        case "sky":
            return -np.linspace(0, 14, height, dtype=np.float32)[:, None]
        case "grass":
            return 28 * running_mean(noise(height + 6, width), 7)
        case "sand":
            return 7 * noise(height, width)
        case "water":
            waves = 6 * np.sin(np.arange(height, dtype=np.float32) / 2.2)[:, None]
            moving: np.ndarray = 45 * running_mean(noise(height, width + 14).T, 15).T + waves
            return moving
        case "road":
            return 5 * noise(height, width)
        case _:
            brick = int(generator.integers(10, 18))
            row, column = np.arange(height)[:, None], np.arange(width)
            mortar = (row % brick < 1) | ((column + (row // brick % 2) * brick) % (2 * brick) < 1)
            return -25 * mortar.astype(np.float32)

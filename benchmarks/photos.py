"""JPEGs for loader benchmarks: from a folder, or synthetic ones that take as long to decode as photographs."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fineclip.types import Box, Region, Sample

COCO, TWO_MEGAPIXELS = (640, 480), (1632, 1224)
BITS_PER_PIXEL = 2.8  # of COCO's files, on average
WORDS = "a small photo of two brown dogs that run over wet grass near an old red brick house with white windows"


def photographs(size: tuple[int, int], count: int, *, folder: Path | None = None, seed: int = 0) -> list[bytes]:
    """Return JPEGs of one size: those of a folder, resized if needed, or synthetic ones."""
    if folder is None:
        return [drawn_jpeg(size, seed=seed + number) for number in range(count)]
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not paths:
        raise SystemExit(f"{folder}: contains no .jpg")
    return [_as_size(paths[number % len(paths)], size) for number in range(count)]


def drawn_jpeg(size: tuple[int, int], *, seed: int) -> bytes:
    """Return a JPEG of 1/f noise and flat rectangles, with COCO's average bits per pixel."""
    rng = np.random.default_rng(seed)
    width, height = size
    pixels = np.stack([_scene_noise(rng, height, width) for _ in range(3)], axis=-1)
    pixels = 0.75 * pixels.mean(axis=-1, keepdims=True) + 0.25 * pixels
    for _ in range(12):
        x, y = rng.integers(0, width), rng.integers(0, height)
        box = np.s_[y : y + rng.integers(20, height // 2), x : x + rng.integers(20, width // 2)]
        pixels[box] = 0.6 * pixels[box] + rng.normal(0, 1, 3)
    low, high = np.percentile(pixels, [1, 99])
    picture = Image.fromarray((np.clip((pixels - low) / (high - low), 0, 1) * 255).astype(np.uint8))
    return _of_bits(picture, BITS_PER_PIXEL * width * height)


def sample_of(data: bytes, size: tuple[int, int], *, boxes: int, seed: int) -> Sample:
    """Return a sample with `boxes` captioned boxes; their sides are log-uniform in 0.08 to 0.7 of the image."""
    rng = np.random.default_rng(seed)
    width, height = size
    regions = []
    for _ in range(boxes):
        share_x, share_y = np.exp(rng.uniform(np.log(0.08), np.log(0.7), 2))
        x, y = rng.uniform(0, width * (1 - share_x)), rng.uniform(0, height * (1 - share_y))
        box = Box(float(x), float(y), float(x + share_x * width), float(y + share_y * height))
        regions.append(Region(box, 0.9, "thing", sentence(rng)))
    return Sample(f"photo-{seed:06d}", data, width, height, (sentence(rng),), regions=tuple(regions))


def sentence(rng: np.random.Generator) -> str:
    """Draw a sentence of 8 to 14 words."""
    return " ".join(rng.choice(WORDS.split(), rng.integers(8, 15)))


def bits_per_pixel(jpegs: Sequence[bytes], size: tuple[int, int]) -> float:
    """Return the average bits per pixel."""
    return 8 * sum(map(len, jpegs)) / len(jpegs) / (size[0] * size[1])


def _scene_noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(rng.normal(size=(height, width))) / frequency
    noise = np.fft.irfft2(spectrum, s=(height, width))
    return noise / noise.std()


def _of_bits(picture: Image.Image, bits: float) -> bytes:
    """Return the JPEG with the highest quality within a number of bits, found by bisection."""
    low, high = 20, 98
    while low < high:
        quality = (low + high + 1) // 2
        if 8 * len(_encoded(picture, quality)) > bits:
            high = quality - 1
        else:
            low = quality
    return _encoded(picture, low)


def _encoded(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _as_size(path: Path, size: tuple[int, int]) -> bytes:
    with Image.open(path) as picture:
        if picture.size == size and picture.mode == "RGB":
            return path.read_bytes()
        return _of_bits(
            picture.convert("RGB").resize(size, Image.Resampling.LANCZOS), BITS_PER_PIXEL * size[0] * size[1]
        )

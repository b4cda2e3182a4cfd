"""Layout miniature: scenes that the package draws, stored in a tar as img2dataset does: key.jpg, key.txt."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from fineclip.config import MiniatureTest
from fineclip.evals.datasets.benchmark_image import BenchmarkClass, BenchmarkImage, Contents
from fineclip.miniature.scenes import CLASSES, draw_scene, jpeg
from fineclip.miniature.shapes import THINGS
from fineclip.miniature.world import Stuff, Thing
from fineclip.shards import BenchmarkBox, TarAppender, atomic
from fineclip.types import Box


def miniature_contents(source: MiniatureTest, tar: Path, *, name: str) -> Contents:
    """Return the classes, things first, and every scene with its clean caption and the boxes of its visible parts.

    The tar is written while the images are read, and complete after the last one.

    Args:
        source: Seed and number of the scenes.
        tar: Path of the tar.
        name: Prefix of the keys.

    Returns:
        20 classes of things and 6 of stuff, and an iterator that draws one scene at a time.
    """
    classes = [BenchmarkClass(label, label in THINGS) for label in CLASSES]
    return Contents(classes, _images(source, tar, name))


def _images(source: MiniatureTest, tar: Path, name: str) -> Iterator[BenchmarkImage]:
    with atomic(tar) as temporary, closing(TarAppender(temporary)) as appender:
        for index in range(source.images):
            scene = draw_scene(source.seed, index)
            content = jpeg(scene)
            piece = appender.add(f"{name}-{index:06d}.jpg", content)
            appender.add(f"{name}-{index:06d}.txt", scene.clean.encode())
            height, width = scene.pixels.shape[:2]
            parts: list[Thing | Stuff] = [*scene.things, *scene.stuff]
            boxes = [BenchmarkBox(Box(*map(float, part.box)), CLASSES.index(part.label)) for part in parts]
            yield BenchmarkImage(tar, piece.offset, content, width, height, [scene.clean], boxes)

"""Layout miniature: scenes that the package draws, kept in a tar of img2dataset's layout: key.jpg key.txt."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from fineclip.config import MiniatureTest
from fineclip.evals.sources.picture import BenchmarkClass, Contents, Picture
from fineclip.miniature.scenes import CLASSES, THINGS, Scene, Stuff, Thing, draw_scene, jpeg
from fineclip.shards import BenchmarkBox, TarAppender, atomic
from fineclip.types import Box


def miniature_contents(source: MiniatureTest, tar: Path, *, name: str) -> Contents:
    """Things, then stuff; every scene with its clean caption and the boxes of what is visible in it.

    `tar` is written on the way, and takes its name when the last picture has been taken.

    Args:
        source: which scenes.
        tar: where they go.
        name: what their keys begin with.
    """
    classes = [BenchmarkClass(label, label in THINGS) for label in CLASSES]
    return Contents(classes, _pictures(source, tar, name))


def _pictures(source: MiniatureTest, tar: Path, name: str) -> Iterator[Picture]:
    with atomic(tar) as temporary, closing(TarAppender(temporary)) as appender:
        for index in range(source.images):
            scene = draw_scene(source.seed, index)
            content = jpeg(scene)
            piece = appender.add(f"{name}-{index:06d}.jpg", content)
            appender.add(f"{name}-{index:06d}.txt", scene.clean.encode())
            height, width = scene.pixels.shape[:2]
            yield Picture(tar, piece.offset, content, width, height, [scene.clean], _boxes(scene))


def _boxes(scene: Scene) -> list[BenchmarkBox]:
    parts: list[Thing | Stuff] = [*scene.things, *scene.stuff]
    return [BenchmarkBox(Box(*map(float, part.box)), CLASSES.index(part.label)) for part in parts]

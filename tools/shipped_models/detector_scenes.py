"""Scenes as a data set of ultralytics: images and label files."""

from pathlib import Path

from fineclip.miniature.scenes import draw_scene, jpeg
from fineclip.miniature.shapes import THINGS
from fineclip.miniature.world import Scene


def write_description(folder: Path) -> Path:
    """Write the YAML file of splits and classes."""
    names = "".join(f"  {index}: {label}\n" for index, label in enumerate(THINGS))
    description = folder / "scenes.yaml"
    description.write_text(f"path: {folder.resolve()}\ntrain: images/train\nval: images/val\nnames:\n{names}")
    return description


def write_split(folder: Path, split: str, seed: int, count: int) -> None:
    """Write images and labels of one split in the layout of ultralytics.

    Args:
        folder: Root of the data set.
        split: `train` or `val`.
        seed: Seed of the scenes.
        count: Number of scenes, from index 0.
    """
    images, labels = folder / "images" / split, folder / "labels" / split
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        scene = draw_scene(seed, index)
        (images / f"{index:05d}.jpg").write_bytes(jpeg(scene))
        (labels / f"{index:05d}.txt").write_text(label_lines(scene))


def label_lines(scene: Scene) -> str:
    """Return a line for each thing: class, center and size of its box as fractions of the image."""
    height, width = scene.panoptic.shape
    lines = []
    for thing in scene.things:
        x1, y1, x2, y2 = thing.box
        center_and_size = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        lines.append(" ".join([str(THINGS.index(thing.label)), *(f"{value:.6f}" for value in center_and_size)]))
    return "".join(f"{line}\n" for line in lines)

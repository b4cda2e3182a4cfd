"""A small data set in COCO's own layout, drawn by the package, for tests that need real files and no network."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fineclip.miniature.scenes import CLASSES, STUFF, THINGS, Scene, draw_scene, jpeg

SEED = 40_000


def write_coco(root: Path, *, train: int, val: int) -> None:
    """train2017/, val2017/ and annotations/ as COCO has them."""
    for split, count, first in (("train2017", train, 0), ("val2017", val, 100_000)):
        scenes = {first + index + 1: draw_scene(SEED, first + index) for index in range(count)}
        (root / split).mkdir(parents=True)
        for number, scene in scenes.items():
            (root / split / f"{number:012d}.jpg").write_bytes(jpeg(scene))
        write(root / f"annotations/captions_{split}.json", captions(scenes))
        write(root / f"annotations/instances_{split}.json", instances(scenes))
        if split == "val2017":
            write(root / f"annotations/panoptic_{split}.json", panoptic(scenes, root / f"annotations/panoptic_{split}"))


def write(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def images(scenes: dict[int, Scene]) -> list[dict[str, Any]]:
    return [
        {
            "id": number,
            "file_name": f"{number:012d}.jpg",
            "width": scene.pixels.shape[1],
            "height": scene.pixels.shape[0],
        }
        for number, scene in scenes.items()
    ]


def captions(scenes: dict[int, Scene]) -> dict[str, Any]:
    texts = [(number, text) for number, scene in scenes.items() for text in (scene.clean, scene.alt)]
    rows = [{"id": i, "image_id": number, "caption": text} for i, (number, text) in enumerate(texts)]
    return {"images": images(scenes), "annotations": rows}


def instances(scenes: dict[int, Scene]) -> dict[str, Any]:
    rows = []
    for number, scene in scenes.items():
        for thing in scene.things:
            x1, y1, x2, y2 = thing.box
            rows.append(
                {
                    "id": len(rows),
                    "image_id": number,
                    "category_id": CLASSES.index(thing.label) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "iscrowd": 0,
                }
            )
    return {"images": images(scenes), "annotations": rows, "categories": categories()}


def categories() -> list[dict[str, Any]]:
    return [{"id": i + 1, "name": name, "isthing": int(name in THINGS)} for i, name in enumerate(CLASSES)]


def panoptic(scenes: dict[int, Scene], masks: Path) -> dict[str, Any]:
    masks.mkdir(parents=True)
    rows = []
    for number, scene in scenes.items():
        ids = scene.panoptic.astype(np.uint32)
        Image.fromarray(np.stack([ids % 256, ids // 256, ids // 65536], axis=-1).astype(np.uint8)).save(
            masks / f"{number:012d}.png"
        )
        segments = [
            {"id": part.segment_id, "category_id": CLASSES.index(part.label) + 1, "bbox": _xywh(part.box), "iscrowd": 0}
            for part in (*scene.things, *scene.stuff)
        ]
        rows.append({"image_id": number, "file_name": f"{number:012d}.png", "segments_info": segments})
    assert set(STUFF) <= set(CLASSES)
    return {"images": images(scenes), "annotations": rows, "categories": categories()}


def _xywh(box: tuple[int, int, int, int]) -> list[int]:
    x1, y1, x2, y2 = box
    return [int(x1), int(y1), int(x2 - x1), int(y2 - y1)]

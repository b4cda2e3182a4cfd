"""JSONs of boxes and captions in the forms that authors released them in."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fineclip.config import BoxesJsonDetect, CaptionsJsonCaption
from fineclip.stages.external.reading import import_annotations

Xywh = Sequence[float]


def boxes_json(folder: Path, images: Mapping[str, Sequence[Xywh]], *, size: tuple[int, int] | None = None) -> Path:
    """Boxes of images by name, in file order, every one a cat; `size` is what the JSON says of each image."""
    told = {} if size is None else {"width": size[0], "height": size[1]}
    listed = [{"id": number, "file_name": name} | told for number, name in enumerate(images)]
    boxes = [
        {"image_id": number, "category_id": 7, "bbox": list(box)}
        for number, of_image in enumerate(images.values())
        for box in of_image
    ]
    values = {"images": listed, "annotations": boxes, "categories": [{"id": 7, "name": "cat"}]}
    return write_json(folder / "boxes.json", values)


def captions_json(folder: Path, captions: Mapping[str, str]) -> Path:
    return write_json(folder / "captions.json", dict(captions))


def write_json(path: Path, values: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


def key_of(image: str, box: Xywh) -> str:
    """As FineCLIP's training/data.py makes it."""
    x, y, w, h = box
    return f"{image}_{int(x)}_{int(y)}_{int(w)}_{int(h)}.jpg"


def boxes_config(path: Path, **more: Any) -> BoxesJsonDetect:
    return BoxesJsonDetect.model_validate({"engine": "boxes_json", "path": str(path), "min_side_px": 0} | more)


def captions_config(path: Path) -> CaptionsJsonCaption:
    return CaptionsJsonCaption(engine="captions_json", path=str(path))


def given(folder: Path, config: BoxesJsonDetect | CaptionsJsonCaption) -> Path:
    """The manifest of what the JSON gives."""
    manifest = folder / f"given/{config.engine}.json"
    kind = "detect" if isinstance(config, BoxesJsonDetect) else "caption"
    import_annotations(manifest, config, kind=kind, name="released")
    return manifest

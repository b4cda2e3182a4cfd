"""Small inputs and configurations for `fineclip check`."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

IMAGES = 6


def jpeg(number: int, *, size: tuple[int, int] = (64, 48)) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG")
    return encoded.getvalue()


def configuration(source: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "dataset": {"name": "mine"},
        "source": source,
        "filter": {"min_side_px": 16},
        "detect": {"boxes": {"engine": "annotations"}, "drawn": {"engine": "yolo", "weights": {"path": "x.pt"}}},
        "caption": {"template": {"engine": "template"}},
        "scales": {"all": {}},
        "encoders": {},
        "benchmarks": {},
        "plan": {"scales": ["all"], "regions": "drawn", "captions": "template", "encoders": [], "benchmarks": []},
    } | more


def folder(root: Path) -> dict[str, Any]:
    """Images with a text each."""
    root.mkdir()
    for number in range(IMAGES):
        (root / f"{number}.jpg").write_bytes(jpeg(number))
        (root / f"{number}.txt").write_text(f"a photo of thing number {number}")
    return configuration({"kind": "folder", "root": str(root)})

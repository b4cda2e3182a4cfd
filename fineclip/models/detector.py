"""Detectors: boxes, scores and labels of images.

Legend: B images of a batch, S side of the square, C classes, A anchors, N boxes of one image.

ultralytics is AGPL-3.0 and therefore an optional extra. Only this file and the training of the miniature detector import it, in
the process of the `detect` job. Its checkpoints are pickles, which can run any code when they are loaded: a checkpoint is
loaded only if its hash is in the configuration.

The boxes of an image depend on that image only: each image is letterboxed to S x S, all batches have one shape, and NMS is done
per image. ultralytics' `predict` pads to the largest image of a batch, and its NMS returns nothing after a time limit.
"""

from __future__ import annotations

import atexit
import os
import pickle
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fineclip.boxes import Letterbox, clip_and_round
from fineclip.config import YoloDetect
from fineclip.errors import CheckpointError, ConfigError
from fineclip.models.batches import full_batches, rows_at_once
from fineclip.models.device import resolve_device
from fineclip.models.file_kinds import Container, container_of
from fineclip.shards import sha256_of
from fineclip.types import Box, Region

CPU_BATCH = 8  # 2.5 times as fast as 1; larger batches are not faster
PADDING = (114, 114, 114)  # gray of ultralytics
UPRIGHT_TASKS = ("detect", "segment", "pose")  # tasks whose heads predict axis-aligned boxes

_UNUSABLE = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    AssertionError,
    ImportError,
    RuntimeError,
    pickle.UnpicklingError,
    EOFError,
    OSError,
)


class Detector(Protocol):
    """Protocol of detectors. The regions of an image do not depend on the other images."""

    def find(self, images: Sequence[Image.Image]) -> list[tuple[Region, ...]]:
        """Detect the regions of each RGB image; highest score first, boxes in pixels of the image."""


def letterbox(image: Image.Image, side: int) -> tuple[Image.Image, Letterbox]:
    """Resize an image to fit a square, keep its aspect ratio, and center it on gray.

    Args:
        image: RGB.
        side: Side of the square in pixels.

    Returns:
        The square, and the position of the image in it.

    Source:
        ultralytics `LetterBox`. Deviations: always the full square, and Pillow's bilinear filter, which averages when it
        shrinks an image; OpenCV's does not.
    """
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    place = Letterbox(width / image.width, height / image.height, (side - width) // 2, (side - height) // 2)
    square = Image.new("RGB", (side, side), PADDING)
    square.paste(image.resize((width, height), Image.Resampling.BILINEAR), (place.left, place.top))
    return square, place


def decode_prediction(prediction: Tensor, *, classes: int, confidence: float) -> Tensor:
    """Decode the output of a head for one image: each anchor with its best class, if the score is high enough.

    Args:
        prediction: (4 + C + any, A) centers, sizes and class scores. End-to-end heads: (A, 6 + any) corners, score, class.
        classes: C, or 0 for an end-to-end head.
        confidence: Minimum score, inclusive.

    Returns:
        (N, 6) float64 on the CPU: x1 y1 x2 y2 in pixels of the square, score and class, in the order of the anchors.
    """
    if classes == 0:
        rows_A6 = prediction[:, :6]
    else:
        centers_A2, sizes_A2 = prediction[:2].T, prediction[2:4].T
        best_A2 = torch.stack(prediction[4 : 4 + classes].max(dim=0), dim=1)
        rows_A6 = torch.cat([centers_A2 - sizes_A2 / 2, centers_A2 + sizes_A2 / 2, best_A2], dim=1)
    return rows_A6[rows_A6[:, 4] >= confidence].cpu().double()


def non_max_suppression(found_N6: Tensor, *, iou: float) -> Tensor:
    """Apply class-agnostic non-maximum suppression.

    Args:
        found_N6: From `decode_prediction`, in any order.
        iou: A box is removed if its IoU with a box of higher score is larger.

    Returns:
        The remaining rows, highest score first.
    """
    from torchvision.ops import nms

    return found_N6[nms(found_N6[:, :4], found_N6[:, 4], iou)]


def to_regions(
    found_N6: Tensor, place: Letterbox, *, size: tuple[int, int], names: Mapping[int, str], config: YoloDetect
) -> tuple[Region, ...]:
    """Convert boxes to regions, clipped to the image. Boxes without area or with a side below the minimum are removed.

    Args:
        found_N6: Rows after NMS.
        place: Position of the image in the square.
        size: Width and height of the image in pixels.
        names: Label of each class index.
        config: `min_side_px` and `max_regions` are used.

    Returns:
        Regions with coordinates rounded to 0.01 px and scores to 0.0001, by falling score, then by coordinates.
    """
    regions = []
    for *edges, score, number in found_N6.tolist():
        clipped = clip_and_round(place.to_image(Box(*edges)), *size)
        side = min(clipped.width, clipped.height)
        if side > 0 and side >= config.min_side_px:
            regions.append(Region(clipped, round(score, 4), names[int(number)]))
    return tuple(sorted(regions, key=lambda region: (-region.score, region.box, region.label))[: config.max_regions])


class UltralyticsDetector:
    """Detector of ultralytics with axis-aligned boxes.

    Args:
        path: Checkpoint, a .pt.
        config: Hash of the checkpoint, image size and limits.
        device: auto, cpu, cuda or mps.
        batch_size: Images per batch on a GPU; on a CPU it is always `CPU_BATCH`.
        name: Entry of the section `detect`, for messages.

    Raises:
        CheckpointError: The file does not have the configured hash, or is not a supported model.
        ConfigError: ultralytics is not installed.
    """

    def __init__(
        self, path: Path, config: YoloDetect, *, device: str, batch_size: int, name: str = "<its name>"
    ) -> None:
        _require_pickle(path)
        _require_hash(path, config, name)
        self._config = config
        self._device = resolve_device(device)
        self._rows = rows_at_once(self._device, batch_size, on_cpu=CPU_BATCH)
        model = _load(path)
        self._names: Mapping[int, str] = {int(index): str(label) for index, label in model.names.items()}
        head = model.model[-1]
        # end-to-end heads need no NMS within a class; it is applied across classes
        self._classes = 0 if getattr(head, "end2end", False) else int(head.nc)
        self._model = model.to(self._device, memory_format=torch.channels_last)  # twice as fast on a CPU

    def find(self, images: Sequence[Image.Image]) -> list[tuple[Region, ...]]:
        """Detect the regions of each RGB image; highest score first, boxes in pixels of the image."""
        placed = [letterbox(image, self._config.image_size) for image in images]
        batches = full_batches([square for square, _ in placed], self._rows)
        predictions = chain.from_iterable(map(self._predict, batches))  # perhaps more than images
        return [
            self._regions(image, place, prediction)
            for image, (_, place), prediction in zip(images, placed, predictions, strict=False)
        ]

    def _regions(self, image: Image.Image, place: Letterbox, prediction: Tensor) -> tuple[Region, ...]:
        found = decode_prediction(prediction, classes=self._classes, confidence=self._config.confidence)
        found = non_max_suppression(found, iou=self._config.iou)
        return to_regions(found, place, size=image.size, names=self._names, config=self._config)

    @torch.inference_mode()
    def _predict(self, squares: Sequence[Image.Image]) -> Tensor:
        """Return the output of the head, (B, ...), as `decode_prediction` takes it."""
        pixels_BSS3 = torch.from_numpy(np.stack([np.asarray(square) for square in squares])).to(self._device)
        predicted: Any = self._model(pixels_BSS3.permute(0, 3, 1, 2).float() / 255)
        while not isinstance(predicted, Tensor):
            predicted = predicted[0]  # boxes come first, before masks and inputs of losses
        return predicted


def _require_pickle(path: Path) -> None:
    """Check by the first bytes that a file may be one of ultralytics; it is not loaded."""
    if container_of(path) is Container.SAFETENSORS:
        raise CheckpointError(
            f"{path}: is a safetensors file, which holds tensors alone. A checkpoint of ultralytics holds the model itself; use that."
        )


def _require_hash(path: Path, config: YoloDetect, name: str) -> None:
    key = f"detect.{name}.weights.sha256"
    digest = sha256_of(path)
    if config.weights.sha256 is None:
        raise CheckpointError(
            f"{path}: is a pickle, which can run any code when it is loaded, and {key} is not set. If you trust the source of"
            f" the file, set the key to its hash: {digest}"
        )
    if config.weights.sha256 != digest:
        raise CheckpointError(
            f"{path}: has sha256 {digest}, but {key} is {config.weights.sha256}; it was not loaded. Use the right file, or,"
            " if you trust the source of this one, set the key to its hash."
        )


def _load(path: Path) -> Any:
    """Load the torch model of a checkpoint, in float32 and evaluation mode."""
    yolo = _yolo()
    if path.suffix != ".pt":
        raise CheckpointError(f"{path}: the name of an ultralytics checkpoint ends in .pt; rename it")
    open_image = Image.open
    try:
        model = yolo(str(path)).model
    except _UNUSABLE as error:
        raise CheckpointError(f"{path}: ultralytics cannot load it ({type(error).__name__}: {error})") from error
    finally:
        Image.open = open_image  # loading may import further modules of ultralytics
    head = model.model[-1]
    if getattr(model, "task", None) not in UPRIGHT_TASKS or not hasattr(head, "nc") or "RTDETR" in type(head).__name__:
        raise CheckpointError(
            f"{path}: is a {type(model).__name__} for {getattr(model, 'task', 'nothing')} that ends in {type(head).__name__}."
            f" Engine yolo supports YOLO models for {', '.join(UPRIGHT_TASKS)}."
        )
    fused: nn.Module = model.eval().fuse(verbose=False).requires_grad_(requires_grad=False)
    return fused


@cache
def _yolo() -> Any:
    """Import `ultralytics.YOLO` without network access, with a temporary configuration folder.

    By default ultralytics downloads a font, sends statistics, installs missing packages, lowers torch's threads and replaces
    Pillow's `Image.open`.

    Returns:
        The class `YOLO`.

    Raises:
        ConfigError: ultralytics or one of its dependencies is not installed.

    Source:
        ultralytics 8.4, utils/__init__.py and utils/checks.py.
    """
    try:
        matplotlib = Path(str(metadata.distribution("matplotlib").locate_file("matplotlib")))  # no slow import
        folder = Path(tempfile.mkdtemp(prefix="fineclip-ultralytics-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        (folder / "Ultralytics").mkdir()
        shutil.copy(matplotlib / "mpl-data/fonts/ttf/DejaVuSans.ttf", folder / "Ultralytics/Arial.ttf")
        os.environ.update(
            YOLO_CONFIG_DIR=str(folder), YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false"
        )
        threads, open_image = torch.get_num_threads(), Image.open
        from ultralytics import YOLO

        torch.set_num_threads(threads)
        Image.open = open_image  # their version searches a registry for plugins if the format of an image is unknown
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"engine yolo needs ultralytics, and {error.name} is not installed. It is AGPL-3.0 and therefore optional:"
            " pip install 'fineclip[detect]'. Engine annotations does not need it."
        ) from None
    return YOLO

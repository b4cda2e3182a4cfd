"""Detectors: images in, boxes out. The only file of the package, its own training apart, that imports ultralytics.

Legend: B images of a batch, S side of the square, C classes, A candidate boxes, N boxes of one image.

ultralytics is AGPL-3.0: an optional extra, imported when a detector is made, in the detect job's own process. Its
checkpoints are pickles, that can run any code when they are opened: one is opened only if its hash is in the configuration.

Every image lies alone in its square of S x S, batches have one shape, and overlaps are removed image by image. So the
boxes of an image are a function of that image: ultralytics' own `predict` pads to what its neighbours need, and its
`non_max_suppression` returns nothing for images at which its time has run out.
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
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from fineclip.boxes import Letterbox, clip_and_round
from fineclip.config import YoloDetect
from fineclip.errors import CheckpointError, ConfigError
from fineclip.models.batches import full_batches, rows_at_once
from fineclip.models.device import resolve_device
from fineclip.shards import sha256_of
from fineclip.types import Box, Region

CPU_BATCH = 8  # faster than 1 by 2.5 times; larger ones gain nothing
PADDING = (114, 114, 114)  # the grey that ultralytics trains with
UPRIGHT_TASKS = ("detect", "segment", "pose")  # their heads give upright boxes, and then perhaps more

_UNUSABLE = (TypeError, KeyError, AttributeError, ImportError, RuntimeError, pickle.UnpicklingError, EOFError, OSError)


class Detector(Protocol):
    """Finds regions. What it finds in an image does not depend on the images beside it."""

    def find(self, images: Sequence[Image.Image]) -> list[tuple[Region, ...]]:
        """Regions of each RGB image, best first, boxes in its pixels."""


def letterboxed(image: Image.Image, side: int) -> tuple[Image.Image, Letterbox]:
    """The whole image in the middle of a grey square, as large as it fits, aspect kept.

    Source: ultralytics `LetterBox`. Deviations: always the full square, and Pillow's bilinear filter, which looks at
    every pixel when it makes an image smaller (there: OpenCV's, which does not).
    """
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    place = Letterbox(width / image.width, height / image.height, (side - width) // 2, (side - height) // 2)
    square = Image.new("RGB", (side, side), PADDING)
    square.paste(image.resize((width, height), Image.Resampling.BILINEAR), (place.left, place.top))
    return square, place


class Found(NamedTuple):
    """Boxes of one image in its square: (N, 4) corners, (N,) scores, (N,) classes."""

    boxes_N4: npt.NDArray[np.float64]
    scores_N: npt.NDArray[np.float64]
    classes_N: npt.NDArray[np.int64]

    def only(self, chosen: npt.NDArray[Any]) -> Found:
        """Some of them, in the order of their indices."""
        return Found(self.boxes_N4[chosen], self.scores_N[chosen], self.classes_N[chosen])


def candidates(prediction: Tensor, *, classes: int, confidence: float) -> Found:
    """What a head says of one image, each candidate with its best class, if that is sure enough.

    Args:
        prediction: (4 + C + any, A) centres, sizes and class scores; or, of heads that need no suppression, (A, 6 + any)
            corners, score and class.
        classes: C, or 0 for a head that needs no suppression.
        confidence: least score.
    """
    if classes == 0:
        boxes_A4, scores_A, classes_A = prediction[:, :4], prediction[:, 4], prediction[:, 5]
    else:
        centres_A2, sizes_A2 = prediction[:2].T, prediction[2:4].T
        boxes_A4 = torch.cat([centres_A2 - sizes_A2 / 2, centres_A2 + sizes_A2 / 2], dim=1)
        scores_A, classes_A = prediction[4 : 4 + classes].max(dim=0)
    sure_A = scores_A >= confidence
    boxes_N4, scores_N, classes_N = (column[sure_A].cpu() for column in (boxes_A4, scores_A, classes_A))
    return Found(boxes_N4.double().numpy(), scores_N.double().numpy(), classes_N.long().numpy())


def without_overlaps(found: Found, *, iou: float) -> Found:
    """Of two boxes that overlap by more than `iou`, whatever their classes, the one with the higher score; best first.

    Written out, because torchvision takes longer to be imported than a shard of the miniature world to be looked at.
    """
    found = found.only(np.argsort(-found.scores_N, kind="stable"))
    x1_N, y1_N, x2_N, y2_N = found.boxes_N4.T
    area_N = (x2_N - x1_N) * (y2_N - y1_N)
    stays_N = np.ones(len(area_N), dtype=bool)
    for best in range(len(area_N)):
        if stays_N[best]:
            rest = slice(best + 1, None)
            width = np.minimum(x2_N[best], x2_N[rest]) - np.maximum(x1_N[best], x1_N[rest])
            height = np.minimum(y2_N[best], y2_N[rest]) - np.maximum(y1_N[best], y1_N[rest])
            shared = width.clip(min=0) * height.clip(min=0)
            stays_N[rest] &= shared <= iou * (area_N[best] + area_N[rest] - shared)
    return found.only(stays_N)


def regions_of(
    found: Found, place: Letterbox, *, size: tuple[int, int], names: Mapping[int, str], config: YoloDetect
) -> tuple[Region, ...]:
    """Regions in pixels of the image, of 0.01, and scores of 0.0001; best first, equals by their coordinates.

    Args:
        found: boxes of the square, overlaps removed.
        place: of the image in the square.
        size: width and height of the image.
        names: of the classes.
        config: limits of side and number.
    """
    regions = []
    for box, score, label in zip(
        found.boxes_N4.tolist(), found.scores_N.tolist(), found.classes_N.tolist(), strict=True
    ):
        clipped = clip_and_round(place.to_image(Box(*box)), *size)
        side = min(clipped.width, clipped.height)
        if side > 0 and side >= config.min_side_px:
            regions.append(Region(clipped, round(score, 4), names[label]))
    return tuple(sorted(regions, key=lambda region: (-region.score, region.box, region.label))[: config.max_regions])


class UltralyticsDetector:
    """Any model of ultralytics that gives upright boxes, in `Detector`'s terms.

    Args:
        path: its checkpoint.
        config: hash, image size and limits.
        device: auto, cpu, cuda or mps.
        batch_size: images at once; on a CPU always `CPU_BATCH`.
        name: entry of the catalogue `detect`, for messages.

    Raises:
        CheckpointError: the file is not the one of the configuration, or none that can be used.
        ConfigError: ultralytics is not installed.
    """

    def __init__(
        self, path: Path, config: YoloDetect, *, device: str, batch_size: int, name: str = "<its name>"
    ) -> None:
        _require_hash(path, config, name)
        self._config = config
        self._device = resolve_device(device)
        self._rows = rows_at_once(self._device, batch_size, on_cpu=CPU_BATCH)
        model = _opened(path)
        self._names: Mapping[int, str] = {int(index): str(label) for index, label in model.names.items()}
        head = model.model[-1]
        # `end2end` heads give corners and need no suppression; it is made all the same, for they know classes apart.
        self._classes = 0 if getattr(head, "end2end", False) else int(head.nc)
        self._model = model.to(self._device, memory_format=torch.channels_last)  # twice as fast on a CPU

    def find(self, images: Sequence[Image.Image]) -> list[tuple[Region, ...]]:
        """Regions of each RGB image, best first, boxes in its pixels."""
        placed = [letterboxed(image, self._config.image_size) for image in images]
        batches = full_batches([square for square, _ in placed], self._rows)
        predictions = (
            prediction for batch in batches for prediction in self._predict(batch)
        )  # perhaps more than images
        return [
            self._regions(image, place, prediction)
            for image, (_, place), prediction in zip(images, placed, predictions, strict=False)
        ]

    def _regions(self, image: Image.Image, place: Letterbox, prediction: Tensor) -> tuple[Region, ...]:
        found = candidates(prediction, classes=self._classes, confidence=self._config.confidence)
        found = without_overlaps(found, iou=self._config.iou)
        return regions_of(found, place, size=image.size, names=self._names, config=self._config)

    @torch.inference_mode()
    def _predict(self, squares: Sequence[Image.Image]) -> Tensor:
        """(B, ...) as `candidates` takes them."""
        pixels_BSS3 = torch.from_numpy(np.stack([np.asarray(square) for square in squares])).to(self._device)
        predicted: Any = self._model(pixels_BSS3.permute(0, 3, 1, 2).float() / 255)
        while not isinstance(predicted, Tensor):
            predicted = predicted[0]  # beside the boxes lie masks, and what losses are made of
        return predicted


def _require_hash(path: Path, config: YoloDetect, name: str) -> None:
    key = f"detect.{name}.weights.sha256"
    digest = sha256_of(path)
    if config.weights.sha256 is None:
        raise CheckpointError(
            f"{path}: is a pickle, that can run any code when it is opened, and {key} is not given. If you trust where the"
            f" file comes from, write its hash there: {digest}"
        )
    if config.weights.sha256 != digest:
        raise CheckpointError(
            f"{path}: has sha256 {digest}, but {key} is {config.weights.sha256}; it was not opened. Bring the right file, or,"
            " if you trust where this one comes from, write its hash there."
        )


def _opened(path: Path) -> Any:
    """The torch model in a checkpoint, in float32, ready for inference."""
    yolo = _yolo()
    if path.suffix != ".pt":
        raise CheckpointError(f"{path}: the name of an ultralytics checkpoint ends in .pt; rename it")
    open_image = Image.open
    try:
        model = yolo(str(path)).model
    except _UNUSABLE as error:
        raise CheckpointError(f"{path}: ultralytics cannot open it ({type(error).__name__}: {error})") from error
    finally:
        Image.open = open_image  # a module that the checkpoint names may be imported only now
    head = model.model[-1]
    if getattr(model, "task", None) not in UPRIGHT_TASKS or not hasattr(head, "nc") or "RTDETR" in type(head).__name__:
        raise CheckpointError(
            f"{path}: is a {type(model).__name__} for {getattr(model, 'task', 'nothing')} that ends in {type(head).__name__}."
            f" Engine yolo takes YOLO models for {', '.join(UPRIGHT_TASKS)}."
        )
    fused: nn.Module = model.eval().fuse(verbose=False).requires_grad_(requires_grad=False)
    return fused


@cache
def _yolo() -> Any:
    """The class `ultralytics.YOLO`, imported so that it writes into a folder of its own and tries no network.

    It would fetch a font where its folder has none, send statistics, install what it misses, turn down torch's threads,
    and put itself in the place of Pillow's `Image.open`.

    Source: ultralytics 8.4, utils/__init__.py, utils/checks.py; verified with sockets that refuse every connection.
    """
    try:
        matplotlib = Path(str(metadata.distribution("matplotlib").locate_file("matplotlib")))  # importing it takes time
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
        Image.open = open_image  # its own asks a registry for plugins when an image is of no known format
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"engine yolo needs ultralytics, and {error.name} is not installed. It is AGPL-3.0 and therefore optional:"
            " pip install 'fineclip[detect]'. Engine annotations needs nothing of it."
        ) from None
    return YOLO

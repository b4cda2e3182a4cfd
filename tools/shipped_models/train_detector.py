"""Train the detector of the miniature world from scratch: `python -m tools.shipped_models.train_detector --out FILE`.

Trainer and architecture (`yolov9t`) are ultralytics'. The file holds the weights only: no optimizer, date or path. ultralytics is
AGPL-3.0, and so is that file.
"""

import argparse
import io
import logging
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fineclip.miniature.scenes import draw_scene
from fineclip.miniature.seeds import DETECTOR_TRAINING, VALIDATION
from fineclip.miniature.world import Scene
from fineclip.shards.atomic import write_bytes
from tools.shipped_models.detector_scenes import write_description, write_split
from tools.shipped_models.detector_scores import Predicted, detector_scores

if TYPE_CHECKING:
    from ultralytics import YOLO

log = logging.getLogger(__name__)

ARCHITECTURE = "yolov9t.yaml"
IMAGE_PX = 128
REPORTED_SCORES = (0.1, 0.2, 0.25)
MOST_BOXES = 10
WATCHED_SCENES = 64  # that ultralytics evaluates at the end; no setting depends on them
LICENSE = "AGPL-3.0 License (https://ultralytics.com/license)"


@dataclass(frozen=True)
class Settings:
    """Settings, chosen on validation scenes."""

    scenes: int = 3_000
    epochs: int = 10
    batch: int = 16
    learning_rate: float = 2e-3
    validation_scenes: int = 300


def train(out: Path, settings: Settings) -> None:
    """Draw scenes into a temporary folder, train, and write the weights to `out`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keep_ultralytics_offline(folder / "ultralytics")
        write_split(folder / "scenes", "train", DETECTOR_TRAINING, settings.scenes)
        write_split(folder / "scenes", "val", VALIDATION, WATCHED_SCENES)
        description = write_description(folder / "scenes")
        log.info("Drew %d scenes.", settings.scenes)
        trained = _train_with_ultralytics(description, folder / "run", settings)
        export(trained, out)
        log.info("Trained in %.0f cpu-s; wrote %s, %.2f MB.", time.process_time(), out, out.stat().st_size / 1e6)
        scenes = [draw_scene(VALIDATION, index) for index in range(settings.validation_scenes)]
        predicted = predict(out, scenes)
        for min_score in REPORTED_SCORES:
            log.info("Score of %.2f and more: %s", min_score, detector_scores(scenes, predicted, min_score))


def keep_ultralytics_offline(folder: Path) -> None:
    """Keep the settings of ultralytics in `folder` and prevent downloads. Call it before ultralytics is imported.

    Source: ultralytics 8.4, utils/checks.py `check_font`: a font is downloaded if the folder has none.
    """
    os.environ.update(YOLO_CONFIG_DIR=str(folder), YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false")
    import matplotlib as mpl

    fonts = folder / "Ultralytics"
    fonts.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", fonts / "Arial.ttf")


def export(checkpoint: Path, out: Path) -> None:
    """Write the model in half precision, with the entries that loading needs."""
    import torch

    model = torch.load(checkpoint, map_location="cpu", weights_only=False)["model"].half()
    model.args = {"task": "detect", "imgsz": IMAGE_PX, "model": ARCHITECTURE}
    model.yaml = {**model.yaml, "yaml_file": ARCHITECTURE}
    model.criterion = None
    kept: dict[str, Any] = {
        "model": model,
        "ema": None,
        "epoch": -1,
        "train_args": model.args,
        "license": LICENSE,
    }
    buffer = io.BytesIO()
    torch.save(kept, buffer)  # into a file it would write that file's name, too
    write_bytes(out, buffer.getvalue())


def predict(weights: Path, scenes: list[Scene]) -> list[Predicted]:
    """Predict boxes with at least the smallest of `REPORTED_SCORES`, highest score first."""
    model = _yolo(weights)
    predicted = []
    for scene in scenes:
        image = Image.fromarray(scene.pixels)
        result = model.predict(
            image, imgsz=IMAGE_PX, conf=min(REPORTED_SCORES), iou=0.5, agnostic_nms=True, max_det=MOST_BOXES,
            device="cpu", verbose=False,
        )[0].boxes  # fmt: skip
        labels = result.cls.numpy().astype(np.int64)
        predicted.append(Predicted(result.xyxy.numpy().astype(np.float64), result.conf.numpy(), labels))
    return predicted


def _train_with_ultralytics(description: Path, folder: Path, settings: Settings) -> Path:
    _yolo(Path(ARCHITECTURE)).train(
        data=str(description),
        epochs=settings.epochs,
        imgsz=IMAGE_PX,
        batch=settings.batch,
        nbs=settings.batch,
        optimizer="AdamW",
        lr0=settings.learning_rate,
        lrf=0.02,
        weight_decay=1e-3,
        warmup_epochs=0.5,
        warmup_bias_lr=0.0,
        # Things may be larger, smaller and mirrored, but colors must not change, because they are part of the labels.
        scale=0.25, translate=0.1, fliplr=0.5, hsv_h=0.0, hsv_s=0.2, hsv_v=0.2,
        mosaic=0, close_mosaic=0, mixup=0, copy_paste=0, erasing=0, auto_augment=None, degrees=0,
        device="cpu", workers=0, cache="ram", amp=False, seed=DETECTOR_TRAINING, deterministic=True,
        val=False, plots=False, save_period=-1, verbose=False, exist_ok=True,
        project=str(folder.parent), name=folder.name,
    )  # fmt: skip
    return folder / "weights" / "last.pt"


def _yolo(model: Path) -> "YOLO":
    import torch
    from ultralytics import YOLO

    torch.set_num_threads(1)
    yolo = YOLO(str(model))
    yolo.add_callback("on_train_start", lambda _: torch.set_num_threads(1))
    return yolo


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Train the detector of the miniature world from scratch.")
    parser.add_argument("--out", type=Path, required=True, help="file of the weights, .pt")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(arguments.out, Settings())


if __name__ == "__main__":
    main()

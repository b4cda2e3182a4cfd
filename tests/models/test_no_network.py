"""Detector and captioner run without network and leave no files in the home folder."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SCRIPT = """
import socket, sys
attempts = []

def refused(*arguments, **_):
    attempts.append(arguments)
    raise OSError("no network here")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.gethostbyname = refused
import torch
torch.set_num_threads(2)

from PIL import Image
from fineclip.config import Blip2Caption, YoloDetect
from fineclip.models.shipped import shipped
from fineclip.miniature.scenes import draw_scene
from fineclip.models.captioner.blip2 import Blip2Captioner
from fineclip.models.detector import UltralyticsDetector
from fineclip.shards import sha256_of

image = Image.fromarray(draw_scene(1, 0).pixels)
path, folder = shipped("detector.pt"), shipped("captioner")
weights = {"path": str(path), "sha256": sha256_of(path)}
detector = UltralyticsDetector(path, YoloDetect(engine="yolo", weights=weights, image_size=128), device="cpu", batch_size=1)
[regions] = detector.find([image])
captioner = Blip2Captioner(folder, Blip2Caption(engine="blip2", weights={"path": "-"}), device="cpu", batch_size=1)
[caption] = captioner.describe([image])
print(len(regions), repr(caption.caption), "threads", torch.get_num_threads(), "attempts", attempts)
"""


def test_no_socket_is_used_and_no_file_remains(tmp_path: Path) -> None:
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir(), temporary.mkdir()
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "YOLO_", "TRANSFORMERS_", "XDG_"))
    }
    environment = kept | {"HOME": str(home), "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_CURRENT_TEST", None)  # ultralytics is quieter under pytest
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("threads 2 attempts []\n"), done.stdout
    assert list(home.iterdir()) == []
    assert [path.name for path in temporary.iterdir() if "torch" not in path.name] == []  # torch keeps a cache there

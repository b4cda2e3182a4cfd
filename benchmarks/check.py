"""Time and memory of `fineclip check` on stored JPEGs with captions and boxes, from a folder and from tars.

python -m benchmarks.check [--images 100000] [--folder /scratch]
"""

import io
import json
import os
import re
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from benchmarks.command import build_parser, run
from benchmarks.figures import Figure
from benchmarks.photos import drawn_jpeg, sample_of

SIZE = (320, 240)
DIFFERENT = 64  # drawn photographs; each stored one differs by a comment in its header
PER_TAR = 5000
BOXES = 4
TARGET_SECONDS = 120


def photographs(count: int) -> Iterator[tuple[str, bytes]]:
    """Yield names and bytes of JPEGs that are all different."""
    drawn = [drawn_jpeg(SIZE, seed=seed) for seed in range(DIFFERENT)]
    for number in range(count):
        comment = f"{number:012d}".encode()
        segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        jpeg = drawn[number % DIFFERENT]
        yield f"{number:012d}", jpeg[:2] + segment + jpeg[2:]


def write_inputs(root: Path, images: int) -> None:
    """Write the photographs as files with the JSONs of COCO, and as tars of images and texts."""
    (root / "photos").mkdir(parents=True)
    (root / "tars").mkdir()
    entries: dict[str, list[dict[str, Any]]] = {"images": [], "captions": [], "boxes": []}
    tar: tarfile.TarFile | None = None
    for number, (name, jpeg) in enumerate(photographs(images)):
        (root / "photos" / f"{name}.jpg").write_bytes(jpeg)
        sample = sample_of(b"", SIZE, boxes=BOXES, seed=number)
        if number % PER_TAR == 0:
            if tar is not None:
                tar.close()
            tar = tarfile.open(root / "tars" / f"{number // PER_TAR:05d}.tar", "w")  # noqa: SIM115 (closed above)
        for suffix, content in (("jpg", jpeg), ("txt", sample.captions[0].encode())):
            header = tarfile.TarInfo(f"{name}.{suffix}")
            header.size = len(content)
            if tar is not None:
                tar.addfile(header, io.BytesIO(content))
        entries["images"].append({"id": number, "file_name": f"{name}.jpg", "width": SIZE[0], "height": SIZE[1]})
        entries["captions"].append({"image_id": number, "caption": sample.captions[0]})
        for region in sample.regions:
            box = region.box
            entries["boxes"].append(
                {"image_id": number, "category_id": 1, "bbox": [box.x1, box.y1, box.width, box.height]}
            )
    if tar is not None:
        tar.close()
    of = {"images": entries["images"], "categories": [{"id": 1, "name": "thing"}]}
    (root / "captions.json").write_text(json.dumps(of | {"annotations": entries["captions"]}))
    (root / "boxes.json").write_text(json.dumps(of | {"annotations": entries["boxes"]}))


def configuration(root: Path, kind: str) -> dict[str, Any]:
    """Return a configuration of the photographs; the boxes are those of the JSON."""
    source: dict[str, Any] = {"kind": "webdataset", "root": str(root / "tars")}
    if kind == "folder":
        source = {"kind": "coco", "root": str(root), "images": "photos"}
        source |= {"captions": "captions.json", "instances": "boxes.json"}
    engines = {"folder": {"engine": "annotations"}, "tars": {"engine": "boxes_json", "path": str(root / "boxes.json")}}
    return {
        "dataset": {"name": kind},
        "source": source,
        "check": {"images": None},
        "detect": {"boxes": engines[kind]},
        "caption": {"template": {"engine": "template"}},
        "scales": {"all": {}},
        "encoders": {},
        "benchmarks": {},
        "plan": {"scales": ["all"], "regions": "boxes", "captions": "template", "encoders": [], "benchmarks": []},
    }


def figures_of(root: Path, kind: str, images: int) -> list[Figure]:
    """Run the verb once in a process of its own."""
    path = root / f"{kind}.yaml"
    path.write_text(yaml.safe_dump(configuration(root, kind)))
    verb = [sys.executable, "-m", "fineclip", "check", str(path), "--threads", "2"]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen([*verb, "--manifest", str(root / kind / "check.json")], env=environment) as process:
        peak = _peak_memory(process)
    if process.returncode:
        raise SystemExit(process.returncode)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    what = f"check, {images:,} JPEGs of {SIZE[0]} x {SIZE[1]} with {BOXES} boxes, from {kind}"
    return [
        Figure(f"{what}, two processes", "s", seconds, target=TARGET_SECONDS, side="at most"),
        Figure(f"{what}, CPU time", "s", cpu),
        Figure(f"{what}, peak memory of the main process", "MB", peak / 1e6),
    ]


def _peak_memory(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process and return the largest resident memory that was seen, in bytes."""
    peak = 0
    while process.poll() is None:
        with suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
            peak = max([peak, *(1024 * int(size) for size in re.findall(r"VmHWM:\s+(\d+)", status))])
        time.sleep(0.1)
    return peak


def measure(folder: Path, images: int) -> list[Figure]:
    """Write the inputs and check both."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        root = Path(scratch)
        write_inputs(root, images)
        return [figure for kind in ("tars", "folder") for figure in figures_of(root, kind, images)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = build_parser(__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where 6 GB may be written")
    run("check", parser, lambda chosen: measure(chosen.folder, chosen.images), arguments)


if __name__ == "__main__":
    main()

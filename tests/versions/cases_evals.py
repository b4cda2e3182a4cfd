"""Cases of the benchmarks: scores from vectors made by hand, every row of the indexes, and an encoder from file to score."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fineclip.config import BenchmarkConfig, parse
from fineclip.evals.benchmarks.base import Outcome
from fineclip.evals.benchmarks.boxes import evaluate_boxes
from fineclip.evals.benchmarks.retrieval import evaluate_retrieval
from fineclip.evals.datasets.benchmark_image import BenchmarkClass
from fineclip.evals.embed import published_embedder
from fineclip.evals.evaluate import evaluate_run
from fineclip.evals.index import CLASSES_SUFFIX, Index, index_benchmark, read_index
from fineclip.shards import BenchmarkBox, BenchmarkRow
from fineclip.train.run import BaselineConfig, export_baseline
from fineclip.types import Box
from tests.helpers.coco import write_coco
from tests.versions.inputs import picture, rounded, table
from tests.versions.registry import case
from tests.versions.worlds import WEIGHTS, write_encoder

BYTES = ("sha256", "size", "offset")  # columns that depend on who encoded a JPEG
CLASSES = (
    BenchmarkClass("cup", is_thing=True), BenchmarkClass("umbrella", is_thing=True), BenchmarkClass("hour_glass", is_thing=True),
    BenchmarkClass("traffic/light x.", is_thing=True), BenchmarkClass("sky-other", is_thing=False), BenchmarkClass("sand", is_thing=False),
    BenchmarkClass("wall", is_thing=False),
)  # fmt: skip
WIDTH = 8


def section(kind: str, source: dict[str, Any] | None = None, **keys: Any) -> Any:
    values = {"kind": kind, "source": source or {"layout": "miniature", "seed": 3, "images": 3}}
    return parse(BenchmarkConfig, values | keys, where="benchmarks")


class MadeUp:
    """Stands for an encoder: unit vectors from whole numbers, and what it was asked."""

    image_size = 32

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.sizes: list[int] = []

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        return unit(len(texts), seed=1)

    def images(self, rows: Sequence[BenchmarkRow], *, size: int) -> np.ndarray:
        self.sizes.append(size)
        vectors = unit(len(rows), seed=2)
        vectors[1] = vectors[0]  # two images that tie
        return vectors

    def regions(self, rows: Sequence[BenchmarkRow], *, size: int) -> np.ndarray:
        self.sizes.append(size)
        return unit(sum(len(row.boxes) for row in rows), seed=2)


def unit(count: int, *, seed: int) -> np.ndarray:
    """(count, WIDTH) float32."""
    rows = np.random.default_rng(seed).uniform(-1, 1, (count, WIDTH))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def rows_of(boxes: int, captions: int) -> list[BenchmarkRow]:
    """Twelve images; image i has up to so many boxes and captions."""
    return [
        BenchmarkRow(
            key=str(image), kept=True, file="x", offset=0, size=1, sha256="", width=9, height=9,
            captions=[f"text {image} {index}" for index in range(captions and 1 + image % captions)],
            boxes=[
                BenchmarkBox(Box(0, 0, 5, 5), (image * index + image) % len(CLASSES))
                for index in range(boxes and 1 + image % boxes)
            ],
        )
        for image in range(12)
    ]  # fmt: skip


def told(outcome: Outcome, asked: MadeUp) -> dict[str, Any]:
    """Scores, chance, protocol, and the texts that were encoded, the first of them verbatim."""
    return {
        "scores": [score._asdict() for score in outcome.scores],
        "chance": dict(outcome.chance),
        "protocol": dict(outcome.protocol),
        "sizes": asked.sizes,
        "texts": {"first": asked.asked[:9], "sha256": hashlib.sha256("\n".join(asked.asked).encode()).hexdigest()},
    }


@case("evals.benchmarks.boxes")
def two_prompts_and_two_candidates() -> dict[str, Any]:
    found, index = {}, Index(rows_of(5, 0), CLASSES)
    for prompts, candidates, size in (("photo", "all", None), ("vild", "own_kind", 48)):
        embedder = MadeUp()
        config = section("boxes", prompts=prompts, candidates=candidates, image_size=size)
        found[f"{prompts}, {candidates}"] = told(evaluate_boxes(embedder, index, config), embedder)
    return found


@case("evals.benchmarks.retrieval")
def both_ways() -> dict[str, Any]:
    embedder = MadeUp()
    return told(evaluate_retrieval(embedder, Index(rows_of(0, 3), []), section("retrieval")), embedder)


@case("evals.index")
def every_layout() -> dict[str, Any]:
    write_coco(Path("coco"), train=0, val=2)
    root = {"root": "coco"}
    sections = {
        "miniature boxes": section("boxes", min_side_px=20, max_side_px=60),
        "miniature captions": section("retrieval"),
        "coco panoptic": section("boxes", {"layout": "coco_panoptic"} | root),
        "coco instances": section("boxes", {"layout": "coco_instances"} | root),
        "coco captions": section("retrieval", {"layout": "coco_captions"} | root),
        **lists(),
    }
    found = {}
    for name, config in sections.items():
        manifest = Path(f"index/{name.replace(' ', '.')}.json")
        index_benchmark(manifest, config)
        found[name] = table(manifest, BenchmarkRow, without=BYTES)
        classes = manifest.with_suffix(CLASSES_SUFFIX)
        found[name]["classes"] = len(json.loads(classes.read_text())) if classes.is_file() else None
    found["classes"] = json.loads(Path("index/coco.panoptic.classes.json").read_text())
    return found


def lists() -> dict[str, Any]:
    """The layouts that name images one by one."""
    folder = Path("lists/images/val2014")
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.bmp").write_bytes(picture(number))
    authors = [
        {"image": f"val2014/{number}.bmp", "caption": [f"cat {number}", " ", f"dog {number}"]} for number in (2, 0)
    ]
    karpathy = [
        {"filepath": "val2014", "filename": f"{number}.bmp", "split": split, "sentences": [{"raw": f"a {number} . "}]}
        for number, split in ((1, "test"), (0, "train"), (2, "test"))
    ]
    Path("lists/authors.json").write_text(json.dumps(authors))
    Path("lists/karpathy.json").write_text(json.dumps({"images": karpathy}))
    common = {"root": "lists", "images": "images"}
    return {
        "caption list": section("retrieval", {"layout": "caption_list", "annotations": "authors.json"} | common),
        "karpathy": section("retrieval", {"layout": "karpathy", "annotations": "karpathy.json"} | common),
    }


@case(
    "evals.evaluate",
    after=("evals.benchmarks.boxes", "evals.benchmarks.retrieval", "evals.index"),
    relative=1e-3,
    absolute=2e-3,
)
def from_file_to_score() -> dict[str, Any]:
    """A published encoder on both kinds; of its vectors the first two numbers of some."""
    run = Path("results/set/pretrained-tiny/train.json")
    export_baseline(WEIGHTS, run, parse(BaselineConfig, {"encoder": write_encoder()}, where="encoders"))
    found: dict[str, Any] = {}
    benchmarks = {kind: section(kind) for kind in ("boxes", "retrieval")}
    indexes = [Path(f"index/{kind}.json") for kind in benchmarks]
    for index, config in zip(indexes, benchmarks.values(), strict=True):
        index_benchmark(index, config)
    evaluate_run(run, indexes, run.with_name("evals.json"), benchmarks, batch_size=2, device="cpu")
    for kind in benchmarks:
        found[kind] = json.loads((run.parent / f"evals/{kind}.json").read_text())
        found[kind]["inputs"] = list(found[kind]["inputs"])
    rows = read_index(Path("index/boxes.json"), section("boxes")).images
    embedder = published_embedder(run, batch_size=2, device="cpu", threads=1)
    texts = ["a photo of a cup", "a photo of the sand", "a cup"]
    vectors = {
        "images": embedder.images(rows, size=16),
        "regions": embedder.regions(rows, size=20),
        "texts": embedder.texts(texts),
    }
    found["vectors"] = {name: [rounded(row[:2], 4) for row in of_kind[:6]] for name, of_kind in vectors.items()}
    return found

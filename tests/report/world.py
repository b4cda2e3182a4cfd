"""A small synthetic tree of data, results and logs, as the workflow leaves it."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fineclip.config import Config, MiniatureSource, load
from fineclip.miniature.scenes import draw_scene
from fineclip.miniature.web import WebItem, web_item
from fineclip.miniature.wording import region_caption
from fineclip.shards import (
    CaptionRow,
    DetectRow,
    FilterRow,
    Job,
    PackRow,
    SelectRow,
    SourceRow,
    TableWriter,
    TarAppender,
    add_sample,
    sha256_of,
)
from fineclip.shards.images import read_header
from fineclip.types import Box, Region, RegionCaption, Sample

SEED = 20_000
SHARDS = ["miniature-0000", "miniature-0001"]
SHARES = {
    "unreadable": 0.03,
    "too-small": 0.05,
    "too-elongated": 0.04,
    "caption-empty": 0.02,
    "caption-short": 0.03,
    "caption-boilerplate": 0.06,
    "undecodable": 0.02,
    "duplicate": 0.04,
    "repeated": 0.03,
}
SCORES = {  # things/top1 and image_to_text/R@1 by method and scale
    (None, None): (10.7, 59.0),
    ("clip", "500"): (10.9, 57.5),
    ("clip", "2000"): (11.1, 55.3),
    ("fineclip", "500"): (16.8, 55.4),
    ("fineclip", "2000"): (26.6, 55.8),
}
BOX_CHANCE = {
    "things/top1": 5.0,
    "things/top5": 25.0,
    "stuff/top1": 16.7,
    "stuff/top5": 83.3,
    "all/top1": 3.8,
    "all/top5": 19.2,
}


@dataclass(frozen=True)
class World:
    """Where the tree lies, and the configuration it belongs to."""

    root: Path
    config: Config

    @property
    def name(self) -> str:
        return self.config.dataset.folder


def config_of(*, per_shard: int = 30, **changes: Any) -> Config:
    """The configuration of the tree: two shards, and changes of its plan."""
    plan = {
        "scales": ["500", "2000"],
        "regions": "annotations",
        "captions": "template",
        "encoders": ["mini"],
        "methods": ["clip", "fineclip"],
        "seeds": [0],
        "benchmarks": ["boxes", "retrieval"],
    }
    values = {
        "dataset": {"name": "tiny"},
        "source": {"kind": "miniature", "images": 2 * per_shard, "images_per_shard": per_shard},
        "filter": {"min_side_px": 96},
        "detect": {"annotations": {"engine": "annotations", "max_regions": 10}},
        "caption": {"template": {"engine": "template"}},
        "encoders": {
            "mini": {"model": "mini.json", "weights": {"path": "mini.safetensors"}, "head": "mean", "image_size": 96}
        },
        "scales": {"500": {"images": 500}, "2000": {"images": 2000}},
        "train": {"batch_size": 64, "epochs": 4, "learning_rate": 5e-4, "warmup_steps": 10},
        "benchmarks": {
            "boxes": {"kind": "boxes", "source": {"layout": "miniature"}},
            "retrieval": {"kind": "retrieval", "source": {"layout": "miniature"}},
        },
    }
    return load(values | {"plan": plan | changes})


def build_world(root: Path, config: Config) -> World:
    """Data, results and logs of every planned run, whole."""
    world = World(root, config)
    assert isinstance(config.source, MiniatureSource)
    per_shard = config.source.images_per_shard
    names = SHARDS
    items = [web_item(SEED, index, items_per_shard=per_shard, shares=SHARES) for index in range(len(names) * per_shard)]
    for index, name in enumerate(names):
        write_shard(world, name, items[index * per_shard : (index + 1) * per_shard])
    for scale in world.config.plan.scales:
        write_select(world, scale, names)
    for run in world.config.runs().values():
        write_run(world, run.id)
    return world


def write_shard(world: World, name: str, items: list[WebItem]) -> None:
    """Source to pack of one shard, and what its jobs logged."""
    data = world.root / "data" / world.name
    keys = [f"{name}-{index:06d}" for index in range(len(items))]
    source, filtered = data / f"source/{name}.json", data / f"filter/{name}.json"
    detected = data / f"detect/annotations/{name}.json"
    captioned, packed = (data / f"{stage}/annotations.template/{name}.json" for stage in ("caption", "pack"))
    for folder in (source.parent, packed.parent):
        folder.mkdir(parents=True, exist_ok=True)
    tar = TarAppender(source.with_suffix(".tar"))
    stored = f"data/{world.name}/source/{name}.tar"
    with TableWriter(Job(source, "source", 1, {}, {}), SourceRow) as table:
        for key, item in zip(keys, items, strict=True):
            piece = tar.add(f"{key}.jpg", item.image)
            table.write(
                SourceRow(
                    key=key,
                    kept=True,
                    source_key=item.source_key,
                    file=stored,
                    offset=piece.offset,
                    size=piece.size,
                    captions=list(item.captions),
                    url=item.url,
                )
            )
    tar.close()
    with TableWriter(Job(filtered, "filter", 1, world.config.filter, made_from(world, source)), FilterRow) as table:
        for key, item in zip(keys, items, strict=True):
            header = read_header(item.image)
            reason = None if item.truth in ("undecodable", "repeated") else item.truth
            size = (header.width, header.height, header.format) if header else (0, 0, None)
            table.write(
                FilterRow(
                    key=key,
                    kept=reason is None,
                    reason=reason,
                    width=size[0],
                    height=size[1],
                    format=size[2],
                    sha256="0" * 64,
                )
            )
    went_on = [
        (key, item) for key, item in zip(keys, items, strict=True) if item.truth in (None, "undecodable", "repeated")
    ]
    write_regions(world, went_on, filtered, detected, captioned, packed)
    for stage, path, seconds in (
        ("source", source, 2.1), ("filter", filtered, 1.2), ("detect", detected, 5.4), ("caption", captioned, 4.2), ("pack", packed, 0.9),
    ):  # fmt: skip
        write_job(world, path.relative_to(data).with_suffix(""), seconds, f"{stage} of {name}: done")


def write_regions(
    world: World, items: list[tuple[str, WebItem]], filtered: Path, detected: Path, captioned: Path, packed: Path
) -> None:
    """Boxes of the scenes themselves, their captions, and the packed shard."""
    kept: list[Sample] = []
    with TableWriter(Job(detected, "detect", 1, {}, made_from(world, filtered)), DetectRow) as table:
        for key, item in items:
            header, scene = read_header(item.image), draw_scene(SEED, item.index)
            assert header is not None
            broken = item.truth == "undecodable"
            things = [] if broken or item.truth == "repeated" else scene.things
            regions = [
                Region(Box(*map(float, thing.box)), 0.97 - 0.06 * rank, thing.label, region_caption(thing))
                for rank, thing in enumerate(things)
            ]
            table.write(
                DetectRow(
                    key=key,
                    kept=not broken,
                    reason="undecodable" if broken else None,
                    width=header.width,
                    height=header.height,
                    regions=list(regions),
                )
            )
            if not broken:
                kept.append(
                    Sample(key, item.image, header.width, header.height, item.captions, item.url, tuple(regions))
                )
    with TableWriter(Job(captioned, "caption", 1, {}, made_from(world, detected)), CaptionRow) as table:
        for sample in kept:
            table.write(
                CaptionRow(key=sample.key, kept=True, regions=[RegionCaption(r.caption, None) for r in sample.regions])
            )
    tar = TarAppender(packed.with_suffix(".tar"))
    with TableWriter(
        Job(packed, "pack", 1, {}, made_from(world, captioned)), PackRow, also=(packed.with_suffix(".tar"),)
    ) as table:
        for sample in kept:
            table.write(add_sample(tar, sample, image_format="JPEG"))
        tar.close()


def made_from(world: World, *manifests: Path) -> dict[str, str]:
    """Manifests as inputs, named as a job in the tree's own folder names them."""
    return {path.relative_to(world.root).as_posix(): sha256_of(path) for path in manifests}


def write_select(world: World, scale: str, shards: list[str]) -> None:
    """A scale that takes every filtered sample but two."""
    data = world.root / "data" / world.name
    filtered = [data / f"filter/{name}.json" for name in shards]
    inputs = made_from(world, *filtered)
    with TableWriter(Job(data / f"select/{scale}.json", "select", 1, {"scale": scale}, inputs), SelectRow) as table:
        for index in range(world.config.scales[scale].images + 2):
            reason = "repeated" if index == 3 else "in-benchmark" if index == 7 else None
            table.write(
                SelectRow(key=f"{shards[-1]}-{index:06d}", kept=reason is None, reason=reason, shard=shards[-1])
            )
    write_job(world, Path("select") / scale, 0.8, f"scale {scale}: done")


def write_run(world: World, run_id: str) -> None:
    """A run that ended well: manifest, losses, scores, logs."""
    run = world.config.runs()[run_id]
    folder = world.root / "results" / world.name / run_id
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(run_id.encode())
    inputs = {f"data/{world.name}/select/{run.scale}.json": "a" * 64, "data/weights/encoders/mini.json": "b" * 64}
    images = world.config.scales[run.scale].images if run.scale else 0
    Job(folder / "train.json", "train", 1, {"method": run.method}, inputs).finish(
        [folder / "model.safetensors"], read=images or 0, kept=images or 0
    )
    if run.method:
        write_metrics(folder / "metrics.jsonl", run.method, steps=30 if run.scale == "500" else 124, wobble=run.seed)
    write_job(
        world, Path("train") / run_id, 14.0 if run.scale == "500" else 53.0 if run.method else 2.0, f"{run_id}: done"
    )
    for benchmark in world.config.plan.benchmarks:
        write_scores(world, run_id, benchmark)
    write_evals(world, run_id)


def write_metrics(path: Path, method: str, *, steps: int, wobble: int) -> None:
    """Losses that fall."""
    lines, speeds = [], []
    for step in range(2, steps + 1, 2):
        fall = math.exp(-step / 45) + 0.04 * math.sin(step * 0.9 + wobble)
        terms = {"global": 2.6 + 1.5 * fall}
        if method == "fineclip":
            terms |= {"region": 1.9 + 3.1 * fall, "distill": 0.22 + 0.5 * fall}
        line = {
            "step": step,
            "epoch": step * 4 / steps,
            "learning_rate": 5e-4,
            "logit_scale": 50.0,
            "images": 64,
            "regions": 150,
        }
        speeds.append(json.dumps({"step": step, "images_per_second": 120.0 + step % 7, "peak_memory_mb": 900}))
        lines.append(json.dumps(line | terms | {"total": sum(terms.values())}))
    path.write_text("\n".join(lines) + "\n")
    path.with_name("speed.jsonl").write_text("\n".join(speeds) + "\n")


def write_scores(world: World, run_id: str, benchmark: str, **changes: Any) -> None:
    """The scores of one run on one benchmark."""
    run = world.config.runs()[run_id]
    box, retrieval = SCORES[run.method, run.scale]
    box, retrieval = box + 0.5 * run.seed, retrieval + 0.7 * run.seed
    if benchmark == "boxes":
        values = {
            "things/top1": box, "things/top5": 25 + box * 1.65, "stuff/top1": 9 + box / 3, "stuff/top5": 50 + box / 2,
            "all/top1": box * 0.78, "all/top5": 20 + box * 1.4,
        }  # fmt: skip
        scores = [
            {"metric": name, "value": value, "n": 1894 if "stuff" not in name else 1106}
            for name, value in values.items()
        ]
    else:
        values = {
            f"{way}/R@{k}": min(100.0, retrieval * f - g)
            for way, g in (("image_to_text", 0), ("text_to_image", 2.4))
            for k, f in ((1, 1), (5, 1.5), (10, 1.65))
        }
        scores = [{"metric": name, "value": value, "n": 600} for name, value in values.items()]
    folder = world.root / "results" / world.name / run_id
    chance = BOX_CHANCE if benchmark == "boxes" else {name: 100 * int(name.split("@")[1]) / 600 for name in values}
    record = {
        "benchmark": benchmark, "version": 1, "scores": scores, "config": {"kind": benchmark, "source": {"layout": "miniature"}},
        "inputs": {f"results/{world.name}/{run_id}/train.json": sha256_of(folder / "train.json")}, "chance": chance,
    }  # fmt: skip
    (folder / "evals").mkdir(exist_ok=True)
    (folder / f"evals/{benchmark}.json").write_text(json.dumps(record | changes))


def write_evals(world: World, run_id: str) -> None:
    """The manifest of the evaluation of a run, and its job's log and benchmark table."""
    folder = world.root / "results" / world.name / run_id
    scores = [folder / f"evals/{benchmark}.json" for benchmark in world.config.plan.benchmarks]
    job = Job(folder / "evals.json", "evaluate", 1, {}, made_from(world, folder / "train.json"))
    job.finish(scores, read=len(scores), kept=len(scores))
    write_job(world, Path("evaluate") / run_id, 6.4, f"{run_id}: done")


def write_job(world: World, name: Path, seconds: float, line: str) -> None:
    """The log and the benchmark table of one job."""
    base = world.root / "logs" / world.name / name
    base.parent.mkdir(parents=True, exist_ok=True)
    base.with_name(f"{base.name}.log").write_text(f"09:00:00 {line}\n")
    columns = ["s", "h:m:s", "max_rss", "max_vms", "max_uss", "max_pss", "io_in", "io_out", "mean_load", "cpu_time"]
    values = [
        f"{seconds:.4f}",
        "0:00:05",
        "812.50",
        "3000.0",
        "700.0",
        "710.0",
        "0.0",
        "1.2",
        "97.0",
        f"{seconds * 0.97:.2f}",
    ]
    base.with_name(f"{base.name}.tsv").write_text("\t".join(columns) + "\n" + "\t".join(values) + "\n")

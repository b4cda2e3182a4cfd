"""Runs of the workflow in a folder of a test's own, and what Snakemake says it would do."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from fineclip.config import merge, read_files
from fineclip.shards import sha256_of
from tests.helpers.coco import write_coco

ROOT = Path(__file__).parents[2]
SNAKEFILE = ROOT / "workflow/Snakefile"

SMALL = {  # drawn images in COCO's layout, their own boxes, a template for captions: no model but the encoder
    "dataset": {"name": "small"},
    "source": {"kind": "coco", "root": "input", "images_per_shard": 12},
    "filter": {"min_side_px": 64},
    "select": {"exclude": ["boxes", "retrieval"]},
    "detect": {"annotations": {"engine": "annotations"}},
    "caption": {"template": {"engine": "template"}},
    "encoders": {},
    "scales": {"10": {"images": 10}, "20": {"images": 20}},
    "methods": {"fineclip": {"relaxed": {"detach_crops": True}}},
    "benchmarks": {
        "boxes": {"kind": "boxes", "source": {"layout": "coco_panoptic", "root": "input"}},
        "retrieval": {"kind": "retrieval", "source": {"layout": "coco_captions", "root": "input"}},
    },
    "train": {
        "batch_size": 6,
        "epochs": 3,
        "warmup_steps": 1,
        "learning_rate": 1e-4,
        "checkpoint_every_steps": 2,
        "log_every_steps": 1,
    },
    "plan": {
        "scales": ["10", "20"],
        "regions": "annotations",
        "captions": "template",
        "encoders": ["mini"],
        "benchmarks": ["boxes", "retrieval"],
        "expected_keep_rate": 1.0,
        "shard_margin": 0.0,
    },
}


def small_world(folder: Path, *, images: int = 36) -> None:
    """A folder with `input/` and `config.yaml`, ready to run."""
    write_coco(folder / "input", train=images, val=10)
    encoder = read_files([ROOT / "config.yaml"])["encoders"]["mini"]
    write_config(folder, SMALL | {"encoders": {"mini": encoder}})


def write_config(folder: Path, values: dict[str, Any]) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump(values))


def edit_config(folder: Path, change: dict[str, Any]) -> None:
    """Lay a change over the configuration of a folder."""
    write_config(folder, merge(yaml.safe_load((folder / "config.yaml").read_text()), change))


def command(*arguments: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(SNAKEFILE),
        "--workflow-profile",
        str(ROOT / "workflow/profiles/default"),
        "--cores",
        "2",
        *arguments,
    ]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The workflow, run in a folder."""
    return subprocess.run(
        command(*arguments), cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )


def run_all(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As `snakemake`, and it must end well."""
    done = snakemake(folder, *arguments)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done


def planned(folder: Path, *arguments: str) -> dict[str, int]:
    """How many jobs of each rule a run would start, target rules apart."""
    done = snakemake(folder, "--dry-run", *arguments)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    text = done.stdout + done.stderr
    counts = dict(re.findall(r"^([a-z_]+) +(\d+)$", text, flags=re.MULTILINE))
    targets = {
        "total",
        "all",
        "data",
        "train",
        "evaluate",
        "source",
        "filter",
        "select",
        "detect",
        "caption",
        "pack",
        "card",
        "concepts",
        "texts",
        "index",
        "weights",
    }
    return {rule: int(count) for rule, count in counts.items() if rule not in targets}


def results_of(folder: Path) -> dict[str, str]:
    """Hash of everything that the runs made and that must not depend on how: manifests, tables, tars, weights, scores."""
    kinds: Iterable[str] = ("*.json", "*.parquet", "*.tar", "*.safetensors", "*.yaml")
    files = (path for top in ("data", "results") for kind in kinds for path in (folder / top).rglob(kind))
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(files)
        if "state" not in path.parts and not path.name.startswith(".")
    }

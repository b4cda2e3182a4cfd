"""Images per second and CPU time of the data loader, this checkout against another one, measured in alternation.

    git worktree add /tmp/base COMMIT
    python -m benchmarks.throughput --base /tmp/base

Each checkout has one process, which imports it once; the two measure in alternation. The other checkout must contain this
file.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch

from benchmarks.command import build_parser, run
from benchmarks.figures import Figure
from benchmarks.photos import COCO, photographs, sample_of
from fineclip.config.methods import FineCLIPConfig
from fineclip.config.training import LoaderConfig
from fineclip.methods.fineclip import FineCLIP
from fineclip.methods.transforms import DataSpec
from fineclip.models.tokenizer import CONTEXT_LENGTH, Tokenizer
from fineclip.shards import TarAppender, add_sample
from fineclip.train.data import Collate, PackedDataset, build_batches
from fineclip.train.sampler import BatchSampler, EpochOrder
from fineclip.train.selection import INDEX_COLUMNS, PackedShard

BATCH, WARM_UP, MEASURED = 16, 8, 24  # images, batches, batches
PHOTOGRAPHS = 32
SIDE = 224


class Case(NamedTuple):
    """Boxes per image, device of the crops and number of worker processes."""

    boxes: int
    crops: str
    workers: int

    @property
    def name(self) -> str:
        """Name in the table."""
        return f"640 x 480, {self.boxes} boxes, crops by the {self.crops}, {self.workers} workers"


class Throughput(NamedTuple):
    """Wall seconds and CPU seconds (this process and its workers) per image of a running loader, and the seconds to start it."""

    wall: float
    cpu: float
    start_cpu: float


CASES = [
    Case(boxes, crops, workers) for boxes, crops in ((4, "worker"), (10, "worker"), (4, "device")) for workers in (0, 2)
]


def write_shard(folder: Path, *, boxes: int) -> PackedShard:
    """Write a packed shard of synthetic photographs."""
    path = folder / f"{boxes}.tar"
    tar = TarAppender(path)
    samples = [
        sample_of(data, COCO, boxes=boxes, seed=number) for number, data in enumerate(photographs(COCO, PHOTOGRAPHS))
    ]
    rows = [add_sample(tar, sample, image_format="JPEG") for sample in samples]
    tar.close()
    index = np.array([[getattr(row, column) for column in INDEX_COLUMNS] for row in rows], dtype=np.int64)
    return PackedShard(path, np.array([row.key.encode() for row in rows], dtype=np.bytes_), index)


def measure(case: Case, shard: PackedShard) -> Throughput:
    """Load batches until the rate is steady, then measure."""
    inputs = DataSpec(Tokenizer(context_length=CONTEXT_LENGTH), SIDE, SIDE, loader=LoaderConfig(crops=case.crops))
    prepare = FineCLIP.build_transform(inputs, FineCLIPConfig(), max_regions=20)
    order = EpochOrder((len(shard),), BATCH, seed=0, shuffle_shards=1)
    sampler = BatchSampler(order, 0, WARM_UP + MEASURED + 8, rank=0, world_size=1)
    begin = cpu_seconds()
    stream = build_batches(
        PackedDataset([shard], prepare, seed=0), Collate(inputs), sampler, workers=case.workers, pin_memory=False
    )
    next(stream)
    started = cpu_seconds()
    for _ in range(WARM_UP - 1):
        next(stream)
    cpu, wall = cpu_seconds(), time.perf_counter()
    for _ in range(MEASURED):
        next(stream)
    cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    stream.close()  # type: ignore[attr-defined]
    images = MEASURED * BATCH
    return Throughput(wall / images, cpu / images, started - begin)


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and its living descendants."""
    own = psutil.Process()
    return sum(sum(each.cpu_times()[:2]) for each in (own, *own.children(recursive=True)))


def serve() -> None:
    """Read a case from each line of stdin and write its throughput to stdout."""
    with tempfile.TemporaryDirectory() as folder:
        shards = {boxes: write_shard(Path(folder), boxes=boxes) for boxes in {case.boxes for case in CASES}}
        for line in sys.stdin:
            case = Case(*json.loads(line))
            print(json.dumps(measure(case, shards[case.boxes])), flush=True)


class Server:
    """Process that measures in a checkout."""

    def __init__(self, checkout: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.throughput", "--serve"]
        self.process = subprocess.Popen(
            command, cwd=checkout, env=_environment(checkout), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def measure(self, case: Case) -> Throughput:
        """Measure a case in the other process and return the result."""
        if self.process.stdin is None or self.process.stdout is None:
            raise AssertionError("a server has pipes")
        self.process.stdin.write(json.dumps(case) + "\n")
        self.process.stdin.flush()
        return Throughput(*json.loads(self.process.stdout.readline()))


def _environment(checkout: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}


def compare(base: Path, *, repeats: int, cases: Sequence[Case] = CASES) -> list[Figure]:
    """Measure each case in both checkouts in turn; the median of the pairs' ratios is the result."""
    figures = []
    with ExitStack() as stack:
        servers = {name: stack.enter_context(Server(path)) for name, path in (("before", base), ("after", Path.cwd()))}
        for case in cases:
            pairs = [{name: server.measure(case) for name, server in servers.items()} for _ in range(repeats)]
            figures += [
                _figure(f"loader, images a second, {case.name}", "1/s", [_inverse(pair) for pair in pairs]),
                _figure(f"loader, CPU time of an image, {case.name}", "ms", [_cpu(pair) for pair in pairs]),
            ]
            if case.workers:
                figures.append(
                    _figure(f"loader, CPU time to the first batch, {case.name}", "s", [_start(pair) for pair in pairs])
                )
    return figures


Pair = dict[str, float]


def _inverse(pair: dict[str, Throughput]) -> Pair:
    return {name: 1 / found.wall for name, found in pair.items()}


def _cpu(pair: dict[str, Throughput]) -> Pair:
    return {name: found.cpu * 1000 for name, found in pair.items()}


def _start(pair: dict[str, Throughput]) -> Pair:
    return {name: found.start_cpu for name, found in pair.items()}


def _figure(name: str, unit: str, pairs: Sequence[Pair]) -> Figure:
    def median(values: Sequence[float]) -> float:
        return float(np.median(values))

    spread = {
        side: (min(pair[side] for pair in pairs), max(pair[side] for pair in pairs)) for side in ("before", "after")
    }
    return Figure(
        name,
        unit,
        ours=median([pair["after"] for pair in pairs]),
        reference=median([pair["before"] for pair in pairs]),
        against="before",
        ratio=median([pair["after"] / pair["before"] for pair in pairs]),
        spread=spread,
        note=f"median of {len(pairs)} pairs",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare two checkouts, show, write."""
    parser = build_parser(__doc__, repeats=5)
    parser.add_argument("--base", type=Path, help="the other checkout")
    parser.add_argument("--serve", action="store_true", help="measure the cases that are read from stdin")
    if parser.parse_args(arguments).serve:
        torch.set_num_threads(1)
        serve()
        return
    run("throughput", parser, lambda chosen: compare(chosen.base.resolve(), repeats=chosen.repeats), arguments)


if __name__ == "__main__":
    main()

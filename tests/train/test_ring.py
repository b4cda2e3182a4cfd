"""The ring of slots: what lies where, what does not fit, and that nothing is left of it."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fineclip.config import LoaderConfig
from fineclip.methods.transforms import DataSpec
from fineclip.train import loader
from fineclip.train.loader import Collate, batches
from fineclip.train.order import BatchSampler, Order
from fineclip.train.ring import SPARE_SLOTS, Ring, Size, enough
from tests.helpers.packs import write_world
from tests.helpers.tiny import TinyTokenizer
from tests.train.test_loader import INPUTS, assert_same, kept, samples_of

SIZES = {"a": 5, "b": 4, "c": 4}
ON_DEVICE = DataSpec(TinyTokenizer(), image_size=16, crop_size=8, loader=LoaderConfig(crops="device"))


def sampler_of(steps: int = 12) -> BatchSampler:
    return BatchSampler(Order(tuple(SIZES.values()), 4, seed=0, shuffle_shards=2), 0, steps, rank=0, world_size=1)


def test_a_slot_is_whole_pages_and_holds_images_then_crops() -> None:
    ring = Ring(3, Size(100, 5000))
    assert ring.slot_bytes % os.sysconf("SC_PAGE_SIZE") == 0
    first, other, again = (ring.canvas(number) for number in (1, 2, 4))
    first.images.take(10).fill_(7)
    first.crops.take(4, 2).fill_(9)
    other.images.take(10).fill_(1)
    assert again.images.take(10).tolist() == [7] * 10  # batch 4 of 3 slots
    assert again.crops.take(8).tolist() == [9] * 8
    ring.close()


def test_a_spot_finds_its_tensor_again() -> None:
    ring = Ring(2, Size(64, 64))
    piece = ring.canvas(1).images.take(2, 4, 3).copy_(torch.arange(24).view(2, 4, 3)).permute(2, 0, 1)
    spot = ring.spot(piece)
    assert spot is not None
    assert torch.equal(ring.tensor(spot), piece)
    assert ring.spot(piece.clone()) is None


def test_a_slot_is_enough_for_nearly_any_batch() -> None:
    assert enough([Size(48, 0)] * 9, 4) == Size(192, 0)
    draws = torch.randint(0, 21, (2000, 32), generator=torch.Generator().manual_seed(0)) * 1000
    measured = [Size(0, value) for value in draws[0].tolist()]
    bound = enough(measured, 32).crops
    assert (draws.sum(dim=1) > bound).sum() == 0
    assert bound < 20_000 * 32
    assert enough([Size(0, 0), Size(0, 90)], 1).crops >= 90


@pytest.mark.parametrize("inputs", [INPUTS, ON_DEVICE], ids=["worker", "device"])
def test_pixels_come_through_the_ring_many_times_round_it(tmp_path: Path, inputs: DataSpec) -> None:
    samples = samples_of(*write_world(tmp_path, SIZES), inputs=inputs)
    alone = list(batches(samples, Collate(inputs), sampler_of(), workers=0, pin=False))
    assert all(batch.lease is None for batch in alone)
    assert all((batch.cuts is not None) == (inputs is ON_DEVICE) for batch in alone)
    seen, places = [], set()
    for batch in batches(samples, Collate(inputs), sampler_of(), workers=1, pin=False):
        assert batch.lease is not None
        places.add(batch.images.data_ptr())
        seen.append(kept(batch))
    assert len(places) == loader.PREFETCH + SPARE_SLOTS  # of twelve batches
    for one, other in zip(seen, alone, strict=True):
        assert_same(one, other)


def test_a_batch_that_does_not_fit_its_slot_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    samples = samples_of(*write_world(tmp_path, SIZES))
    alone = list(batches(samples, Collate(INPUTS), sampler_of(4), workers=0, pin=False))
    monkeypatch.setattr(loader, "enough", lambda *_: Size(4 * 16 * 16 * 3, 1))  # a page has 21 crops of 8 px
    monkeypatch.setattr("fineclip.train.ring.PAGE", 512)
    with caplog.at_level(logging.INFO, "fineclip.train.loader"):
        seen = [kept(batch) for batch in batches(samples, Collate(INPUTS), sampler_of(4), workers=1, pin=False)]
    for one, other in zip(seen, alone, strict=True):
        assert_same(one, other)
    large = sum(batch.crops.nbytes > 512 for batch in alone)
    assert large > 0
    assert [record.message for record in caplog.records if "do not fit" in record.message] != []
    assert caplog.records[-1].message == f"{large} of 4 batches were too large for their slot"


SCRIPT = """
import multiprocessing, sys
from pathlib import Path
from fineclip.train.loader import Collate, batches
from tests.train.test_loader import INPUTS, samples_of
from tests.train.test_ring import sampler_of
from tests.helpers.packs import write_world
from tests.train.test_ring import SIZES

def main():
    samples = samples_of(*write_world(Path(sys.argv[1]), SIZES))
    stream = batches(samples, Collate(INPUTS), sampler_of(500), workers=2, pin=False)
    next(stream)
    print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
    if sys.argv[2] == "exit":
        raise SystemExit(7)
    sys.stdin.read()

if __name__ == "__main__":
    main()
"""


def started(folder: Path, how: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A process whose two workers are at work, and their numbers."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder / "world"), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    return process, [int(word) for word in process.stdout.readline().split()]


def are_gone(pids: list[int], *, within: float) -> bool:
    end = time.monotonic() + within
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks processes up in /proc")
@pytest.mark.parametrize("how", ["exit", "kill"])
def test_nothing_is_left_of_a_training_that_ends_in_the_middle(tmp_path: Path, how: str) -> None:
    process, workers = started(tmp_path, how)
    with process:
        assert len(workers) == 2
        if how == "kill":
            os.kill(process.pid, signal.SIGKILL)
        assert process.wait(timeout=60) == (-signal.SIGKILL if how == "kill" else 7)
    assert are_gone(workers, within=30)
    named = [path.name for path in Path("/dev/shm").iterdir()]
    assert not [name for name in named for pid in (process.pid, *workers) if f"_{pid}_" in name]

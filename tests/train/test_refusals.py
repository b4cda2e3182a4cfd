"""A training that the system refuses something: workers, checkpoints, metrics, and all ranks together."""

import errno
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fineclip.errors import FineclipError, MemoryLimitError, SystemRefusalError
from fineclip.train import data
from fineclip.train.data import PackedDataset, build_batches
from fineclip.train.distributed import DistributedContext
from fineclip.train.sampler import BatchSampler, EpochOrder
from fineclip.train.selection import PackedShard
from fineclip.train.train import train
from tests.helpers.limits import file_size_limit
from tests.helpers.packs import write_world
from tests.helpers.processes import run_processes
from tests.helpers.training import INPUTS, training_of

World = tuple[Path, list[Path]]
needs_fork = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return write_world(tmp_path / "data", {"a": 6, "b": 5})


def first_batch(samples: PackedDataset, *, workers: int) -> Any:
    sizes = tuple(map(len, samples.shards))
    order = EpochOrder(sizes, 4, seed=0, shuffle_shards=1)
    sampler = BatchSampler(order, 0, 2, 0, 1, [])
    return next(build_batches(samples, data.Collate(INPUTS), sampler, workers=workers, pin_memory=False))


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=needs_fork)])
@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO, errno.ESTALE])
def test_a_worker_that_is_refused_a_file_says_so(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, code: int
) -> None:
    samples = training_of(world, tmp_path / "run").samples

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code), "pack/a.tar")

    monkeypatch.setattr(PackedShard, "read", refuse)
    with pytest.raises(SystemRefusalError, match=rf"^pack/a\.tar: refused: {os.strerror(code)}"):
        first_batch(samples, workers=workers)


@needs_fork
@pytest.mark.parametrize(
    "words",
    [
        "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)",
        "unable to write to file </torch_1_2_3>: No space left on device (28)",
    ],
)
def test_full_shared_memory_of_workers(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    samples = training_of(world, tmp_path / "run").samples

    def refuse(*_: object) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    with pytest.raises(SystemRefusalError, match=r"^/dev/shm: .*No space left on device \(ENOSPC\)"):
        first_batch(samples, workers=1)
    assert first_batch(samples, workers=0).keys  # which needs none


@needs_fork
@pytest.mark.parametrize(("number", "kind"), [("SIGBUS", SystemRefusalError), ("SIGKILL", MemoryLimitError)])
def test_a_worker_that_the_system_ends(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str, kind: type[FineclipError]
) -> None:
    samples = training_of(world, tmp_path / "run").samples

    def end(*_: object) -> None:
        os.kill(os.getpid(), getattr(signal, number))
        time.sleep(60)

    monkeypatch.setattr(PackedShard, "read", end)
    with pytest.raises(kind, match=r"/dev/shm|runtime\.num_workers"):
        first_batch(samples, workers=1)


def test_a_worker_with_a_bug_keeps_its_traceback(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = training_of(world, tmp_path / "run").samples

    def refuse(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(PackedShard, "read", refuse)
    with pytest.raises(RuntimeError, match="a bug"):
        first_batch(samples, workers=0)


def test_a_checkpoint_on_a_full_disk(world: World, tmp_path: Path) -> None:
    training = training_of(world, tmp_path / "run")
    with file_size_limit(8_192), pytest.raises(SystemRefusalError, match=r"step-\d+\.pt: cannot be written: .*EFBIG"):
        train(training)
    assert list((tmp_path / "run/state").glob("*")) == []
    whole = train(training_of(world, tmp_path / "whole"))
    again = train(training_of(world, tmp_path / "run"))
    for name, value in whole.method.state_dict().items():
        assert torch.equal(value, again.method.state_dict()[name])


def test_metrics_on_a_full_disk(world: World, tmp_path: Path) -> None:
    training = training_of(world, tmp_path / "run", checkpoint_every_steps=1000, log_every_steps=1)
    with file_size_limit(100), pytest.raises(SystemRefusalError, match=r"run: metrics cannot be written: .*EFBIG"):
        train(training)


def test_ranks_hear_of_a_refusal_on_the_main_process() -> None:
    found = run_processes(refused_on_main, range(2))
    assert (
        found[0]
        == found[1]
        == [
            "state/a.pt: refused: No space left on device (ENOSPC)",
            "Lower runtime.crop_micro_batch_size or runtime.image_micro_batch_size, and run again.",
        ]
    )


def refused_on_main(rank: int) -> list[str]:
    context, found = DistributedContext(rank, 2, torch.device("cpu")), list[str]()

    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "state/a.pt")

    def exhausted() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    try:
        context.run_on_main(full)
    except SystemRefusalError as error:
        found.append(str(error).partition(". ")[0])
    try:
        context.run_on_main(exhausted)
    except MemoryLimitError as error:
        found.append(str(error).partition(". ")[2])
    return found


@pytest.mark.parametrize("changes", [{"batch_size": 1}])
@pytest.mark.parametrize(
    ("method", "options", "is_refused"),
    [
        ("clip", {}, True),
        ("fineclip", {}, True),
        ("fineclip", {"weights": {"global": 0}}, False),
        ("clipself", {}, False),
    ],
)
def test_one_pair_has_nothing_to_be_contrasted_with(
    world: World, tmp_path: Path, method: str, options: dict[str, Any], is_refused: bool, changes: dict[str, Any]
) -> None:
    training = training_of(world, tmp_path / "run", method=method, options=options, max_steps=1, epochs=1, **changes)
    if is_refused:
        with pytest.raises(FineclipError, match=r"train\.batch_size: a step has 1 of 11 samples.* at least 2"):
            train(training)
    else:
        assert train(training).step == 1


def test_a_selection_of_one_sample(tmp_path: Path) -> None:
    world = write_world(tmp_path / "data", {"a": 1})
    with pytest.raises(FineclipError, match=r"a step has 1 of 1 samples.* at least 2"):
        train(training_of(world, tmp_path / "run", method="clip"))

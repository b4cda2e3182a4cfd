"""kill -9 at random moments, again and again: the training ends in the same bits as one that nothing disturbed."""

import json
import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist

from fineclip.train.train import train
from tests.helpers.packs import write_world
from tests.helpers.processes import PRELOADED
from tests.helpers.training import lines_of, training_of, weights_of

pytestmark = pytest.mark.slow

World = tuple[Path, list[Path]]
STEPS = 24
PATIENCE_S = 120


class Kill(NamedTuple):
    """When and whom. From outside: a moment after a line of the metrics; from inside: at a point of writing a checkpoint.

    Attributes:
        step: the least number of steps that are made before.
        who: a process by its rank, None all of them.
        delay_s: after the line of that step.
        point: of the first process's next checkpoint, None for a kill from outside.
    """

    step: int
    who: int | None = None
    delay_s: float = 0.0
    point: str | None = None


POINTS = ("half written", "not renamed", "without its record", "old ones not removed")


def kills(world_size: int) -> Iterator[Kill]:
    """Nine, over the length of the training: at every point of a checkpoint, of all, of one."""
    moments = random.Random(world_size)
    kinds = [*POINTS, "all", "all", "all", "one", "one"]
    moments.shuffle(kinds)
    for number, kind in enumerate(kinds):
        step = 1 + 2 * number + moments.randrange(2)
        if kind in POINTS:
            yield Kill(step, who=0, point=kind)
        else:
            who = moments.randrange(world_size) if kind == "one" else None
            yield Kill(step, who=who, delay_s=moments.uniform(0, 0.03))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_world(tmp_path_factory.mktemp("world"), {"a": 6, "b": 3})


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_killed_nine_times_a_training_ends_in_the_same_bits(world: World, tmp_path: Path, world_size: int) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert codes_of(started(world, whole, world_size)) == [0] * world_size
    for kill in kills(world_size):
        processes = started(world, torn, world_size, kill)
        if kill.point is None:
            wait_for(lambda step=kill.step: steps_of(torn) >= step, processes)
            sleep(kill.delay_s)
            for rank, process in enumerate(processes):
                if kill.who in (None, rank):
                    os.kill(process.pid or 0, signal.SIGKILL)
        codes = codes_of(processes)
        killed = range(world_size) if kill.who is None else [kill.who]
        assert all(codes[rank] == -signal.SIGKILL for rank in killed), (kill, codes)
        assert 0 not in codes, (kill, codes)  # the others fell with it, by themselves
        assert steps_of(torn) < STEPS
    assert codes_of(started(world, torn, world_size)) == [0] * world_size
    assert 0 < json.loads((torn / "began.json").read_text()) < STEPS
    assert_equal_results(torn, whole, world_size)
    assert [path.name for path in (torn / "state").glob(".*.tmp")] == []


def assert_equal_results(torn: Path, whole: Path, world_size: int) -> None:
    assert (torn / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert len(lines_of(torn / "metrics.jsonl")) == STEPS
    for rank in range(world_size):
        left, right = (torch.load(folder / f"{rank}.pt") for folder in (torn, whole))
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)


def started(world: World, folder: Path, world_size: int, kill: Kill | None = None) -> list[BaseProcess]:
    """A training in so many processes, each forked from a server that has imported what they need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    folder.mkdir(exist_ok=True)
    meeting = folder / "meeting"
    meeting.unlink(missing_ok=True)
    processes: list[BaseProcess] = [
        context.Process(target=_train, args=(rank, world_size, meeting, world, folder, kill), daemon=True)
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    return processes


def codes_of(processes: list[BaseProcess]) -> list[int | None]:
    """How they ended; nobody is left to be killed."""
    end = monotonic() + PATIENCE_S
    for process in processes:
        process.join(max(0.0, end - monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def wait_for(is_so: Callable[[], bool], processes: list[BaseProcess]) -> None:
    end = monotonic() + PATIENCE_S
    while not is_so() and all(process.is_alive() for process in processes):
        assert monotonic() < end, "it did not come so far in time"
        sleep(0.001)


def steps_of(folder: Path) -> int:
    """How far the metrics reach."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def _train(rank: int, world_size: int, meeting: Path, world: World, folder: Path, kill: Kill | None) -> None:
    torch.set_num_threads(1)
    if world_size > 1:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{meeting}",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=PATIENCE_S),
        )
    training = training_of(
        world,
        folder,
        rank=rank,
        world_size=world_size,
        epochs=STEPS,
        max_steps=STEPS,
        log_every_steps=1,
        checkpoint_every_steps=1,
    )
    if rank == 0:
        found = training.checkpoints.load_latest()
        (folder / "began.json").write_text(json.dumps(found[0] if found else 0))
    if kill is not None and kill.point is not None and rank == 0:
        _be_killed(kill.point, kill.step)
    with training.checkpoints.locked() if rank == 0 else nullcontext():
        train(training)
    torch.save(weights_of(training), folder / f"{rank}.pt")
    if world_size > 1:
        dist.destroy_process_group()


def _be_killed(point: str, step: int) -> None:
    """Let this process be killed in the writing of the first checkpoint of at least so many steps."""

    def is_due(path: Path) -> bool:
        name = path.name.lstrip(".")
        return name.startswith("step-") and int(name[5:13]) >= step

    def at(owner: Any, name: str, does: Callable[[Any, Any], None]) -> None:
        own = getattr(owner, name)

        def method(first: Any, *others: Any, **options: Any) -> Any:
            does(own, (first, *others))
            return own(first, *others, **options)

        setattr(owner, name, method)

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def half(own: Any, arguments: Any) -> None:
        content, file = arguments  # an open file for a checkpoint, a path for the weights at the end
        path = Path(getattr(file, "name", file))
        if is_due(path):
            own(content, file)
            file.flush()
            os.truncate(path, path.stat().st_size // 2)
            die()

    def before_rename(_: Any, arguments: Any) -> None:
        if is_due(arguments[0]) and ".pt." in arguments[0].name:
            die()

    def before_record(_: Any, arguments: Any) -> None:
        if is_due(arguments[0]) and ".json." in arguments[0].name:
            die()

    def before_removal(_: Any, arguments: Any) -> None:
        path = arguments[0]
        newest = max(path.parent.glob("step-*.json"), default=None)
        if newest is not None and is_due(newest) and path.suffix == ".json" and path.is_file():
            die()

    match point:
        case "half written":
            at(torch, "save", half)
        case "not renamed":
            at(Path, "replace", before_rename)
        case "without its record":
            at(Path, "replace", before_record)
        case "old ones not removed":
            at(Path, "unlink", before_removal)

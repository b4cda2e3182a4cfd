"""No device is shared, nobody waits for ever, and a kill gives back what was held. Devices are numbers: no GPU is needed."""

import multiprocessing
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import pytest

from fineclip.cli import devices
from fineclip.cli.devices import allocation_of, claim, pool_of
from fineclip.errors import ConfigError
from tests.helpers.verbs import fineclip

SOON_S = 60


class Held(NamedTuple):
    """What a job held, from when to when on the clock of the machine."""

    taken: tuple[str, ...]
    since: float
    until: float


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Without a scheduler, where nobody chose devices; the folder of its locks."""
    for name in (devices.VISIBLE, "CUDA_DEVICE_ORDER", *devices.SCHEDULERS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(devices, "POLL_INTERVAL_S", 0.01)
    return tmp_path / "locks"


def started(function: object, *arguments: object) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def hold(count: int, pool: tuple[int, ...], seconds: float, locks: Path, record: Path | None = None) -> None:
    """Be a job: take, work, leave a record."""
    taken = claim(count, pool, folder=locks)
    since = time.monotonic()
    time.sleep(seconds)
    if record is not None:
        part = record.with_suffix(".part")
        part.write_text(f"{','.join(taken)} {since} {time.monotonic()} {os.environ[devices.VISIBLE]}")
        part.rename(record)


def held_by(records: list[Path]) -> list[Held]:
    found = []
    for path in records:
        taken, since, until, visible = path.read_text().split()
        assert taken == visible
        found.append(Held(tuple(taken.split(",")), float(since), float(until)))
    return found


def assert_none_is_shared(jobs: list[Held]) -> None:
    for index, one in enumerate(jobs):
        for other in jobs[index + 1 :]:
            if set(one.taken) & set(other.taken):
                assert one.until <= other.since or other.until <= one.since, (one, other)


def until(is_so: object) -> None:
    end = time.monotonic() + SOON_S
    while not is_so():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@pytest.mark.parametrize("counts", [[1] * 8, [1, 2, 1, 2, 1, 2, 1, 2], [3, 1, 2, 3, 2, 1, 1, 3]])
def test_eight_jobs_at_once_share_no_device_and_all_end(machine: Path, tmp_path: Path, counts: list[int]) -> None:
    records = [tmp_path / f"{number}.txt" for number in range(len(counts))]
    jobs = [
        started(hold, count, (0, 1, 2), 0.05 + 0.01 * number, machine, record)
        for number, (count, record) in enumerate(zip(counts, records, strict=True))
    ]
    for job in jobs:
        job.join(SOON_S)
    assert [job.exitcode for job in jobs] == [0] * 8
    held = held_by(records)
    assert sorted(len(job.taken) for job in held) == sorted(counts)
    assert {device for job in held for device in job.taken} == {"0", "1", "2"}
    assert_none_is_shared(held)


def test_jobs_with_pools_that_overlap_share_none_and_all_end(machine: Path, tmp_path: Path) -> None:
    pools = [(0, 1), (1, 2), (2, 0), (2, 1), (1, 0), (0, 2), (0, 1, 2), (2,)]
    records = [tmp_path / f"{number}.txt" for number in range(len(pools))]
    jobs = [
        started(hold, min(2, len(pool)), pool, 0.05, machine, record)
        for pool, record in zip(pools, records, strict=True)
    ]
    for job in jobs:
        job.join(SOON_S)
    assert [job.exitcode for job in jobs] == [0] * 8
    held = held_by(records)
    assert all(set(job.taken) <= set(map(str, pool)) for job, pool in zip(held, pools, strict=True))
    assert_none_is_shared(held)


def test_kill_releases_gpus(machine: Path, tmp_path: Path) -> None:
    victim = started(hold, 2, (0, 1), SOON_S, machine)
    until(lambda: all((machine / f"device-{number}").is_file() for number in (0, 1)))
    waiting = [started(hold, 2, (0, 1), 0, machine, tmp_path / f"{number}.txt") for number in range(2)]
    time.sleep(0.2)
    assert not list(tmp_path.glob("*.txt"))
    os.kill(victim.pid or 0, signal.SIGKILL)
    for job in waiting:
        job.join(SOON_S)
    assert [job.exitcode for job in waiting] == [0, 0]
    assert_none_is_shared(held_by(sorted(tmp_path.glob("*.txt"))))


def test_a_kill_of_one_who_waits_lets_the_next_one_in(machine: Path, tmp_path: Path) -> None:
    holder = started(hold, 1, (0,), SOON_S, machine)
    until((machine / "device-0").is_file)
    first = started(hold, 1, (0,), SOON_S, machine)
    until((machine / "line-device-0").is_file)
    second = started(hold, 1, (0,), 0, machine, tmp_path / "second.txt")
    for process in (first, holder):
        os.kill(process.pid or 0, signal.SIGKILL)
    second.join(SOON_S)
    assert held_by([tmp_path / "second.txt"])[0].taken == ("0",)


def test_a_lock_stays_with_a_program_that_takes_the_place_of_the_process(machine: Path, tmp_path: Path) -> None:
    replaced = started(_hold_and_become_another, machine)
    until((machine / "became").is_file)
    waiting = started(hold, 1, (0,), 0, machine, tmp_path / "next.txt")
    time.sleep(0.2)
    assert not (tmp_path / "next.txt").exists()
    os.kill(replaced.pid or 0, signal.SIGKILL)
    waiting.join(SOON_S)
    assert (tmp_path / "next.txt").is_file()


def _hold_and_become_another(machine: Path) -> None:
    claim(1, (0,), folder=machine)
    os.execvp("sh", ["sh", "-c", f"touch {machine}/became; exec sleep {SOON_S}"])


def test_waiting_is_logged(machine: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    holder = started(hold, 1, (4,), 1, machine)
    until(lambda: (machine / "device-4").is_file() and (machine / "device-4").read_text())
    caplog.set_level("INFO")
    job = multiprocessing.get_context("fork").Process(target=_waits_and_says, args=(machine, tmp_path / "said.txt"))
    job.start()
    job.join(SOON_S)
    holder.join(SOON_S)
    said = (tmp_path / "said.txt").read_text()
    assert f"waiting for 1 of GPUs 4 (4: process {holder.pid}" in said
    assert "using GPU 4" in said


def _waits_and_says(machine: Path, file: Path) -> None:
    import logging

    logging.basicConfig(filename=file, level=logging.INFO, force=True)
    claim(1, (4,), folder=machine)


@pytest.mark.parametrize(
    ("named", "visible", "pool"),
    [
        ((0, 2), None, ("0", "2")),
        ((2, 0, 2), None, ("2", "0")),
        ("auto", "3,1", ("3", "1")),
        ((0, 1), "3, 1", ("1",)),
        ((0,), "GPU-8932f937,1", ("GPU-8932f937",)),
        ("auto", "", ()),
        ("auto", "-1", ()),
        ("auto", "1,-1,2", ("1",)),
    ],
)
def test_allowed_gpus(named: object, visible: str | None, pool: tuple[str, ...]) -> None:
    assert pool_of(named, visible) == pool


def test_auto_is_all_gpus_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia3", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    monkeypatch.setattr(devices, "DEVICE_FILES", tmp_path)
    assert pool_of("auto", None) == ("0", "1")


def test_without_devices_nothing_is_claimed(machine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(devices, "DEVICE_FILES", tmp_path)
    assert claim(1, "auto", folder=machine) == ()
    assert claim(0, (0, 1), folder=machine) == ()
    monkeypatch.setenv(devices.VISIBLE, "")
    assert claim(2, (0, 1), folder=machine) == ()
    assert not machine.exists()


def test_more_gpus_than_allowed_is_refused(machine: Path) -> None:
    with pytest.raises(ConfigError, match=r"3 GPUs, but only 2 .*: 0, 1"):
        claim(3, (0, 1), folder=machine)


def test_scheduler_allocation() -> None:
    assert allocation_of({"SLURM_JOB_ID": "12"}) is None
    assert allocation_of({devices.VISIBLE: "0"}) is None
    assert allocation_of({devices.VISIBLE: "0", "SLURM_JOB_ID": "12"}) == "slurm-12"
    assert allocation_of({devices.VISIBLE: "0", "SLURM_JOB_ID": "12", "SLURMD_NODENAME": "n1"}) == "slurm-12-n1"
    assert allocation_of({devices.VISIBLE: "0", "PBS_JOBID": "7[1].head"}) == "pbs-7_1_.head"


def test_two_allocations_with_the_same_number_do_not_wait_for_one_another(machine: Path, tmp_path: Path) -> None:
    records = [tmp_path / f"{job}.txt" for job in (12, 13)]
    jobs = [started(_in_allocation, str(job), machine, record) for job, record in zip((12, 13), records, strict=True)]
    for job in jobs:
        job.join(SOON_S)
    one, other = held_by(records)
    assert one.taken == other.taken == ("0",)
    assert one.since < other.until and other.since < one.until


def _in_allocation(job: str, machine: Path, record: Path) -> None:
    """A job of two GPUs on two nodes, one on each; it works until the other allocation works too."""
    os.environ |= {devices.VISIBLE: "0", "SLURM_JOB_ID": job}
    taken = claim(2, "auto", folder=machine)
    since = time.monotonic()
    until(lambda: len(list(machine.glob("device-slurm-1?-0"))) == 2)
    time.sleep(0.1)
    record.write_text(f"{','.join(taken)} {since} {time.monotonic()} {os.environ[devices.VISIBLE]}")


@pytest.mark.parametrize(("device", "expected"), [("auto", "5,6"), ("cpu", None)])
def test_a_verb_takes_its_gpus_before_it_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, expected: str | None
) -> None:
    seen = []
    monkeypatch.setattr(
        "fineclip.cli.data.function_of", lambda _: lambda **__: seen.append(os.environ.get(devices.VISIBLE))
    )
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv(devices.VISIBLE, "4,5,6")
    if expected is None:
        monkeypatch.delenv(devices.VISIBLE)
    config = {"engine": "boxes_json", "path": "boxes.json"}
    means = ["--gpus", "2", "--devices", "5,6,7", "--device", device]
    done = fineclip(tmp_path, "detect", "--filter", "kept.json", "--manifest", "out.json", *means, config=config)
    assert (done.code, seen) == (0, [expected])


@pytest.mark.parametrize(("option", "value"), [("--gpus", "-1"), ("--devices", "0;1"), ("--devices", "")])
def test_wrong_option_is_refused(tmp_path: Path, option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        fineclip(tmp_path, "detect", "--filter", "a", "--manifest", "b", f"{option}={value}")
    assert ended.value.code == 2


def test_zero_gpus_can_be_stated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("fineclip.cli.data.function_of", lambda _: lambda **__: None)
    config = {"engine": "boxes_json", "path": "boxes.json"}
    means = ["--gpus", "0", "--device", "cpu"]
    done = fineclip(tmp_path, "detect", "--filter", "kept.json", "--manifest", "out.json", *means, config=config)
    assert done.code == 0

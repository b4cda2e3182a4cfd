"""A lock is held once; a file system without locks is named, and nobody else is blamed."""

import errno
import fcntl
import multiprocessing
import os
from pathlib import Path

import pytest

from fineclip.cli.devices import claim
from fineclip.errors import SystemRefusalError, TrainingError
from fineclip.shards.locks import try_lock, wait_for_lock
from fineclip.train.checkpoint import CheckpointManager

REFUSALS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EPROTO]


@pytest.fixture(params=REFUSALS, ids=errno.errorcode.get)
def refused(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system that refuses locks; its words."""

    def flock(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)
    return os.strerror(request.param)


def test_a_lock_is_held_once(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("w") as first, path.open("w") as second:
        assert try_lock(first, path)
        assert not try_lock(second, path)
        fcntl.flock(first, fcntl.LOCK_UN)
        wait_for_lock(second, path)
        assert not try_lock(first, path)


def test_refused_locks_name_the_file(tmp_path: Path, refused: str) -> None:
    path = tmp_path / "lock"
    with path.open("w") as file:
        for lock in (try_lock, wait_for_lock):
            with pytest.raises(SystemRefusalError, match=f"{path}: the file system refuses a lock: {refused}"):
                lock(file, path)


def test_a_training_without_locks_blames_nobody(tmp_path: Path, refused: str) -> None:
    with (
        pytest.raises(SystemRefusalError, match="lock: .*refuses a lock") as error,
        CheckpointManager(tmp_path, "a").locked(),
    ):
        pass
    assert refused in str(error.value) and "another process" not in str(error.value)


def test_a_second_training_names_the_first(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with CheckpointManager(tmp_path, "a").locked():
        seen = context.SimpleQueue()
        process = context.Process(target=_train, args=(tmp_path, seen))
        process.start()
        process.join(60)
    assert f"process {os.getpid()} " in seen.get()


def _train(folder: Path, seen: "multiprocessing.SimpleQueue[str]") -> None:
    try:
        with CheckpointManager(folder, "a").locked():
            seen.put("locked")
    except TrainingError as error:
        seen.put(str(error))


def test_a_claim_of_a_gpu_without_locks(tmp_path: Path, refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(SystemRefusalError, match=f"line-device-.*0: the file system refuses a lock: {refused}"):
        claim(1, "auto", folder=tmp_path / "locks")


def test_a_claim_where_the_folder_of_locks_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    (tmp_path / "file").touch()
    with pytest.raises(SystemRefusalError, match="file/locks: cannot be made for the locks of GPUs"):
        claim(1, "auto", folder=tmp_path / "file/locks")

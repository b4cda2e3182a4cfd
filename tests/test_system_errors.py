"""What is explained in one sentence, and what keeps its traceback; every writer of files names the file that was refused."""

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fineclip.errors import DataError, MemoryLimitError, SystemRefusalError, TrainingError
from fineclip.models.checkpoints.weights_files import write_weights
from fineclip.shards import FilterRow, Job, TableWriter, TarAppender, atomic, write_text, write_texts
from fineclip.system_errors import REFUSED, REFUSED_FOR_FILE, explain, is_out_of_memory, refusal
from fineclip.train.checkpoint import CheckpointManager
from tests.helpers.limits import file_size_limit

PACKAGE = Path(np.__file__)


def error_of(code: int, *file: str) -> OSError:
    return OSError(code, os.strerror(code), *file)


# --- the boundary


@pytest.mark.parametrize("code", REFUSED, ids=errno.errorcode.get)
def test_a_refusal_that_does_not_depend_on_the_program_is_explained_without_a_file(code: int) -> None:
    for error in (error_of(code), error_of(code, "results/a.tar"), error_of(code, str(PACKAGE))):
        said = str(refusal(error))
        assert os.strerror(code) in said and errno.errorcode[code] in said and REFUSED[code] in said
    assert str(refusal(error_of(code, "results/a.tar"))).startswith("results/a.tar: ")


@pytest.mark.parametrize("code", REFUSED_FOR_FILE, ids=errno.errorcode.get)
def test_a_refusal_for_a_file_is_explained_for_files_of_the_user_only(code: int) -> None:
    said = str(refusal(error_of(code, "data/one.json")))
    assert said.startswith("data/one.json: ") and os.strerror(code) in said
    assert refusal(error_of(code)) is None
    assert refusal(error_of(code, str(PACKAGE))) is None
    assert refusal(error_of(code, os.__file__)) is None
    assert refusal(error_of(code), Path("data/one.json")) is not None  # the caller knows the file


@pytest.mark.parametrize(
    "error",
    [
        error_of(errno.ENOENT, "data/one.json"),
        error_of(errno.ENOENT),
        error_of(errno.ECONNREFUSED, "data/one.json"),
        error_of(errno.EBADF, "data/one.json"),
        OSError("no code at all"),
        OSError("3 requested and 2 written"),
        RuntimeError("a bug of step (28)"),
        RuntimeError("No space left for an argument"),
        ValueError("[Errno 28] No space left on device"),
        KeyError("x"),
    ],
    ids=repr,
)
def test_a_bug_is_not_explained(error: Exception) -> None:
    assert explain(error) is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"), errno.ENOSPC),
        (OSError("Caught OSError in worker 0.\nTraceback\nOSError: [Errno 24] Too many open files: 'a.tar'"), errno.EMFILE),
        (RuntimeError("unable to write to file </torch_1_2>: No space left on device (28)"), errno.ENOSPC),
        (RuntimeError("unable to open shared memory object </torch_1> in read-write mode: Too many open files (24)"), errno.EMFILE),
        (RuntimeError("Too many open files. Communication with the workers is no longer possible."), errno.EMFILE),
        (FileNotFoundError("[Errno 2] No usable temporary directory found in ['/tmp']"), errno.ENOSPC),
    ],
)  # fmt: skip
def test_libraries_report_refusals_in_words(error: Exception, code: int) -> None:
    assert errno.errorcode[code] in str(refusal(error))


def test_errors_of_the_user_stay_as_they_are_and_a_lost_connection_points_elsewhere() -> None:
    error = DataError("a.json: is wrong")
    assert explain(error) is error
    lost = explain(RuntimeError("[../gloo/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"))
    assert isinstance(lost, TrainingError)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried 1 byte"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_exhausted_memory_names_the_keys_that_lower_it(error: Exception) -> None:
    assert is_out_of_memory(error)
    explained = explain(error, memory_keys=("runtime.a", "runtime.b"))
    assert isinstance(explained, MemoryLimitError) and "Lower runtime.a or runtime.b" in str(explained)
    assert len(str(explained).splitlines()) == 1
    assert not is_out_of_memory(ValueError("out of memory"))


# --- every writer


def write_table(path: Path) -> None:
    job = Job(path.with_suffix(".json"), stage="filter", version=1, config={}, inputs={})
    with TableWriter(job, FilterRow) as table:
        for index in range(2000):
            digest = np.random.default_rng(index).bytes(32).hex()
            table.write(FilterRow(key=str(index), kept=True, width=1, height=1, format="PNG", sha256=digest))


def write_tar(path: Path) -> None:
    with atomic(path) as temporary:
        tar = TarAppender(temporary)
        for index in range(4):
            tar.add(f"{index}.jpg", bytes(20_000))
        tar.close()


def write_checkpoint(path: Path) -> None:
    CheckpointManager(path.parent, "any").save(int(path.stem.partition("-")[2]), {"weights": torch.zeros(20_000)})


WRITERS: dict[str, Callable[[Path], None]] = {
    "a.json": lambda path: write_text(path, json.dumps(list(range(20_000)))),
    "a.parquet": write_table,
    "a.tar": write_tar,
    "texts.safetensors": lambda path: write_texts(path, ["a", "b"], np.ones((2, 20_000), np.float32), text_tower="x"),
    "a.safetensors": lambda path: write_weights(path, {"weights": torch.zeros(20_000)}),
    "a.pt": lambda path: write_weights(path, {"weights": torch.zeros(20_000)}),
    "step-00000003.pt": write_checkpoint,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_that_runs_out_of_space_names_the_file_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    path = tmp_path / "out" / name
    with file_size_limit(16_384), pytest.raises(SystemRefusalError) as refused:
        WRITERS[name](path)
    assert str(refused.value).startswith(f"{path}: cannot be written: File too large (EFBIG)")
    assert list(path.parent.iterdir()) == []
    WRITERS[name](path)
    once = path.read_bytes()
    WRITERS[name](tmp_path / "again" / name)
    assert once == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP])
def test_a_refused_flush_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def refuse(_: int) -> None:
        raise error_of(code)

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(SystemRefusalError, match=re.escape(f"{path}: cannot be written: {os.strerror(code)}")):
        write_text(path, "new")
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"] and path.read_text() == "old"


def test_a_folder_that_cannot_be_flushed_is_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush = os.fsync

    def files_only(descriptor: int) -> None:
        if not Path(f"/proc/self/fd/{descriptor}").is_file():
            raise error_of(errno.EINVAL)
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    write_text(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "new"


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(SystemRefusalError, match=r"out/a\.json: cannot be written: "):
        write_text(tmp_path / "out/a.json", "x")


def test_an_error_of_another_file_does_not_blame_the_target(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="one.jpg"), atomic(tmp_path / "a.tar"):
        raise error_of(errno.EACCES, "one.jpg")
    with pytest.raises(OSError, match="Bad file descriptor"), atomic(tmp_path / "a.tar"):
        raise error_of(errno.EBADF)
    with pytest.raises(ZeroDivisionError), atomic(tmp_path / "a.tar"):
        _ = 1 / 0

"""Verbs that the system refuses something: one message, exit code 2, nothing half-written; a bug keeps its traceback."""

import errno
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from fineclip.config import MEMORY_KEYS, RuntimeConfig
from tests.helpers.limits import file_size_limit
from tests.helpers.verbs import done, fineclip, message_of, process, refused, written

SOURCE: dict[str, Any] = {"kind": "miniature", "images": 4, "images_per_shard": 4}
WORDS = ["source", "--shard", "miniature-0000", "--manifest"]
CPU = ["--device", "cpu"]
STAGES = {
    "detect": ["--filter", "a.json", *CPU],
    "caption": ["--detect", "a.json", *CPU],
    "texts": ["--pack", "a.json", "--weights", "w.json", *CPU],
}


def test_a_full_disk(tmp_path: Path) -> None:
    right, again = tmp_path / "right", tmp_path / "again"
    for folder in (right, again):
        folder.mkdir()
    done(right, *WORDS, "out/miniature-0000.json", config=SOURCE)
    with file_size_limit(16_384):
        said = refused(again, *WORDS, "out/miniature-0000.json", config=SOURCE)
    assert said.startswith("out/miniature-0000.tar: cannot be written: File too large (EFBIG).")
    assert written(again) == []
    done(again, *WORDS, "out/miniature-0000.json", config=SOURCE)
    assert len(written(right)) == 4
    for name in written(right):
        assert (right / name).read_bytes() == (again / name).read_bytes()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = refused(tmp_path, *WORDS, "file/miniature-0000.json", config=SOURCE)
    assert said.startswith("file/") and "Not a directory (ENOTDIR)" in said
    said = refused(tmp_path, *WORDS, "out/miniature-0000.json", "--log", "file/a.log", config=SOURCE)
    assert said.startswith("file/a.log: the log cannot be written: ")
    assert written(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_that_cannot_be_written_stops_no_job(tmp_path: Path) -> None:
    ended = process(tmp_path, *WORDS, "out/miniature-0000.json", "--log", "/dev/full", config=SOURCE)
    assert ended.code == 0 and (tmp_path / "out/miniature-0000.json").is_file()
    assert ended.said.count("/dev/full: the log cannot be written: No space left on device") == 1
    assert "Traceback" not in ended.said and "Logging error" not in ended.said


def failing_stage(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("fineclip.cli.data.run_stage", fail)


@pytest.mark.parametrize("verb", STAGES)
def test_exhausted_memory_of_a_stage_names_its_batch_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    failing_stage(monkeypatch, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."))
    said = refused(tmp_path, verb, "--manifest", "m.json", *STAGES[verb])
    assert "CUDA out of memory" in said and f"Lower {' or '.join(MEMORY_KEYS[verb])}" in said


def test_exhausted_memory_of_a_training_names_both_micro_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr("fineclip.cli.training._train", fail)
    words = ["--select", "s.json", "--pack", "p.json", "--weights", "w.json", "--manifest", "m.json"]
    said = refused(tmp_path, "train", *words)
    assert "runtime.crop_micro_batch_size or runtime.image_micro_batch_size" in said


def test_keys_that_lower_memory_exist() -> None:
    keys = [key.partition("runtime.")[2] for keys in MEMORY_KEYS.values() for key in keys if key.startswith("runtime.")]
    assert keys and set(keys) <= set(RuntimeConfig.model_fields)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "data/a.json"),
        PermissionError(errno.EACCES, os.strerror(errno.EACCES), torch.__file__),
        OSError(errno.EINVAL, os.strerror(errno.EINVAL)),
        RuntimeError("sizes do not match"),
    ],
    ids=repr,
)
def test_a_bug_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    failing_stage(monkeypatch, error)
    with pytest.raises(type(error)):
        fineclip(tmp_path, "detect", "--manifest", "m.json", *STAGES["detect"])


@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_variable_counts_as_unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    for name in ("OMP_NUM_THREADS", "WORLD_SIZE", "RANK", "FINECLIP_LAUNCHER", "SLURM_STEP_NUM_NODES"):
        monkeypatch.setenv(name, value)
    done(tmp_path, *WORDS, "miniature-0000.json", config=SOURCE)
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_a_wrong_number_of_threads_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    said = refused(tmp_path, *WORDS, "miniature-0000.json", config=SOURCE)
    assert "OMP_NUM_THREADS is 'many', expected an integer of at least 1" in said
    assert written(tmp_path) == []


def test_variables_of_a_launcher_matter_to_a_training_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    (tmp_path / "a.log").write_text("an earlier attempt\n")
    done(tmp_path, *WORDS, "miniature-0000.json", "--log", "a.log", config=SOURCE)
    assert "earlier" not in (tmp_path / "a.log").read_text()
    assert "4 read" in (tmp_path / "a.log").read_text()  # rank 1 of a training would say nothing
    words = ["--select", "s.json", "--pack", "p.json", "--weights", "w.json", "--manifest", "m.json"]
    assert "MASTER_ADDR is not set, but WORLD_SIZE is 2" in refused(tmp_path, "train", *words)


def test_processes_that_differ_from_those_of_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = {"WORLD_SIZE": "4", "RANK": "0", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    words = ["--select", "s.json", "--pack", "p.json", "--weights", "w.json", "--manifest", "m.json"]
    said = refused(tmp_path, "train", *words, "--processes", "2")
    assert "--processes 2: a launcher has started 4" in said


def test_a_device_that_is_absent_or_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "config.yaml").write_text((Path(__file__).parents[2] / "config.yaml").read_text())
    said = refused(tmp_path, "evaluate", "--checkpoint", "mini", "--device", "cuda:0")
    assert said == "runtime.device: torch finds no cuda device on this machine. Set auto or cpu."
    with pytest.raises(SystemExit) as ended:
        fineclip(tmp_path, "detect", "--manifest", "m.json", "--filter", "a.json", "--device", "gpu")
    assert ended.value.code == 2


def test_a_rank_that_loses_another_one_points_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_stage(monkeypatch, RuntimeError("[../gloo/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"))
    ended = fineclip(tmp_path, "detect", "--manifest", "m.json", *STAGES["detect"])
    assert "see its own error message" in message_of(ended)


def test_logging_is_put_back() -> None:
    assert not any(type(handler).__name__ == "_LogFile" for handler in logging.getLogger().handlers)

"""Checkpoints belong to an identity, and one process at a time has the folder."""

from pathlib import Path

import pytest
import torch

from fineclip.errors import TrainingError
from fineclip.train.checkpoint import CheckpointManager
from tests.helpers.processes import run_processes


def content(step: int) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((3,), float(step))}


def test_keeps_two_and_loads_the_newest(tmp_path: Path) -> None:
    state = CheckpointManager(tmp_path, "one")
    assert state.load_latest() is None
    for step in (5, 10, 15):
        state.save(step, content(step))
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["step-00000010.pt", "step-00000015.pt"]
    step, loaded = state.load_latest()
    assert step == 15
    assert torch.equal(loaded["weight"], content(15)["weight"])


def test_checkpoints_of_another_identity_are_deleted(tmp_path: Path) -> None:
    CheckpointManager(tmp_path, "one").save(90, content(90))
    other = CheckpointManager(tmp_path, "other")
    assert other.load_latest() is None
    other.save(5, content(5))
    assert [path.name for path in tmp_path.glob("*.pt")] == ["step-00000005.pt"]


def test_a_checkpoint_without_its_record_does_not_exist(tmp_path: Path) -> None:
    state = CheckpointManager(tmp_path, "one")
    state.save(5, content(5))
    state.save(10, content(10))
    (tmp_path / "step-00000010.json").write_text("{")
    assert state.load_latest()[0] == 5


def test_the_marker_holds_until_the_identity_changes(tmp_path: Path) -> None:
    state = CheckpointManager(tmp_path, "one")
    state.raise_if_failed_before()
    state.mark_failed("no use")
    with pytest.raises(TrainingError, match="no use"):
        state.raise_if_failed_before()
    CheckpointManager(tmp_path, "other").raise_if_failed_before()
    state.raise_if_failed_before()


def test_lock_names_its_process(tmp_path: Path) -> None:
    with CheckpointManager(tmp_path / "state", "one").locked():
        (tmp_path / "state/.step-00000005.pt.1.ab.tmp").touch()
        [message] = run_processes(try_lock, [tmp_path / "state"])
        assert str(tmp_path / "state") in message
        assert "process " in message
        assert " on " in message
    assert run_processes(try_lock, [tmp_path / "state"]) == ["locked"]
    assert list((tmp_path / "state").glob(".*.tmp")) == []


def try_lock(folder: Path) -> str:
    try:
        with CheckpointManager(folder, "one").locked():
            return "locked"
    except TrainingError as error:
        return str(error)

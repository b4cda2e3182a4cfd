"""Checkpoints of a training, a lock, and a marker of errors that resuming cannot fix.

    state/lock                  locked while a process trains here
    state/step-00000500.pt      weights, optimizer, loss scale, micro-batch sizes, loss monitor (see `TrainState`)
    state/step-00000500.json    {identity, step, sha256, code}; written last: without it the checkpoint does not exist
    state/failed.json           {identity, message} of an error that would occur again

All files belong to an identity (configuration, inputs, versions); files of another identity are never read. The state of
random generators is not stored: all draws are functions of the seed and the position.
"""

import json
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fineclip.errors import TrainingError
from fineclip.shards import atomic, sha256_of, write_text
from fineclip.shards.locks import try_lock
from fineclip.system_errors import refusals_at
from fineclip.version import __version__

log = logging.getLogger(__name__)


FORMAT = 2  # of the content of a checkpoint


class CheckpointManager:
    """Save and load checkpoints of one identity in the folder `state/` of a run.

    Args:
        folder: `results/<dataset>/<run>/state`.
        identity: Hash of everything that determines the training.
        keep: Number of checkpoints to keep; with two, one remains if the last one is damaged.
    """

    def __init__(self, folder: Path, identity: str, *, keep: int = 2) -> None:
        self.folder, self.identity, self.keep = folder, f"{identity}-{FORMAT}", keep

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder inside the block.

        Raises:
            SystemRefusalError: The file system has no locks, or refuses to write.
            TrainingError: Another process trains here.
        """
        path = self.folder / "lock"
        with refusals_at(path, "cannot be written"):
            self.folder.mkdir(parents=True, exist_ok=True)
            file = path.open("a+", encoding="utf-8")
        with file:
            if not try_lock(file, path):
                file.seek(0)
                raise TrainingError(
                    f"{self.folder}: {file.read().strip() or 'another process'} trains here."
                    " Wait until it ends, or stop it, and run again."
                )
            for orphan in self.folder.glob(".*.tmp"):  # of a process killed while writing
                orphan.unlink(missing_ok=True)
            with refusals_at(path, "cannot be written"):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}")
                file.flush()
            yield

    def raise_if_failed_before(self) -> None:
        """Raise the permanent error of an earlier attempt with this identity.

        Raises:
            TrainingError: With the message of that attempt.
        """
        path = self.folder / "failed.json"
        found = _read_json(path)
        if found is not None and found.get("identity") == self.identity:
            raise TrainingError(
                f"{found.get('message')}\n(Error of an earlier attempt with the same configuration and inputs."
                f" To try again, delete {path}.)"
            )
        path.unlink(missing_ok=True)

    def mark_failed(self, message: str) -> None:
        """Write `failed.json`, so that a rerun fails immediately."""
        marker = {"identity": self.identity, "message": message}
        write_text(self.folder / "failed.json", json.dumps(marker, ensure_ascii=False, indent=1) + "\n")

    def save(self, step: int, content: dict[str, Any]) -> None:
        """Write a checkpoint atomically, then delete all but the last ones.

        Args:
            step: Finished steps.
            content: Tensors and plain values, as `torch.load(weights_only=True)` reads them.
        """
        path = self.folder / f"step-{step:08d}.pt"
        with atomic(path) as temporary, temporary.open("wb") as file:  # with a path, torch hides the system's error
            torch.save(content, file)
        record = {"identity": self.identity, "step": step, "sha256": sha256_of(path), "code": __version__}
        write_text(path.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
        own = [path for path in self._newest_first() if self._record(path) is not None]
        for old in set(self._newest_first()) - set(own[: self.keep]):
            old.with_suffix(".json").unlink(missing_ok=True)
            old.unlink(missing_ok=True)

    def load_latest(self) -> tuple[int, dict[str, Any]] | None:
        """Return finished steps and content, on the CPU, of the newest intact checkpoint of this identity; None if none."""
        for path in self._newest_first():
            record = self._record(path)
            if record is None:
                continue
            if sha256_of(path) != record["sha256"]:
                log.warning("%s is damaged: resuming from the checkpoint before it", path)
                continue
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return int(record["step"]), content
        return None

    def clear(self) -> None:
        """Remove the folder after the run is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.pt"), reverse=True)

    def _record(self, path: Path) -> dict[str, Any] | None:
        """Return the record of a checkpoint; None if it belongs to another identity or is incomplete."""
        record = _read_json(path.with_suffix(".json"))
        return record if record is not None and record.get("identity") == self.identity else None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None

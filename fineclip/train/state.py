"""What a training keeps in `state/` so that it can go on: checkpoints, a lock, and a marker of what cannot be mended by going on.

    state/lock                  held while a process trains here
    state/step-00000500.pt      weights as they are, optimiser, loss scale, position, chunks, first and last losses
    state/step-00000500.json    {identity, step, sha256, code}; written last: without it the checkpoint does not exist
    state/failed.json           {identity, message}: why going on is of no use

Everything belongs to an identity (configuration, inputs, versions). What belongs to another is never taken up. No state of
a random generator is kept: all that is drawn is a function of the seed and the position.
"""

import fcntl
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
from fineclip.version import __version__

log = logging.getLogger(__name__)


class StateFolder:
    """The folder `state/` of a run, as one identity sees it.

    Args:
        kept: checkpoints; with two, if the last one does not read, the one before it does.
    """

    def __init__(self, folder: Path, identity: str, *, kept: int = 2) -> None:
        self.folder, self.identity, self.kept = folder, identity, kept

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process out.

        Raises:
            TrainingError: another process trains here.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "lock"
        with path.open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                raise TrainingError(
                    f"{self.folder}: {file.read().strip() or 'another process'} trains here."
                    " Wait until it has ended, or stop it, and run again."
                ) from None
            for orphan in self.folder.glob(".*.tmp"):  # of a process that was killed while it wrote
                orphan.unlink(missing_ok=True)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield

    def require_hope(self) -> None:
        """Stop at once where an earlier attempt of this identity found that going on is of no use.

        Raises:
            TrainingError: with the message of that attempt.
        """
        path = self.folder / "failed.json"
        found = _read_json(path)
        if found is not None and found.get("identity") == self.identity:
            raise TrainingError(
                f"{found.get('message')}\n(This is what the last attempt said, and neither configuration nor inputs have"
                f" changed since. Delete {path} to try all the same.)"
            )
        path.unlink(missing_ok=True)

    def give_up(self, message: str) -> None:
        """Leave the marker that stops the next attempt."""
        marker = {"identity": self.identity, "message": message}
        write_text(self.folder / "failed.json", json.dumps(marker, ensure_ascii=False, indent=1) + "\n")

    def save(self, step: int, content: dict[str, Any]) -> None:
        """One checkpoint, whole or not at all; all but the last ones go."""
        path = self.folder / f"step-{step:08d}.pt"
        with atomic(path) as temporary:
            torch.save(content, temporary)
        record = {"identity": self.identity, "step": step, "sha256": sha256_of(path), "code": __version__}
        write_text(path.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
        own = [path for path in self._newest_first() if self._record(path) is not None]
        for old in set(self._newest_first()) - set(own[: self.kept]):
            old.with_suffix(".json").unlink(missing_ok=True)
            old.unlink(missing_ok=True)

    def load(self) -> tuple[int, dict[str, Any]] | None:
        """Step and content of the newest checkpoint of this identity that is whole, on the CPU; None without any."""
        for path in self._newest_first():
            record = self._record(path)
            if record is None:
                continue
            if sha256_of(path) != record["sha256"]:
                log.warning("%s is damaged: the checkpoint before it is taken up", path)
                continue
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return int(record["step"]), content
        return None

    def clear(self) -> None:
        """Remove the folder: the run is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.pt"), reverse=True)

    def _record(self, path: Path) -> dict[str, Any] | None:
        """What was written of a checkpoint, None if it is another identity's or was never finished."""
        record = _read_json(path.with_suffix(".json"))
        return record if record is not None and record.get("identity") == self.identity else None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None

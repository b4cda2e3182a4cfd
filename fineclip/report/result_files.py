"""Reading of result files. An absent or damaged file becomes a `Problem` and does not affect the other files."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from fineclip.errors import FineclipError, ShardError
from fineclip.shards import Manifest, read_manifest

P = ParamSpec("P")
T = TypeVar("T")

MOST_TAIL_BYTES = 64_000
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b\x0c\x0e-\x1f]")
MANIFEST: TypeAdapter[Manifest] = TypeAdapter(Manifest)

Finite = Annotated[float, Field(allow_inf_nan=False)]


class ScoreRecord(BaseModel):
    """One score of a score file: `value` in percent over `n` cases."""

    model_config = ConfigDict(frozen=True)

    metric: str
    value: Finite
    n: int


class Result(BaseModel):
    """Content of `evals/<benchmark>.json`; `chance` is the percentage that random guesses reach, by metric."""

    model_config = ConfigDict(frozen=True)

    benchmark: str
    version: int
    scores: tuple[ScoreRecord, ...]
    inputs: Mapping[str, str] = Field(default_factory=dict)
    config: Mapping[str, Any] = Field(default_factory=dict)
    chance: Mapping[str, Finite] = Field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """Something absent or unusable.

    Attributes:
        what: Path, run or benchmark.
        why: Description of the problem.
        log_path: Log of its job, if there is one.
        log_tail: End of that log.
    """

    what: str
    why: str
    log_path: str = ""
    log_tail: str = ""


@dataclass
class ProblemLog:
    """List of all problems in the order in which they were found. Paths are relative to `root`."""

    root: Path
    problems: list[Problem] = field(default_factory=list)

    def note(self, problem: Problem) -> None:
        """Add a problem, once."""
        if problem not in self.problems:
            self.problems.append(problem)

    def attempt(self, what: str, read: Callable[P, T], *given: P.args, **named: P.kwargs) -> T | None:
        """Return the result of `read`; None if it fails, and note the problem."""
        try:
            return read(*given, **named)
        except (FineclipError, OSError, ValueError, KeyError, TypeError) as error:
            message = str(error) or type(error).__name__
            if self.root != Path():
                message = message.replace(f"{self.root.as_posix()}/", "")
            self.note(Problem(what, message.removeprefix(f"{what}: ")))
            return None


@dataclass(frozen=True)
class ResultPaths:
    """Folders of one data set, under the folder that the jobs ran in."""

    root: Path
    dataset: str

    def data(self, *parts: str) -> Path:
        """Return a path under data/<dataset>."""
        return self.root.joinpath("data", self.dataset, *parts)

    def results(self, *parts: str) -> Path:
        """Return a path under results/<dataset>."""
        return self.root.joinpath("results", self.dataset, *parts)

    def logs(self, *parts: str) -> Path:
        """Return a path under logs/<dataset>."""
        return self.root.joinpath("logs", self.dataset, *parts)

    def shown(self, path: Path) -> str:
        """Return the path relative to the folder that the jobs ran in."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.as_posix()


def read_valid_manifest(path: Path) -> Manifest:
    """Read a manifest and check the type of every field.

    Args:
        path: JSON file.

    Returns:
        Manifest with all fields of the declared types.

    Raises:
        ShardError: It is absent, not a manifest, or has a field of another type.
    """
    manifest = read_manifest(path)
    try:
        return MANIFEST.validate_json(manifest.text(), strict=True)
    except ValidationError as error:
        raise ShardError(f"{path}: is not a manifest ({first_error(error)}). Delete it and run again.") from None


def read_result(path: Path) -> Result:
    """Read the scores of one run on one benchmark.

    Args:
        path: `evals/<benchmark>.json`.

    Returns:
        Scores, chance and protocol.

    Raises:
        ShardError: The file is not a score file.
    """
    try:
        return Result.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ShardError(f"{path}: is not a score file ({first_error(error)}). Delete it and run again.") from None


def first_error(error: ValidationError) -> str:
    """Return the first error in a few words."""
    detail = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, detail["loc"]))
    return f"{place}: {detail['msg']}" if place else detail["msg"]


def last_lines(path: Path, *, lines: int = 14) -> str:
    """Return the end of a log without colors; of a progress bar its last state. Empty if there is no log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - MOST_TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    shown = [CONTROL.sub("", line.rstrip("\r").rsplit("\r", 1)[-1]).rstrip() for line in text.split("\n")]
    return "\n".join([line for line in shown if line][-lines:])

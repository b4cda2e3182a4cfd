"""Reading what a run left behind, piece by piece: one that is gone or damaged is written down and takes nothing with it."""

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
    """One number of a benchmark's file: `value` in percent over `n` cases."""

    model_config = ConfigDict(frozen=True)

    metric: str
    value: Finite
    n: int


class Result(BaseModel):
    """What `evals/<benchmark>.json` holds. `chance` is the percentage that guessing gives, by metric."""

    model_config = ConfigDict(frozen=True)

    benchmark: str
    version: int
    scores: tuple[ScoreRecord, ...]
    inputs: Mapping[str, str] = Field(default_factory=dict)
    config: Mapping[str, Any] = Field(default_factory=dict)
    chance: Mapping[str, Finite] = Field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """Something that is not there or cannot be used: `what` it is, `why`, and the end of its log where there is one."""

    what: str
    why: str
    log_path: str = ""
    log_tail: str = ""


@dataclass
class Ledger:
    """Every problem met on the way, in order. Paths under `root` are named from there, as the jobs name them."""

    root: Path
    problems: list[Problem] = field(default_factory=list)

    def note(self, problem: Problem) -> None:
        """Write it down, once."""
        if problem not in self.problems:
            self.problems.append(problem)

    def attempt(self, what: str, read: Callable[P, T], *given: P.args, **named: P.kwargs) -> T | None:
        """What `read` returns of what it is given; None, and a problem more, where the piece is absent or damaged."""
        try:
            return read(*given, **named)
        except (FineclipError, OSError, ValueError, KeyError, TypeError) as error:
            message = str(error) or type(error).__name__
            if self.root != Path():
                message = message.replace(f"{self.root.as_posix()}/", "")
            self.note(Problem(what, message.removeprefix(f"{what}: ")))
            return None


@dataclass(frozen=True)
class Place:
    """Where the files of one data set lie, under the folder that the jobs ran in."""

    root: Path
    dataset: str

    def data(self, *parts: str) -> Path:
        """Under data/<dataset>."""
        return self.root.joinpath("data", self.dataset, *parts)

    def results(self, *parts: str) -> Path:
        """Under results/<dataset>."""
        return self.root.joinpath("results", self.dataset, *parts)

    def logs(self, *parts: str) -> Path:
        """Under logs/<dataset>."""
        return self.root.joinpath("logs", self.dataset, *parts)

    def shown(self, path: Path) -> str:
        """As the jobs call it: from the folder they ran in."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.as_posix()


def sound_manifest(path: Path) -> Manifest:
    """A manifest whose every field has the type that it should have.

    Raises:
        ShardError: it is absent, no manifest, or a field of it is something else.
    """
    manifest = read_manifest(path)
    try:
        return MANIFEST.validate_json(manifest.text(), strict=True)
    except ValidationError as error:
        raise ShardError(f"{path}: is no manifest ({first_complaint(error)}). Delete it and run again.") from None


def read_result(path: Path) -> Result:
    """The scores of one run on one benchmark.

    Raises:
        ShardError: the file is no such thing.
    """
    try:
        return Result.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ShardError(f"{path}: holds no scores ({first_complaint(error)}). Delete it and run again.") from None


def first_complaint(error: ValidationError) -> str:
    """The first thing that is wrong, in a few words."""
    detail = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, detail["loc"]))
    return f"{place}: {detail['msg']}" if place else detail["msg"]


def last_lines(path: Path, *, lines: int = 14) -> str:
    """The end of a log without colours; of a progress bar its last state. Empty where there is no log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - MOST_TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    shown = [CONTROL.sub("", line.rstrip("\r").rsplit("\r", 1)[-1]).rstrip() for line in text.split("\n")]
    return "\n".join([line for line in shown if line][-lines:])

"""Reading of result files. A damaged or absent file becomes a `Problem` and does not affect the other files."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from fineclip.errors import FineclipError
from fineclip.shards import Manifest, read_manifest

P = ParamSpec("P")
T = TypeVar("T")

MOST_TAIL_BYTES = 64_000
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b\x0c\x0e-\x1f]")
MANIFEST: TypeAdapter[Manifest] = TypeAdapter(Manifest)

Finite = Annotated[float, Field(allow_inf_nan=False)]


class ScoreRecord(BaseModel, frozen=True):
    """One score of a score file: `value` in percent over `n` cases."""

    metric: str
    value: Finite
    n: int


class Result(BaseModel, frozen=True, title="score file"):
    """Content of `evals/<benchmark>.json`; `chance` is the percentage that random guesses reach, by metric."""

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


@dataclass(frozen=True)
class ResultFiles:
    """Files of one data set.

    Attributes:
        root: Folder that the jobs ran in.
        dataset: Folder of the data set under data, results and logs.
        problems: What was absent or unusable, in the order in which it was found. Paths are relative to `root`.
    """

    root: Path
    dataset: str
    problems: list[Problem] = field(default_factory=list)

    def path(self, kind: Literal["data", "logs", "results"], *parts: str) -> Path:
        """Return a path in the folder of the data set of this kind."""
        return self.root.joinpath(kind, self.dataset, *parts)

    def shown(self, path: Path) -> str:
        """Return the path relative to the folder that the jobs ran in."""
        return path.relative_to(self.root).as_posix()

    def note(self, what: str, why: str, log: Path | None = None) -> None:
        """Add a problem, once.

        Args:
            what: File or job that is absent or damaged, relative to the working directory.
            why: Reason, for the reader of the report.
            log: Log of the job; its last lines are added if it exists.
        """
        problem = Problem(what, why, self.shown(log), last_lines(log)) if log and log.is_file() else Problem(what, why)
        if problem not in self.problems:
            self.problems.append(problem)

    def read(self, path: Path, reader: Callable[[Path], T]) -> T | None:
        """Return the content of a file; None if it is absent, or if it is damaged, which is noted."""
        return self.attempt(self.shown(path), reader, path) if path.is_file() else None

    def attempt(self, what: str, read: Callable[P, T], *given: P.args, **named: P.kwargs) -> T | None:
        """Return the result of `read`; None if it fails, which is noted as a problem of `what`."""
        try:
            return read(*given, **named)
        except (FineclipError, OSError, ValueError, KeyError, TypeError) as error:
            message = first_error(error) if isinstance(error, ValidationError) else str(error) or type(error).__name__
            if self.root != Path():
                message = message.replace(f"{self.root.as_posix()}/", "")
            self.note(what, message.removeprefix(f"{what}: "))
            return None


def first_error(error: ValidationError) -> str:
    """Return the first error of a result file that has another form than expected."""
    detail = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(map(str, detail["loc"]))
    return f"is not a {error.title.lower()} ({f'{key}: ' if key else ''}{detail['msg']}). Delete it and run again."


def read_valid_manifest(path: Path) -> Manifest:
    """Return the manifest in a file, after a check of the type of every field."""
    return MANIFEST.validate_json(read_manifest(path).text(), strict=True)


def read_result(path: Path) -> Result:
    """Return the scores of one run on one benchmark, with chance and protocol."""
    return Result.model_validate_json(path.read_bytes())


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

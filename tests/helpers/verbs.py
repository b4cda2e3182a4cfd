"""Verbs as a person types them: in this process, which is quick, or in one of their own."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

from fineclip.cli import main
from tests.helpers.dag import environment

Section = dict[str, Any] | None


class Ended(NamedTuple):
    """How a verb ended, and what it said."""

    code: int
    said: str


def fineclip(folder: Path, verb: str, *arguments: str, config: Section = None) -> Ended:
    """A verb, run in a folder. Raise errors that are not user errors."""
    with chdir(folder), redirect_stderr(io.StringIO()) as said, logging_as_it_was():
        code = main([verb, *arguments, *_section(config)])
    return Ended(code, said.getvalue())


def process(folder: Path, verb: str, *arguments: str, config: Section = None) -> Ended:
    """The same as `python -m fineclip VERB ...`."""
    command = [sys.executable, "-m", "fineclip", verb, *arguments, *_section(config)]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    return Ended(done.returncode, done.stderr)


def done(folder: Path, verb: str, *arguments: str, config: Section = None) -> str:
    """A verb that must end well; what it said."""
    ended = fineclip(folder, verb, *arguments, config=config)
    assert ended.code == 0, ended.said
    return ended.said


def refused(folder: Path, verb: str, *arguments: str, config: Section = None) -> str:
    """A verb that must be refused with exit code 2; the message."""
    return message_of(fineclip(folder, verb, *arguments, config=config))


def message_of(ended: Ended) -> str:
    """The one message with which a verb was refused."""
    assert ended.code == 2, ended.said
    assert "Traceback" not in ended.said
    return ended.said.strip().splitlines()[-1].partition(" ")[2]  # behind the time


def written(folder: Path) -> list[str]:
    """Every file below a folder, hidden and temporary ones too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@contextmanager
def logging_as_it_was() -> Iterator[None]:
    """A verb starts logging anew, for its process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(capture=False)


def _section(config: Section) -> list[str]:
    return [] if config is None else ["--config", json.dumps(config)]

"""Provenance of the numbers: code, libraries and machine."""

import platform
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from fineclip.version import __version__

PACKAGES = (
    "torch", "torchvision", "open_clip_torch", "timm", "transformers", "ultralytics", "safetensors",
    "numpy", "pillow", "pyarrow", "pydantic", "snakemake",
)  # fmt: skip


class Provenance(NamedTuple):
    """Provenance of a report.

    Attributes:
        made: Time at which the page was made.
        fineclip: Version of the package.
        commit: Commit of the code; empty if git does not track it.
        has_changes: Whether tracked files differ from the commit.
        python: Version of Python, operating system and architecture.
        versions: Versions of the installed libraries.
    """

    made: str
    fineclip: str
    commit: str
    has_changes: bool
    python: str
    versions: tuple[tuple[str, str], ...]


def collect_provenance() -> Provenance:
    """Collect the provenance without importing the libraries."""
    commit, has_changes = commit_of(Path(__file__).parent)
    return Provenance(
        made=datetime.now(tz=UTC).strftime("%d %B %Y, %H:%M UTC").lstrip("0"),
        fineclip=__version__,
        commit=commit,
        has_changes=has_changes,
        python=f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        versions=tuple(_versions()),
    )


def _versions() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            yield package, metadata.version(package)


def commit_of(code: Path) -> tuple[str, bool]:
    """Return the commit of a folder of code, and whether tracked files were edited; empty if git does not track it."""
    if not _git(code, "ls-files", "--error-unmatch", "."):  # installed inside another repository
        return "", False
    return _git(code, "rev-parse", "HEAD"), bool(_git(code, "status", "--porcelain", "--untracked-files=no", "."))


def _git(root: Path, *arguments: str) -> str:
    """Return the output of git; empty if there is no git, no repository or no commit."""
    command = ["git", "-C", str(root), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""

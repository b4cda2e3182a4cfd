"""Provenance of the numbers: code, libraries, machine, and the hashes of all inputs."""

import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from fineclip.report.runs import RunRecord
from fineclip.version import __version__

PACKAGES = (
    "torch", "torchvision", "open_clip_torch", "timm", "transformers", "ultralytics", "safetensors",
    "numpy", "pillow", "pyarrow", "pydantic", "snakemake",
)  # fmt: skip
MOST_INPUTS = 12


@dataclass(frozen=True)
class Pinned:
    """Hashes of one run: its manifest, its inputs and its outputs."""

    run: str
    sha256: str
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]
    more_inputs: int


@dataclass(frozen=True)
class Provenance:
    """Provenance of a report.

    Attributes:
        made: Time at which the page was made.
        fineclip: Version of the package.
        commit: Commit of the code; empty if git does not track it.
        has_changes: Whether tracked files differ from the commit.
        python: Version of Python.
        machine: Operating system and architecture.
        versions: Versions of the installed libraries.
        pinned: Hashes of each run.
    """

    made: str
    fineclip: str
    commit: str
    has_changes: bool
    python: str
    machine: str
    versions: tuple[tuple[str, str], ...]
    pinned: tuple[Pinned, ...]


def collect_provenance(records: Sequence[RunRecord]) -> Provenance:
    """Collect the provenance without importing the libraries."""
    commit, has_changes = commit_of(Path(__file__).parent)
    return Provenance(
        made=datetime.now(tz=UTC).strftime("%d %B %Y, %H:%M UTC").lstrip("0"),
        fineclip=__version__,
        commit=commit,
        has_changes=has_changes,
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}",
        versions=tuple((name, version) for name in PACKAGES if (version := _version(name))),
        pinned=tuple(pinned(record) for record in records if record.manifest),
    )


def pinned(record: RunRecord) -> Pinned:
    """Return the hashes of one run; the list of inputs is cut, because the hash of the manifest covers them all."""
    manifest = record.manifest
    inputs = sorted(manifest.inputs.items()) if manifest else []
    outputs = sorted(manifest.outputs.items()) if manifest else []
    return Pinned(
        run=record.run.id,
        sha256=record.manifest_sha256,
        inputs=tuple(inputs[:MOST_INPUTS]),
        outputs=tuple(outputs),
        more_inputs=max(0, len(inputs) - MOST_INPUTS),
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def commit_of(code: Path) -> tuple[str, bool]:
    """Return the commit of a folder of code, and whether tracked files were edited; empty if git does not track it."""
    if not _git(code, "ls-files", "--error-unmatch", "."):  # installed inside another repository
        return "", False
    return _git(code, "rev-parse", "HEAD"), bool(_git(code, "status", "--porcelain", "--untracked-files=no", "."))


def _git(root: Path, *arguments: str) -> str:
    """Return the output of git; empty if there is no git, no repository or no commit."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()

"""Write the conda specs of envs/ and the Dockerfile from requirements.lock, each with the pins of the lock.

python envs/from_lock.py            write them
python envs/from_lock.py --check    exit with 1 if a file differs from what would be written
"""

import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = {  # kind of job: the extras that it needs
    "core": ["data"],
    "detect": ["detect"],
    "caption": ["caption"],
    "train": ["train"],
}
JOBS = {
    "core": "source, filter, select, concepts, pack, card, index, report",
    "detect": "detect with engine yolo; installs ultralytics, which is AGPL-3.0",
    "caption": "caption with engine blip2",
    "train": "train and evaluate",
}
CONDA = """\
# {jobs}. Generated from requirements.lock by envs/from_lock.py.
# Used by snakemake --sdm conda. Jobs run the library of the checkout that holds the workflow.
name: fineclip-{kind}
channels: [conda-forge]
dependencies:
  - python >=3.11,<3.15
  - pip
  - pip:
{pins}
"""
DOCKER = """\
# The environment of all jobs. Generated from requirements.lock by envs/from_lock.py.
# The image holds no copy of the workflow: mount a checkout and run snakemake in it (docs/containers.md).
FROM python:3.13-slim-bookworm
RUN apt-get update \\
    && apt-get install --yes --no-install-recommends gcc git libc6-dev libgl1 libglib2.0-0 \\
    && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir "{uv}"
COPY requirements.lock /opt/fineclip/requirements.lock
RUN uv pip install --system --no-cache --constraint /opt/fineclip/requirements.lock \\
{pins}
RUN printf '#!/bin/sh\\nexec python -m fineclip "$@"\\n' > /usr/local/bin/fineclip && chmod +x /usr/local/bin/fineclip
WORKDIR /work
CMD ["snakemake", "--help"]
"""


def name_of(requirement: str) -> str:
    """Return the normalized name of the package that a requirement names."""
    matched = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", matched.group()).lower() if matched else ""


def pins_of(extras: Sequence[str]) -> list[str]:
    """Return the pins of the direct dependencies of the package.

    Args:
        extras: names of optional dependencies in pyproject.toml.

    Returns:
        Lines of requirements.lock, sorted, with their environment markers.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    return [pin for name in sorted(set(map(name_of, wanted))) for pin in locked(name)]


def locked(name: str) -> list[str]:
    """Return the lines of requirements.lock that pin a package, one for each environment marker."""
    return [line for line in (ROOT / "requirements.lock").read_text().splitlines() if name_of(line) == name]


def generated() -> dict[Path, str]:
    """Return the content of every generated file by its path."""
    files = {
        ROOT / "envs" / f"{kind}.yaml": CONDA.format(
            kind=kind, jobs=JOBS[kind], pins="\n".join(f'      - "{pin}"' for pin in pins_of(extras))
        )
        for kind, extras in EXTRAS.items()
    }
    everything = pins_of([extra for extras in EXTRAS.values() for extra in extras])
    pins = " \\\n".join(f'    "{pin}"' for pin in everything)
    return files | {ROOT / "Dockerfile": DOCKER.format(uv=locked("uv")[0], pins=pins)}


def main() -> int:
    """Write the files that differ, or with --check name them and return 1."""
    stale = {path: text for path, text in generated().items() if not path.is_file() or path.read_text() != text}
    if "--check" in sys.argv[1:]:
        for path in stale:
            sys.stderr.write(f"{path.relative_to(ROOT)} does not match requirements.lock: run `make envs`\n")
        return bool(stale)
    for path, text in stale.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

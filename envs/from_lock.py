"""Writes the conda specs of envs/ from requirements.lock: one per kind of job, each pin as the lock has it.

python envs/from_lock.py            write them
python envs/from_lock.py --check    exit with 1 if one differs from what would be written
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KINDS = {  # kind of job: the extras it needs
    "core": ["data"],
    "detect": ["detect"],
    "caption": ["caption"],
    "train": ["train"],
}
ABOUT = {
    "core": "source, filter, select, concepts, pack, card, index, report",
    "detect": "detect with engine yolo; brings ultralytics, which is AGPL-3.0",
    "caption": "caption with engine blip2",
    "train": "train and evaluate",
}


def name_of(requirement: str) -> str:
    """The normalised name that a requirement begins with."""
    matched = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", matched.group()).lower() if matched else ""


def specs() -> dict[Path, str]:
    """Every file with its text."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins: dict[str, list[str]] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        pins.setdefault(name_of(line), []).append(line)
    made = {}
    for kind, extras in KINDS.items():
        wanted = [*project["dependencies"]]
        for extra in extras:
            wanted += project["optional-dependencies"][extra]
        lines = [pin for requirement in sorted(set(map(name_of, wanted))) for pin in pins[requirement]]
        text = "\n".join(
            [
                f"# {ABOUT[kind]}. Made from requirements.lock by envs/from_lock.py.",
                "# Use: snakemake --sdm conda; the workflow runs the checkout it stands in.",
                f"name: fineclip-{kind}",
                "channels: [conda-forge]",
                "dependencies:",
                "  - python >=3.11,<3.15",
                "  - pip",
                "  - pip:",
                *(f'      - "{line}"' for line in lines),
            ]
        )
        made[ROOT / "envs" / f"{kind}.yaml"] = text + "\n"
    return made


def main() -> int:
    """Write or check."""
    stale = {path: text for path, text in specs().items() if not path.is_file() or path.read_text() != text}
    if "--check" in sys.argv[1:]:
        for path in stale:
            sys.stderr.write(f"{path.relative_to(ROOT)} is not what requirements.lock says: run `make envs`\n")
        return bool(stale)
    for path, text in stale.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

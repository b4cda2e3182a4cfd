"""Hashes of the shipped files; `python -m tools.shipped_models.hashes` updates them."""

import hashlib
import json
from pathlib import Path

from fineclip.miniature import WEIGHTS

HASHES = "hashes.json"


def hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file below a folder, except `.md`, `hashes.json` and hidden files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path: path.relative_to(folder).as_posix() for path in files}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path, name in names.items()
        if name != HASHES and path.suffix != ".md" and not path.name.startswith(".")
    }


def main() -> None:
    """Update `hashes.json`."""
    (WEIGHTS / HASHES).write_text(json.dumps(hashes(WEIGHTS), indent=2) + "\n")


if __name__ == "__main__":
    main()

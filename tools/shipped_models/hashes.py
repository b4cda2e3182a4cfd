"""Hashes of the shipped files; `python -m tools.shipped_models.hashes` updates them."""

import json
from pathlib import Path

from fineclip.miniature import WEIGHTS
from fineclip.shards import sha256_of

HASHES = "hashes.json"


def hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file below a folder, except `.md`, `hashes.json` and hidden files."""
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / HASHES and path.suffix != ".md" and not path.name.startswith(".")
    }


def main() -> None:
    """Update `hashes.json`."""
    (WEIGHTS / HASHES).write_text(json.dumps(hashes(WEIGHTS), indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Where the models of the miniature world lie, that come with the package. No torch here."""

from pathlib import Path

import fineclip
from fineclip.errors import ConfigError

PREFIX = "shipped:"
FOLDER = Path(fineclip.__file__).parent / "miniature" / "weights"


def shipped(name: str) -> Path:
    """The file or folder `name` of the shipped models, such as `encoder/mini.json`.

    Raises:
        ConfigError: there is none of that name, or the name leads out of the folder.
    """
    path = (FOLDER / name).resolve()
    if not path.is_relative_to(FOLDER.resolve()):
        raise ConfigError(f"shipped:{name}: leads out of the folder of shipped models")
    if not path.exists():
        there = sorted(entry.name for entry in FOLDER.iterdir()) if FOLDER.is_dir() else []
        raise ConfigError(f"shipped:{name}: the package ships no such model; there are {', '.join(there) or 'none'}")
    return path

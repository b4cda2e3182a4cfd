"""The embedded world: drawn scenes in which everything is known, and three models small enough to ship.

With it the whole pipeline runs in minutes on two cores, offline, and what comes out can be compared with the truth.
"""

from pathlib import Path

from fineclip.errors import ConfigError

__all__ = ["WEIGHTS", "weights_path"]

WEIGHTS = Path(__file__).parent / "weights"


def weights_path(name: str) -> Path:
    """Where a shipped file or folder lies: `encoder`, `detector.pt`, `captioner`.

    Raises:
        ConfigError: nothing of that name is shipped.
    """
    path = WEIGHTS / name
    if not path.exists():
        shipped = ", ".join(sorted(one.name for one in WEIGHTS.iterdir() if not one.name.startswith(".")))
        raise ConfigError(f"{name}: no such weights in the package, which ships {shipped}")
    return path

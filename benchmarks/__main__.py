"""Run all benchmarks and write the tables (`make bench`).

    python -m benchmarks [--images FOLDER]

Each benchmark runs in its own process, so that no state is shared.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import RESULTS

ALL = ("gpu", "exact", "gather", "loader", "step")
ROOT = Path(__file__).parents[1]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all benchmarks in order; stop at the first failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="photographs for the loader (default: synthetic ones)")
    chosen = parser.parse_args(arguments)
    photographs = ["--images", str(chosen.images.resolve())] if chosen.images else []
    for name in ALL:
        print(f"-- {name}", flush=True)
        more = photographs if name == "loader" else []
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *more], cwd=ROOT, check=True)
    subprocess.run([sys.executable, "-m", "benchmarks.table", "--write"], cwd=ROOT, check=True)
    print(f"results are in {RESULTS}, the tables in README.md and docs/performance.md")


if __name__ == "__main__":
    main()

"""Measured figures, and the file of results of each machine."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from benchmarks.machine import load_average, machine_facts, slug, versions

RESULTS = Path(__file__).parent / "results"
Side = Literal["at least", "at most"]


@dataclass(frozen=True)
class Figure:
    """Measured value with its reference.

    Attributes:
        name: Name of the measurement.
        unit: Unit of `reference` and `ours`.
        ours: Value of this package.
        reference: Value of the plain formulation or the limit of the machine; None if there is none.
        against: Name of the reference.
        ratio: `reference / ours` for a plain formulation, `ours / reference` for a limit or an earlier commit.
        target: Bound of the ratio, or of `ours` if there is no ratio.
        side: Side of the bound.
        spread: Lowest and highest value of each timed variant, by its name.
        note: Cause of a missed target, or conditions of the measurement.
    """

    name: str
    unit: str
    ours: float
    reference: float | None = None
    against: str = "plain"
    ratio: float | None = None
    target: float | None = None
    side: Side = "at least"
    spread: dict[str, tuple[float, float]] | None = None
    note: str = ""

    @property
    def judged(self) -> float:
        """Value that is compared with the target."""
        return self.ours if self.ratio is None else self.ratio

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target."""
        if self.target is None:
            return None
        return self.judged >= self.target if self.side == "at least" else self.judged <= self.target


def ratio_to_plain(name: str, unit: str, plain: float, ours: float, **more: Any) -> Figure:
    """Return a figure with the ratio of the plain formulation to ours."""
    return Figure(name, unit, ours=ours, reference=plain, ratio=plain / ours, **more)


def ratio_to_limit(name: str, unit: str, limit: float, ours: float, *, against: str, **more: Any) -> Figure:
    """Return a figure with the ratio of ours to the limit of the machine."""
    return Figure(
        name, unit, ours=ours, reference=limit, ratio=ours / limit, against=against, **({"side": "at most"} | more)
    )


def write(benchmark: str, figures: Sequence[Figure], *, load: Sequence[float], folder: Path = RESULTS) -> Path:
    """Write the figures of a benchmark to the file of this machine and replace earlier ones.

    Args:
        benchmark: Name of the benchmark.
        figures: Figures in the order of the table.
        load: Load averages of 1, 5 and 15 minutes at the start.
        folder: Folder of the file.

    Returns:
        Path of the file.
    """
    path = folder / f"{slug()}.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    content["machine"], content["versions"] = machine_facts(), versions()
    content.setdefault("benchmarks", {})[benchmark] = {
        "date": datetime.now(UTC).date().isoformat(),
        "load_average": {"before": list(load), "after": list(load_average())},
        "figures": [asdict(figure) | {"met": figure.met} for figure in figures],
    }
    content["benchmarks"] = dict(sorted(content["benchmarks"].items()))
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def figures_of(content: dict[str, Any], benchmark: str) -> list[Figure]:
    """Return the figures of one benchmark in the content of a file; empty if it was not run there."""
    found = content["benchmarks"].get(benchmark, {"figures": []})["figures"]
    return [Figure(**{name: value for name, value in entry.items() if name != "met"}) for entry in found]


def show(figures: Sequence[Figure]) -> None:
    """Print one line per figure."""
    for figure in figures:
        said = f"{figure.name}: {figure.ours:.4g} {figure.unit}"
        if figure.reference is not None:
            said += f", {figure.against} {figure.reference:.4g}"
        if figure.ratio is not None:
            said += f", x{figure.ratio:.2f}"
        if figure.met is not None:
            said += f" ({figure.side} {figure.target:g}: {'met' if figure.met else 'NOT MET'})"
        print(said, flush=True)

"""One measured thing, and the file that all of a machine's figures lie in."""

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
    """A number beside what it is compared with.

    Attributes:
        name: what is measured, in words.
        unit: of `reference` and `ours`.
        reference: of the plain formulation, or of the machine's limit; None where nothing is compared.
        ours: the same of this package.
        against: what the reference is.
        ratio: how many times less ours is than a plain formulation; how many times the limit it is.
        target: what the ratio, or `ours` where there is no ratio, should be.
        side: whether at least or at most.
        spread: lowest and highest of every timed variant, by its name.
        note: what bounds it where it falls short, or how it was measured.
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
        """What the target is about."""
        return self.ours if self.ratio is None else self.ratio

    @property
    def met(self) -> bool | None:
        """None without a target."""
        if self.target is None:
            return None
        return self.judged >= self.target if self.side == "at least" else self.judged <= self.target


def less(name: str, unit: str, plain: float, ours: float, **more: Any) -> Figure:
    """How many times less of something ours takes than the plain formulation."""
    return Figure(name, unit, ours=ours, reference=plain, ratio=plain / ours, **more)


def of_limit(name: str, unit: str, limit: float, ours: float, *, against: str, **more: Any) -> Figure:
    """How many times the machine's limit ours takes."""
    return Figure(
        name, unit, ours=ours, reference=limit, ratio=ours / limit, against=against, **({"side": "at most"} | more)
    )


def write(benchmark: str, figures: Sequence[Figure], *, load: Sequence[float], folder: Path = RESULTS) -> Path:
    """Put a benchmark's figures into the file of this machine, in place of what it said of it before.

    Args:
        benchmark: its name.
        figures: in the order of the table.
        load: average of the last minute when it began.
        folder: where the file lies.
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
    """The figures of one benchmark, as a file holds them; none where it was not run there."""
    found = content["benchmarks"].get(benchmark, {"figures": []})["figures"]
    return [Figure(**{name: value for name, value in entry.items() if name != "met"}) for entry in found]


def show(figures: Sequence[Figure]) -> None:
    """A line each, for who waits."""
    for figure in figures:
        said = f"{figure.name}: {figure.ours:.4g} {figure.unit}"
        if figure.reference is not None:
            said += f", {figure.against} {figure.reference:.4g}"
        if figure.ratio is not None:
            said += f", x{figure.ratio:.2f}"
        if figure.met is not None:
            said += f" ({figure.side} {figure.target:g}: {'met' if figure.met else 'NOT MET'})"
        print(said, flush=True)

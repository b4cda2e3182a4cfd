"""Performance tables of `results/`: figures with a target in README.md, all figures in docs/performance.md.

    python -m benchmarks.table [--write]

Figures of a GPU come first, then machine-independent figures, then CPU times. Each kind shows the machine that was measured last.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import RESULTS, Figure, figures_of

BEGIN, END = "<!-- performance: begin, written by python -m benchmarks.table -->", "<!-- performance: end -->"
KINDS = (
    ("On a GPU", ("gpu",)),
    ("The same on every machine", ("exact",)),
    ("CPU time of one thread", ("loader", "step", "gather")),
    ("Loader processes, this commit against an earlier one", ("throughput",)),
)
Content = Mapping[str, Any]
Selector = Callable[[Figure], bool]


def read_results(folder: Path = RESULTS) -> list[Content]:
    """Read the results of all machines, in the order of the file names."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def render(results: Sequence[Content], *, select: Selector) -> str:
    """Return all tables in Markdown, of the selected figures; an empty text without results."""
    return "\n\n".join(part for title, names in KINDS for part in _kind(title, names, results, select))


def has_target(figure: Figure) -> bool:
    """Return whether a figure has a target."""
    return figure.target is not None


def _kind(title: str, names: Sequence[str], results: Sequence[Content], select: Selector) -> list[str]:
    found = [each for each in results if any(figures_of(each, name) for name in names)]
    if not found:
        return []
    latest = max(found, key=lambda each: max(_date(each, name) for name in names))
    rows = [_row(figure) for name in names for figure in figures_of(latest, name) if name == "gpu" or select(figure)]
    if not rows:
        return []
    head = ["| | plain, or limit | ours | ratio | target |", "|---|---|---|---|---|"]
    return [f"**{title}** ({_where(latest, names)})", "\n".join([*head, *rows])]


def _date(content: Content, name: str) -> str:
    return str(content["benchmarks"].get(name, {}).get("date", ""))


def _where(content: Content, names: Sequence[str]) -> str:
    machine, benchmarks = content["machine"], content["benchmarks"]
    present = [benchmarks[name] for name in names if name in benchmarks]
    loads = [load for each in present for load in (each["load_average"]["before"][0], each["load_average"]["after"][0])]
    dates = sorted({each["date"] for each in present})
    device = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    return f"{device}; torch {content['versions']['torch']}; {' to '.join(dates)}; load average {min(loads):g} to {max(loads):g}"


def _row(figure: Figure) -> str:
    reference = ""
    if figure.reference is not None:
        reference = f"{_number(figure.reference)} {figure.unit}".strip()
        if figure.against != "plain":
            reference += f" ({figure.against.removeprefix('plain, ')})"
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}x"
    return f"| {figure.name} | {reference} | {f'{_number(figure.ours)} {figure.unit}'.strip()} | {ratio} | {_target(figure)} |"


def _target(figure: Figure) -> str:
    if figure.target is None:
        return ""
    unit = "x" if figure.ratio is not None else f" {figure.unit}".rstrip()
    said = f"{'>=' if figure.side == 'at least' else '<='} {figure.target:g}{unit}"
    return f"{said}, met" if figure.met else f"{said}, **not met**"


def _number(value: float) -> str:
    if value == 0 or 0.001 <= abs(value) < 10_000:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{value:.1e}"


def insert_table(page: str, table: str) -> str:
    """Return the page with the table between its two marks.

    Args:
        page: Markdown with the lines `BEGIN` and `END`.
        table: Markdown of the table.

    Returns:
        The page; text between the marks is replaced.

    Raises:
        ValueError: A mark is missing.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


PAGES: Mapping[Path, Selector] = {
    Path("README.md"): has_target,
    Path("docs/performance.md"): lambda _: True,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print all tables, or write them to the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into " + " and ".join(map(str, PAGES)))
    if not parser.parse_args(arguments).write:
        sys.stdout.write(render(read_results(), select=lambda _: True) + "\n")
        return
    for page, select in PAGES.items():
        text = insert_table(page.read_text(encoding="utf-8"), render(read_results(), select=select))
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

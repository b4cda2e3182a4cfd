"""The performance tables, from what lies in `results/`: those with a target in the README, all in docs/performance.md.

    python -m benchmarks.table [--write]

Figures taken on a GPU come first, then those that are the same on every machine, then times on a processor: each from the
machine that was measured last.
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
)
Content = Mapping[str, Any]
Wanted = Callable[[Figure], bool]


def read_results(folder: Path = RESULTS) -> list[Content]:
    """What every machine said, by the names of the files."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def render(results: Sequence[Content], *, wanted: Wanted) -> str:
    """All tables, of the figures that are wanted; of no result an empty text."""
    return "\n\n".join(part for title, names in KINDS for part in _kind(title, names, results, wanted))


def has_target(figure: Figure) -> bool:
    """Whether somebody said beforehand what it should be."""
    return figure.target is not None


def _kind(title: str, names: Sequence[str], results: Sequence[Content], wanted: Wanted) -> list[str]:
    found = [each for each in results if any(figures_of(each, name) for name in names)]
    if not found:
        return []
    latest = max(found, key=lambda each: max(_date(each, name) for name in names))
    rows = [_row(figure) for name in names for figure in figures_of(latest, name) if name == "gpu" or wanted(figure)]
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


def placed(page: str, table: str) -> str:
    """The page with the table between its marks.

    Raises:
        ValueError: the page has not both marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


PAGES: Mapping[Path, Wanted] = {
    Path("README.md"): has_target,
    Path("docs/performance.md"): lambda _: True,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print all figures, or write them into the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into " + " and ".join(map(str, PAGES)))
    if not parser.parse_args(arguments).write:
        sys.stdout.write(render(read_results(), wanted=lambda _: True) + "\n")
        return
    for page, wanted in PAGES.items():
        text = placed(page.read_text(encoding="utf-8"), render(read_results(), wanted=wanted))
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

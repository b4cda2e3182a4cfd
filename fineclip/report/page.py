"""The page: everything that lies on disk of one data set, in one HTML file that needs nothing but itself.

Whatever is missing or damaged is named at the end of the page and takes nothing else with it. No torch, no network, no
script.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from fineclip.config import Config, identity
from fineclip.report import wording
from fineclip.report.charts import Figure, cases, loss_figures, method_css, scale_figures
from fineclip.report.costs import StageCost, collect_costs
from fineclip.report.dropped import DroppedTile, dropped_tiles
from fineclip.report.facts import Fact, facts, flat
from fineclip.report.funnel import Funnel, collect_funnel, stage_folders
from fineclip.report.gallery import Tile, kept_tiles
from fineclip.report.headline import Finding, main_finding, row_name, what_was_run
from fineclip.report.provenance import Provenance, collect_provenance
from fineclip.report.reading import Ledger, Place, Problem
from fineclip.report.runs import RunRecord, collect_runs
from fineclip.report.tables import Table, score_tables
from fineclip.shards import write_text
from fineclip.shards.atomic import remove_stale_temp_files

VERSION = 2

HERE = Path(__file__).parent
TEMPLATE, STYLE = "page.html", "style.css"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Curves:
    """The scale charts of one table."""

    title: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Report:
    """Everything that the page shows, in its order."""

    dataset: str
    finding: Finding
    plan: str
    facts: tuple[Fact, ...]
    records: tuple[RunRecord, ...]
    funnel: Funnel
    kept: tuple[Tile, ...]
    dropped: tuple[DroppedTile, ...]
    tables: tuple[Table, ...]
    curves: tuple[Curves, ...]
    losses: tuple[Figure, ...]
    costs: tuple[StageCost, ...]
    provenance: Provenance
    config: str
    changes: str
    problems: tuple[Problem, ...]


def write_report(config: Config, output: Path, *, root: Path = Path()) -> None:
    """Write the report of a data set.

    Args:
        config: what was planned; names the data set, its runs and its benchmarks.
        output: the HTML file, written whole or not at all.
        root: the folder that the jobs ran in; `data`, `results` and `logs` are looked for there.
    """
    report = collect_report(config, root)
    page = render(report)
    remove_stale_temp_files(output.parent, output.name)
    write_text(output, page)
    log.info(
        "%s: %d of %d runs, %d tables, %d things missing, %.1f MB",
        output,
        sum(record.manifest is not None for record in report.records),
        len(report.records),
        len(report.tables),
        len(report.problems),
        len(page) / 1e6,
    )


def collect_report(config: Config, root: Path) -> Report:
    """Read everything. Pieces that cannot be read become `problems`."""
    place, ledger = Place(root, config.dataset.folder), Ledger(root)
    records = collect_runs(config, place, ledger)
    funnel = collect_funnel(config, place, ledger)
    images = {scale.name: scale.images for scale in funnel.scales}
    tables = score_tables(config, records, images)
    folders = stage_folders(config, place)
    return Report(
        dataset=config.dataset.folder,
        finding=main_finding(tables),
        plan=what_was_run(config),
        facts=facts(config),
        records=records,
        funnel=funnel,
        kept=kept_tiles(folders["pack"], funnel.shards, place, ledger),
        dropped=dropped_tiles(funnel, folders, place, ledger),
        tables=tables,
        curves=tuple(Curves(table.protocol.benchmark, scale_figures(table)) for table in tables if has_scale(table)),
        losses=loss_figures(records, images),
        costs=collect_costs(config, place, ledger),
        provenance=collect_provenance(records),
        config=as_json(config.model_dump(mode="json", by_alias=True)),
        changes=as_json(identity(config)),
        problems=tuple(ledger.problems),
    )


def render(report: Report) -> str:
    """The HTML of a report."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=wording.count,
        percent=wording.percent,
        duration=wording.duration,
        memory=wording.memory,
        reason=wording.reason,
        method_css=method_css,
    )
    helpers = {
        "plural": wording.plural,
        "row_name": row_name,
        "cases": cases,
        "groups": header_groups,
        "protocol": protocol_text,
        "method_name": wording.method_name,
    }
    style = Markup((HERE / STYLE).read_text(encoding="utf-8"))  # noqa: S704 (a file of the package)
    return environment.get_template(TEMPLATE).render(report=report, style=style, missing=wording.MISSING, **helpers)


def has_scale(table: Table) -> bool:
    """Whether a row of the table was trained on a known number of images."""
    return any(line.images for line in table.lines)


def header_groups(metrics: Sequence[str]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The two header rows of a table: groups with their (metric, leaf name) columns, in order."""
    groups: list[tuple[str, list[tuple[str, str]]]] = []
    for metric in metrics:
        group, leaf = wording.metric_parts(metric)
        if not groups or groups[-1][0] != group:
            groups.append((group, []))
        groups[-1][1].append((metric, leaf))
    return groups


def protocol_text(table: Table) -> str:
    """How a table's scores were taken, in one line."""
    told = [f"images at {table.protocol.image_size}{wording.NBSP}px"]
    told += [
        f"{name.removeprefix('source.')} {value}"
        for name, value in flat(table.config)
        if name not in {"image_size", "kind", "version"}
    ]
    return ", ".join([*told, f"version {table.protocol.version}"])


def as_json(values: Any) -> str:
    """For people to read."""
    return json.dumps(values, indent=2, ensure_ascii=False)

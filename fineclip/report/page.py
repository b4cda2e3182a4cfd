"""The report page: one self-contained HTML file, made from the files of one data set.

Absent or damaged files are listed at the end of the page and do not affect its other parts. The page has no scripts and
needs no network; torch is not imported.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from fineclip.config import Config
from fineclip.identity import identity
from fineclip.report import formatting
from fineclip.report.charts import Figure, cases, loss_figures, method_css, scale_figures
from fineclip.report.costs import StageCost, collect_costs
from fineclip.report.dropped_samples import DroppedTile, dropped_tiles
from fineclip.report.funnel import Funnel, collect_funnel, stage_folders
from fineclip.report.headline import Finding, main_finding, row_name, what_was_run
from fineclip.report.kept_samples import Tile, kept_tiles
from fineclip.report.provenance import Provenance, collect_provenance
from fineclip.report.result_files import Problem, ProblemLog, ResultPaths
from fineclip.report.run_facts import Fact, facts, flat
from fineclip.report.runs import RunRecord, collect_runs
from fineclip.report.score_tables import Table, score_tables
from fineclip.shards import write_text
from fineclip.shards.atomic import remove_stale_temp_files

VERSION = 2

HERE = Path(__file__).parent
TEMPLATE, STYLE = "page.html", "style.css"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Curves:
    """Scale charts of one table."""

    title: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Report:
    """Content of the page, in its order."""

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
        config: Validated configuration; names the data set, its runs and its benchmarks.
        output: HTML file, written atomically.
        root: Folder that the jobs ran in; it holds `data`, `results` and `logs`.
    """
    report = collect_report(config, root)
    page = render(report)
    remove_stale_temp_files(output.parent, output.name)
    write_text(output, page)
    log.info(
        "%s: %d of %d runs, %d tables, %d problems, %.1f MB",
        output,
        sum(record.manifest is not None for record in report.records),
        len(report.records),
        len(report.tables),
        len(report.problems),
        len(page) / 1e6,
    )


def collect_report(config: Config, root: Path) -> Report:
    """Read all files of a data set. Files that cannot be read become `problems`."""
    place, problems_log = ResultPaths(root, config.dataset.folder), ProblemLog(root)
    records = collect_runs(config, place, problems_log)
    funnel = collect_funnel(config, place, problems_log)
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
        kept=kept_tiles(folders["pack"], funnel.shards, place, problems_log),
        dropped=dropped_tiles(funnel, folders, place, problems_log),
        tables=tables,
        curves=tuple(Curves(table.protocol.benchmark, scale_figures(table)) for table in tables if has_scale(table)),
        losses=loss_figures(records, images),
        costs=collect_costs(config, place, problems_log),
        provenance=collect_provenance(records),
        config=as_json(config.model_dump(mode="json", by_alias=True)),
        changes=as_json(identity(config)),
        problems=tuple(problems_log.problems),
    )


def render(report: Report) -> str:
    """Return the report as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=formatting.count,
        percent=formatting.percent,
        duration=formatting.duration,
        memory=formatting.memory,
        reason=formatting.reason,
        method_css=method_css,
    )
    helpers = {
        "plural": formatting.plural,
        "row_name": row_name,
        "cases": cases,
        "groups": header_groups,
        "protocol": protocol_text,
        "method_name": formatting.method_name,
    }
    style = Markup((HERE / STYLE).read_text(encoding="utf-8"))  # noqa: S704 (a file of the package)
    return environment.get_template(TEMPLATE).render(report=report, style=style, missing=formatting.MISSING, **helpers)


def has_scale(table: Table) -> bool:
    """Return whether a row of the table was trained on a known number of images."""
    return any(line.images for line in table.lines)


def header_groups(metrics: Sequence[str]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the groups of the table header with their (metric, leaf name) columns, in order."""
    groups: list[tuple[str, list[tuple[str, str]]]] = []
    for metric in metrics:
        group, leaf = formatting.metric_parts(metric)
        if not groups or groups[-1][0] != group:
            groups.append((group, []))
        groups[-1][1].append((metric, leaf))
    return groups


def protocol_text(table: Table) -> str:
    """Return the protocol of a table in one line."""
    parts = [f"images at {table.protocol.image_size}{formatting.NBSP}px"]
    parts += [
        f"{name.removeprefix('source.')} {value}"
        for name, value in flat(table.config)
        if name not in {"image_size", "kind", "version"}
    ]
    return ", ".join([*parts, f"version {table.protocol.version}"])


def as_json(values: Any) -> str:
    """Return indented JSON."""
    return json.dumps(values, indent=2, ensure_ascii=False)

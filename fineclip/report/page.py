"""The report page: one self-contained HTML file, made from the files of one data set.

Absent or damaged files are listed at the end of the page and do not affect its other parts. The page has no scripts and
needs no network; torch is not imported.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fineclip.config import Config
from fineclip.report import formatting
from fineclip.report.charts import cases, loss_charts, scale_charts
from fineclip.report.costs import StageCost, collect_costs
from fineclip.report.funnel import Funnel, collect_funnel, stage_folders
from fineclip.report.headline import Finding, main_finding, what_was_run
from fineclip.report.line_chart import Chart, line_chart
from fineclip.report.provenance import Provenance, collect_provenance
from fineclip.report.result_files import Problem, ResultFiles
from fineclip.report.run_facts import facts, flat
from fineclip.report.runs import RunRecord, collect_runs
from fineclip.report.samples import DroppedTile, KeptTile, dropped_tiles, kept_tiles
from fineclip.report.score_tables import Table, score_tables
from fineclip.shards import write_text
from fineclip.shards.atomic import remove_stale_temp_files

VERSION = 2

TEMPLATE = "page.html"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """Content of the page, in its order."""

    config: Config
    finding: Finding
    records: tuple[RunRecord, ...]
    funnel: Funnel
    kept: tuple[KeptTile, ...]
    dropped: tuple[DroppedTile, ...]
    tables: tuple[Table, ...]
    losses: tuple[Chart, ...]
    costs: tuple[StageCost, ...]
    provenance: Provenance
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
    done = sum(record.manifest is not None for record in report.records)
    counts = f"{done} of {len(report.records)} runs, {len(report.tables)} tables, {len(report.problems)} problems"
    log.info("%s: %s, %.1f MB", output, counts, len(page) / 1e6)


def collect_report(config: Config, root: Path) -> Report:
    """Read all files of a data set. Files that cannot be read become `problems`."""
    files = ResultFiles(root, config.dataset.folder)
    records = collect_runs(config, files)
    funnel = collect_funnel(config, files)
    images = {scale.name: scale.images for scale in funnel.scales}
    tables = score_tables(config, records, images)
    folders = stage_folders(config, files)
    return Report(
        config=config,
        finding=main_finding(tables),
        records=records,
        funnel=funnel,
        kept=kept_tiles(folders["pack"], funnel.shards, files),
        dropped=dropped_tiles(funnel, folders, files),
        tables=tables,
        losses=loss_charts(records, images),
        costs=collect_costs(config, files),
        provenance=collect_provenance(),
        problems=tuple(files.problems),
    )


def render(report: Report) -> str:
    """Return the report as HTML."""
    words = (cases, facts, header_groups, line_chart, protocol_text, scale_charts, what_was_run)
    template = formatting.environment().get_template(TEMPLATE)
    return template.render(report=report, missing=formatting.MISSING, **{word.__name__: word for word in words})


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

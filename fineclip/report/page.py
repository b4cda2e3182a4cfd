"""The report page: one self-contained HTML file, made from the files of one data set.

Absent or damaged files are listed at the end of the page and do not affect its other parts. The page has no scripts and
needs no network; torch is not imported.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from fineclip.config import Config
from fineclip.report import charts, formatting, sections
from fineclip.report.costs import StageCost, collect_costs
from fineclip.report.funnel import Funnel, collect_funnel
from fineclip.report.headline import Finding, main_finding
from fineclip.report.line_chart import Chart, line_chart
from fineclip.report.overlap import Overlap, collect_overlaps
from fineclip.report.provenance import Provenance, collect_provenance
from fineclip.report.result_files import Problem, ResultFiles
from fineclip.report.runs import RunRecord, collect_runs
from fineclip.report.samples import DroppedTile, KeptTile, dropped_tiles, kept_tiles
from fineclip.report.score_tables import Table, score_tables
from fineclip.shards import write_text
from fineclip.shards.atomic import remove_stale_temp_files

VERSION = 2

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
    overlaps: tuple[Overlap, ...]
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
    return Report(
        config=config,
        finding=main_finding(tables),
        records=records,
        funnel=funnel,
        kept=kept_tiles(funnel, files),
        dropped=dropped_tiles(funnel, files),
        overlaps=collect_overlaps(config, files),
        tables=tables,
        losses=charts.loss_charts(records, images),
        costs=collect_costs(config, files),
        provenance=collect_provenance(),
        problems=tuple(files.problems),
    )


def render(report: Report) -> str:
    """Return the report as HTML."""
    template = formatting.environment().get_template("page.html")
    return template.render(
        report=report, charts=charts, formatting=formatting, line_chart=line_chart, sections=sections
    )

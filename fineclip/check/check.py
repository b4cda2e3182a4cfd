"""Check a data set: run the audit, print its table, write the page and the findings, and last the manifest.

data/<dataset>/check/<regions>.html            the page
data/<dataset>/check/<regions>.findings.json   the findings, as a list of objects
data/<dataset>/check/<regions>.json            manifest, written if there is no error
"""

import json
import logging
from pathlib import Path
from typing import Any

from fineclip.check.audit import Audit, audit
from fineclip.check.findings import Finding
from fineclip.check.page import html_page, terminal_table
from fineclip.config import Config
from fineclip.errors import DataError
from fineclip.identity import identity
from fineclip.shards import Job, write_text

log = logging.getLogger(__name__)


def check_dataset(config: Config, manifest: Path, *, processes: int) -> Audit:
    """Audit what a configuration names, and write the result.

    It always runs: the inputs that it would have to hash are those that it reads.

    Args:
        config: Validated configuration; `check.images` limits the samples.
        manifest: Path of the manifest to write; page and findings are written beside it.
        processes: Processes that read images.

    Returns:
        The audit.

    Raises:
        DataError: There are errors. Page and findings are written, the manifest is not.
    """
    result = audit(config, images=config.check.images, processes=processes)
    page, findings = manifest.with_suffix(".html"), manifest.with_suffix(".findings.json")
    write_text(page, html_page(result, dataset=config.dataset.folder))
    write_text(
        findings, json.dumps([_values(one) for one in result.findings.sorted()], ensure_ascii=False, indent=1) + "\n"
    )
    log.info(
        "%s samples read%s\n%s",
        f"{result.images:,}",
        "" if result.complete else " (a uniform sample)",
        terminal_table(result),
    )
    errors, warnings = result.findings.count("error"), result.findings.count("warning")
    if errors:
        first = next(one for one in result.findings.sorted() if one.severity == "error")
        raise DataError(
            f"{errors} errors and {warnings} warnings, see {page}. The first error, in {first.part}: {first.text}"
        )
    if warnings:
        log.warning("%d warnings, see %s", warnings, page)
    Job(manifest, stage="check", version=1, config=check_identity(config), inputs={}).finish(
        [page, findings], read=result.images, kept=result.images
    )
    return result


def check_identity(config: Config) -> dict[str, Any]:
    """Return the parts of the configuration that an audit reads."""
    return {
        "check": identity(config.check),
        "source": identity(config.source),
        "filter": identity(config.filter),
        "detect": identity(config.detect[config.regions]),
        "caption": identity(config.caption[config.captions]),
        "exclude": list(config.select.exclude),
        "benchmarks": {name: identity(config.benchmarks[name].source) for name in config.plan.benchmarks},
    }


def _values(finding: Finding) -> dict[str, Any]:
    return {
        "severity": finding.severity,
        "part": finding.part,
        "text": finding.text,
        "count": finding.count,
        "of": finding.of,
        "example": finding.example.text if finding.example else None,
    }

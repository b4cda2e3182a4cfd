"""Verbs `report` and `config`."""

import argparse
import logging
from pathlib import Path

from fineclip.cli.options import Verbs, add_verb
from fineclip.config import load, read_files
from fineclip.shards import write_text

log = logging.getLogger(__name__)


def add_verbs(verbs: Verbs) -> None:
    """Add `report` and `config`."""
    verb = add_verb(verbs, "report", _report, about="write the report of a data set and its runs")
    verb.add_argument("--output", type=Path, required=True, metavar="FILE", help="HTML file")

    verb = add_verb(
        verbs,
        "config",
        _config,
        about="check configuration files; write the JSON schema and the reference page of all keys",
        config=False,
    )
    verb.add_argument("files", type=Path, nargs="+", help="merged from left to right, as --configfile does")
    verb.add_argument("--schema", type=Path, metavar="FILE", help="write the JSON schema for editors")
    verb.add_argument("--reference", type=Path, metavar="FILE", help="write the reference page, Markdown")


def _report(options: argparse.Namespace) -> None:
    from fineclip.report.page import write_report

    values = dict(options.config)
    values.pop("version", None)
    write_report(load(values, where="--config"), options.output)


def _config(options: argparse.Namespace) -> None:
    from fineclip.config.reference import editor_schema, reference_page

    config = load(read_files(options.files), where=" + ".join(map(str, options.files)))
    log.info("%s: %d runs are planned: %s", config.dataset.folder, len(config.runs()), ", ".join(config.runs()))
    if options.schema:
        write_text(options.schema, editor_schema())
    if options.reference:
        write_text(options.reference, reference_page())

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
        about="check configuration files, and write them with every key explained",
        config=False,
    )
    verb.add_argument("files", type=Path, nargs="+", help="laid over one another in this order")
    verb.add_argument("--write", type=Path, metavar="FILE", help="where the explained configuration goes")


def _report(options: argparse.Namespace) -> None:
    from fineclip.report.page import write_report

    values = dict(options.config)
    values.pop("version", None)
    write_report(load(values, where="--config"), options.output)


def _config(options: argparse.Namespace) -> None:
    from fineclip.config.document import heading_of, render

    values = read_files(options.files)
    config = load(values, where=" + ".join(map(str, options.files)))
    log.info("%s: %d runs are planned: %s", config.dataset.folder, len(config.runs()), ", ".join(config.runs()))
    if options.write:
        write_text(options.write, render(values, heading=heading_of(options.files[-1])))

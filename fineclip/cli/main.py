"""Command line: parse the arguments and call the function of the verb.

A mistake of the user prints one message and exits with 2; a bug prints its traceback and exits with 1.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fineclip.cli import check, data, encoders, report, training
from fineclip.cli.launch import is_launched, rank_of, threads_of_each
from fineclip.errors import FineclipError
from fineclip.models.lean_imports import hide_hugging_face, hide_pandas, import_without_collection
from fineclip.version import __version__

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        arguments: Words of the command line; None takes those of the process.

    Returns:
        The exit code: 0 for success, 2 for a mistake that the message explains.
    """
    if arguments is None:  # this process is a command, and not a program that calls one
        hide_hugging_face()
        hide_pandas()
        import_without_collection()
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = parser().parse_args(words, argparse.Namespace(words=words))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_of_each(getattr(options, "threads", 1), os.environ)))
    _start_logging(options.log)
    try:
        options.call(options)
    except FineclipError as error:
        log.error("%s", error)  # noqa: TRY400 (the message is all a user needs; no traceback)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of every verb and its options."""
    top = argparse.ArgumentParser(
        prog="fineclip",
        description="From image-text pairs to a region-level CLIP. Snakemake calls these verbs; each can also be run directly.",
    )
    top.add_argument("--version", action="version", version=f"fineclip {__version__}")
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)
    for module in (check, data, training, encoders, report):
        module.add_verbs(verbs)
    return top


def _start_logging(file: Path | None) -> None:
    """Log to the terminal and to the log file. Ranks other than 0 log warnings only."""
    rank = rank_of(os.environ)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not is_launched(os.environ):
            file.write_text("", encoding="utf-8")  # remove the output of the previous attempt
        handlers.append(logging.FileHandler(file, mode="a", encoding="utf-8"))  # as several processes write it
    who = f"process {rank}: " if rank else ""
    logging.basicConfig(
        level=logging.WARNING if rank else logging.INFO,
        format=f"%(asctime)s {who}%(message)s",
        datefmt="%H:%M:%S",
        handlers=handlers,
        force=True,
    )
    for noisy in ("httpx", "PIL", "filelock", "urllib3", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for handler in handlers:  # warnings that libraries print without a logger
        handler.addFilter(lambda record: record.name != "root" or record.levelno >= logging.WARNING)
    logging.captureWarnings(capture=True)

"""Command line: parse the arguments and call the function of the verb.

A mistake of the user, a refusal of the operating system and exhausted memory print one message and exit with 2; a bug prints its
traceback and exits with 1. `fineclip.system_errors` draws the line.
"""

import argparse
import logging
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fineclip.cli import check, data, encoders, report, training
from fineclip.config import MEMORY_KEYS
from fineclip.environment import Ranks, launched_ranks, require_threads
from fineclip.models.lean_imports import hide_hugging_face, hide_pandas, import_without_collection
from fineclip.system_errors import explain, refusal, refusals_at
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
        threading.excepthook = _explain_in_thread
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = parser().parse_args(words, argparse.Namespace(words=words))
    _log_to([logging.StreamHandler(sys.stderr)])
    try:
        ranks = launched_ranks(os.environ) if getattr(options, "is_launchable", False) else None
        _set_threads(getattr(options, "threads", 1), ranks)
        _start_logging(options.log, ranks)
        options.call(options)
        sys.stdout.flush()
    except Exception as error:
        explained = explain(error, memory_keys=MEMORY_KEYS.get(words[0], ()))
        if explained is None:
            raise
        log.error("%s", explained)  # noqa: TRY400 (the message is all a user needs; no traceback)
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


def _set_threads(threads: int, ranks: Ranks | None) -> None:
    """Let libraries use the threads of the job, which the processes of this machine share, unless the user says otherwise."""
    if require_threads(os.environ) is None:
        os.environ["OMP_NUM_THREADS"] = str(max(1, threads // (ranks.local_world_size if ranks else 1)))


def _start_logging(file: Path | None, ranks: Ranks | None) -> None:
    """Log to the terminal and to the log file. Ranks other than 0 log warnings only."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if file is not None:
        with refusals_at(file, "the log cannot be written"):
            file.parent.mkdir(parents=True, exist_ok=True)
            if ranks is None:
                file.write_text("", encoding="utf-8")  # remove the output of the previous attempt
            handlers.append(_LogFile(file, mode="a", encoding="utf-8"))  # as several processes write it
    _log_to(handlers, rank=ranks.rank if ranks else 0)


def _log_to(handlers: Sequence[logging.Handler], *, rank: int = 0) -> None:
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
    warnings.filterwarnings(
        "ignore", "Image size .* exceeds limit", RuntimeWarning
    )  # of Pillow; fineclip has its own limit


class _LogFile(logging.FileHandler):
    """Log file. If the system refuses to write it, the terminal says so once, and the job goes on."""

    is_refused = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (name of logging)
        """Report a refusal of the system in one line; other errors as logging does."""
        error = sys.exc_info()[1]
        refused = refusal(error, Path(self.baseFilename), doing="the log cannot be written") if error else None
        if refused is None:
            super().handleError(record)
        elif not self.is_refused:
            self.is_refused = True
            sys.stderr.write(f"{refused}\n")

    def close(self) -> None:
        """Close the file; what the system refused was reported before."""
        with suppress(OSError):
            super().close()


def _explain_in_thread(failed: threading.ExceptHookArgs) -> None:
    """Report an error of a thread that the main thread does not wait for; a bug with its traceback."""
    explained = explain(failed.exc_value) if failed.exc_value else None
    if explained is None:
        threading.__excepthook__(failed)
    else:
        log.error("%s", explained)

"""The processes that read and decode: how they are started, and that they end when their training does, however it ends."""

import atexit
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection, forkserver
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

from fineclip.train.preemption import ignore_signal

T = TypeVar("T")

_open: set[Iterator[Any]] = set()


@contextmanager
def ended(stream: Iterator[T]) -> Iterator[Iterator[T]]:
    """The iterator of a DataLoader, whose workers are told to end when the block does, or else when the program does.

    Left to garbage collection, or to the end of Python, its queues may go first; then no word reaches the workers, and
    whoever waits for them waits for ever, because they do not hear SIGTERM.
    """
    _open.add(stream)
    try:
        yield stream
    finally:
        _end(stream)


def _end(stream: Iterator[Any]) -> None:
    _open.discard(stream)
    shut_down = getattr(stream, "_shutdown_workers", None)  # what its own __del__ calls; none without workers
    if shut_down is not None:
        shut_down()


@atexit.register  # after torch and multiprocessing have registered theirs, so that it runs before them
def _end_all() -> None:
    for stream in tuple(_open):
        _end(stream)


def worker_context(*, preload: str) -> BaseContext:
    """Workers are forked from a server that has imported what they need, the module `preload`, and nothing else.

    A fork of the training itself would copy its threads, locks and open files; a new interpreter for each worker would
    hold its own copy of every library. The signals that ask a training to stop reach its whole group: server and workers
    do not hear them, and the training itself tells them when to end.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    with ignore_signal(signal.SIGTERM):
        forkserver.ensure_running()
    return context


def quiet_worker(_: int) -> None:
    """What a worker begins with, whatever its number: it hears no signal, and ends with its training."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(parent: int) -> None:
    """A training that was killed can tell its workers nothing; and the server lives as long as one of them does."""
    connection.wait([parent])
    os._exit(1)

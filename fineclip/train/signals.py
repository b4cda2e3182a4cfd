"""A request to stop is heard at once and answered after the step at hand."""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Requests:
    """The signal that asked this process to stop, None so far; a time limit asks as SIGTERM does.

    Args:
        limit_s: seconds from now.
    """

    def __init__(self, limit_s: float | None = None) -> None:
        self._signal: signal.Signals | None = None
        self._end = None if limit_s is None else time.monotonic() + limit_s

    @property
    def received(self) -> signal.Signals | None:
        """The first that came."""
        is_over = self._end is not None and time.monotonic() > self._end
        return signal.SIGTERM if self._signal is None and is_over else self._signal

    def hear(self, number: int, _: FrameType | None) -> None:
        """Remember the first; a second SIGINT ends the process at once.

        SIGTERM is no more than a request however often it comes: a scheduler sends it to every process of a job, and the
        launcher among them sends it on.
        """
        if self._signal is None:
            self._signal = signal.Signals(number)
        elif number == signal.SIGINT:
            raise SystemExit(128 + number)


@contextmanager
def heeded(*, limit_s: float | None = None) -> Iterator[Requests]:
    """While the block runs, SIGTERM and SIGINT are requests, and so is the end of a time limit from now.

    Elsewhere than in the main thread signals stay as they are.
    """
    requests = Requests(limit_s)
    with _handled((signal.SIGTERM, signal.SIGINT), requests.hear):
        yield requests


@contextmanager
def unheard(number: signal.Signals) -> Iterator[None]:
    """While the block runs the signal is ignored, and programs that it starts ignore it for ever."""
    with _handled((number,), signal.SIG_IGN):
        yield


@contextmanager
def _handled(numbers: Sequence[signal.Signals], handler: Any) -> Iterator[None]:
    """Python lets only the main thread decide about signals."""
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in numbers} if is_main else {}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)

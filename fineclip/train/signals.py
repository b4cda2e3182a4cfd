"""A request to stop is heard at once and answered after the step at hand."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Requests:
    """The signal that asked this process to stop, None so far."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def hear(self, number: int, _: FrameType | None) -> None:
        """Remember the first; a second SIGINT ends the process at once.

        SIGTERM is no more than a request however often it comes: a scheduler sends it to every process of a job, and the
        launcher among them sends it on.
        """
        if self.received is None:
            self.received = signal.Signals(number)
        elif number == signal.SIGINT:
            raise SystemExit(128 + number)


@contextmanager
def heeded() -> Iterator[Requests]:
    """While the block runs, SIGTERM and SIGINT are requests. Elsewhere than in the main thread they stay as they are."""
    requests = Requests()
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

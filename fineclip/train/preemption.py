"""Requests to stop: SIGTERM, SIGINT or a time limit. The training loop reads them once per step."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Record the first signal that requests a stop; a time limit counts as SIGTERM.

    Args:
        limit_s: Seconds from now; None: no limit.
    """

    def __init__(self, limit_s: float | None = None) -> None:
        self._signal: signal.Signals | None = None
        self._end = None if limit_s is None else time.monotonic() + limit_s

    @property
    def received(self) -> signal.Signals | None:
        """The signal; None if none was received."""
        is_over = self._end is not None and time.monotonic() > self._end
        return signal.SIGTERM if self._signal is None and is_over else self._signal

    def on_signal(self, number: int, _: FrameType | None) -> None:
        """Store the first signal. A second SIGINT exits at once; SIGTERM may come several times.

        A scheduler sends SIGTERM to every process of a job, and the launcher sends it to its processes again.

        Args:
            number: SIGTERM or SIGINT.

        Raises:
            SystemExit: The signal is a second SIGINT; the exit code is 128 plus its number.
        """
        if self._signal is None:
            self._signal = signal.Signals(number)
        elif number == signal.SIGINT:
            raise SystemExit(128 + number)


@contextmanager
def handle_stop_signals(*, limit_s: float | None = None) -> Iterator[StopRequest]:
    """Turn SIGTERM, SIGINT and a time limit into a stop request inside the block.

    Args:
        limit_s: Seconds from now; None: no limit.

    Yields:
        The request. Outside of the main thread only the time limit works.
    """
    request = StopRequest(limit_s)
    is_main = threading.current_thread() is threading.main_thread()  # Python allows handlers only there
    numbers = (signal.SIGTERM, signal.SIGINT) if is_main else ()
    before = {number: signal.signal(number, request.on_signal) for number in numbers}
    try:
        yield request
    finally:
        for number, old in before.items():
            signal.signal(number, old)

"""Findings of an audit: what was found, how often, and one example of each kind."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from fineclip.types import LabeledBox

Severity = Literal["error", "warning", "note"]
ERROR: Severity = "error"
WARNING: Severity = "warning"
NOTE: Severity = "note"
SEVERITIES = (ERROR, WARNING, NOTE)
READERS = (
    "fineclip.readers",
    "fineclip.stages.source",
    "fineclip.stages.external",
    "fineclip.stages.given_boxes",
    "fineclip.evals",
)


class Picture(NamedTuple):
    """Byte range of the image of an example, and its boxes in pixels of the stored image."""

    file: str
    offset: int
    size: int
    boxes: tuple[LabeledBox, ...] = ()


class Example(NamedTuple):
    """An example of a finding: the text to show, and its image if there is one."""

    text: str
    picture: Picture | None = None


@dataclass
class Finding:
    """One kind of finding.

    Attributes:
        part: Part of the input: `source`, `filter`, `detect.NAME`, `benchmarks.NAME`.
        text: What was found.
        severity: An error stops a stage. A warning drops rows or changes what is trained on. A note only informs.
        count: Number of occurrences; None for a finding that is not counted.
        of: Number of things that were looked at; None if it is not known.
        example: The first occurrence.
    """

    part: str
    text: str
    severity: Severity
    count: int | None = None
    of: int | None = None
    example: Example | None = None


@dataclass
class Findings:
    """Findings by part and kind, in the order of their first occurrence."""

    _found: dict[tuple[str, str], Finding] = field(default_factory=dict)

    def add(
        self,
        part: str,
        text: str,
        severity: Severity = "warning",
        *,
        kind: str | None = None,
        count: int | None = None,
        of: int | None = None,
        example: Example | None = None,
    ) -> None:
        """Add a finding. If there is one of the same part and kind, its count grows.

        Args:
            part: Part of the input, such as `source`.
            text: What was found; the first text of a kind is kept.
            severity: Of the first one of a kind.
            kind: Identifies equal findings whose texts differ; None: the text.
            count: Number of occurrences; None if it is not counted.
            of: Number of things that were looked at; None if it is not known.
            example: The first one of a kind is kept.
        """
        found = self._found.setdefault((part, kind or text), Finding(part, text, severity))
        found.count = _sum(found.count, count)
        found.of = _sum(found.of, of)
        found.example = found.example or example

    def state_totals(self, part: str, total: int) -> None:
        """Set `of` of the counted warnings of a part that have none."""
        for finding in self._found.values():
            if (
                finding.part == part
                and finding.severity == "warning"
                and finding.count is not None
                and finding.of is None
            ):
                finding.of = total

    def sorted(self) -> list[Finding]:
        """Return the findings, errors first; those of equal severity keep their order."""
        return sorted(self._found.values(), key=lambda finding: SEVERITIES.index(finding.severity))

    def count(self, severity: Severity) -> int:
        """Return the number of findings of a severity."""
        return sum(finding.severity == severity for finding in self._found.values())

    @contextmanager
    def from_log(self, part: str) -> Iterator[None]:
        """Add what the readers log inside the block: warnings as warnings, other messages as notes. They are not printed.

        Messages of one format are one finding: the text of the first, and the sum of their first numbers as count.
        """
        handler = _Collector(self, part)
        loggers = [logging.getLogger(name) for name in READERS]
        before = [(logger.level, logger.propagate) for logger in loggers]
        for logger in loggers:
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            logger.propagate = False
        try:
            yield
        finally:
            for logger, (level, propagate) in zip(loggers, before, strict=True):
                logger.removeHandler(handler)
                logger.setLevel(level)
                logger.propagate = propagate


class _Collector(logging.Handler):
    """Handler that turns log records into findings."""

    def __init__(self, findings: Findings, part: str) -> None:
        super().__init__()
        self._findings, self._part = findings, part

    def emit(self, record: logging.LogRecord) -> None:
        """Add the message of a record."""
        severity: Severity = "warning" if record.levelno >= logging.WARNING else "note"
        values = record.args if isinstance(record.args, tuple) else ()
        count = next((value for value in values if isinstance(value, int)), None)
        self._findings.add(self._part, record.getMessage(), severity, kind=str(record.msg), count=count)


def _sum(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else one + other

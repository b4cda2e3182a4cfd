"""Report: one self-contained HTML page about a data set, its runs and their scores."""

from fineclip.report.page import write_report

__all__ = ["write_report"]

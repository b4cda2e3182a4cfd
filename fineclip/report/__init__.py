"""The report: one self-contained page about a data set, its runs and their scores, built from what lies on disk."""

from fineclip.report.page import write_report

__all__ = ["write_report"]

"""Stages in the order of the workflow: the rows of the table of costs, and the stages that every sample passes through."""

from collections.abc import Mapping

from fineclip.shards import CaptionRow, DetectRow, FilterRow, PackRow, Row, SourceRow

JOBS = (
    "weights",
    "listing",
    "source",
    "filter",
    "index",
    "select",
    "detect",
    "caption",
    "pack",
    "texts",
    "train",
    "evaluate",
)
SAMPLE_ROWS: Mapping[str, type[Row]] = {
    "source": SourceRow,
    "filter": FilterRow,
    "detect": DetectRow,
    "caption": CaptionRow,
    "pack": PackRow,
}

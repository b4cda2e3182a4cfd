"""Table of the findings, for the terminal and as a self-contained HTML page with one image for each kind."""

import base64
import io
import itertools
import textwrap
from collections.abc import Sequence
from pathlib import Path

import jinja2
from PIL import ImageDraw

from fineclip.boxes import clip
from fineclip.check.audit import Audit
from fineclip.check.findings import Finding, Picture
from fineclip.errors import FineclipError
from fineclip.shards import ByteRangeReader
from fineclip.shards.images import decode

THUMBNAIL_PX = 160
TEXT_COLUMNS, EXAMPLE_COLUMNS = 72, 40  # of the terminal


def terminal_table(audit: Audit) -> str:
    """Return the findings as text: severity, count, part, text and example of each; long texts take several lines."""
    header = ("severity", "count", "part", "finding", "example")
    rows = [_cells(finding) for finding in audit.findings.sorted()]
    widths = [
        max(map(len, (title, *(line for row in rows for line in row[column])))) for column, title in enumerate(header)
    ]
    lines = [header, tuple("-" * width for width in widths)]
    for row in rows:
        lines += itertools.zip_longest(*row, fillvalue="")
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _cells(finding: Finding) -> tuple[list[str], ...]:
    """Return the lines of each cell of a row."""
    example = finding.example.text if finding.example else ""
    return (
        [finding.severity],
        [counted(finding)],
        [finding.part],
        textwrap.wrap(_printable(finding.text), TEXT_COLUMNS),
        textwrap.wrap(_printable(example), EXAMPLE_COLUMNS, max_lines=2, placeholder=" ..."),
    )


def _printable(text: str) -> str:
    """Return a text in one line without characters that control a terminal; captions and names may hold any."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in " ".join(text.split()))


def html_page(audit: Audit, *, dataset: str) -> str:
    """Return the findings as an HTML page without scripts, which needs no network.

    Args:
        audit: Result of the audit.
        dataset: Name of the data set.

    Returns:
        Text of the page.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    findings = audit.findings.sorted()
    return environment.get_template("page.html").render(
        audit=audit, dataset=dataset, findings=findings, counted=counted, thumbnails=_thumbnails(findings)
    )


def counted(finding: Finding) -> str:
    """Return the count of a finding, such as `3 of 100`; empty if it is not counted."""
    if finding.count is None:
        return ""
    return f"{finding.count:,}" if finding.of is None else f"{finding.count:,} of {finding.of:,}"


def _thumbnails(findings: Sequence[Finding]) -> list[str | None]:
    """Return a data URL of the image of each example, with its boxes; None where it has none or cannot be decoded."""
    with ByteRangeReader() as reader:
        pictures = [finding.example.picture if finding.example else None for finding in findings]
        return [None if picture is None else _thumbnail(picture, reader) for picture in pictures]


def _thumbnail(picture: Picture, reader: ByteRangeReader) -> str | None:
    try:
        image = decode(reader.read(picture.file, picture.offset, picture.size))
    except FineclipError:
        return None
    scale = THUMBNAIL_PX / max(image.size)
    shown = image.resize([max(1, round(side * scale)) for side in image.size])
    draw = ImageDraw.Draw(shown)
    for box, _ in picture.boxes:
        part = clip(box, *image.size)
        if part.width > 0 and part.height > 0:
            draw.rectangle([edge * scale for edge in part], outline="red")
    encoded = io.BytesIO()
    shown.save(encoded, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode("ascii")

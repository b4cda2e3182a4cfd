"""The given verb: a JSON of boxes or captions is read once, and becomes a table with a row for each of its images.

A shard's job takes the rows of its own images. So a JSON of hundreds of megabytes, which takes ten seconds and some
gigabytes of memory to read, is read once and not in every shard's job.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

from fineclip.config import BoxesJsonDetect
from fineclip.errors import DataError
from fineclip.shards import Job, TableWriter, sha256_of
from fineclip.stages.given import VERSION
from fineclip.stages.given.boxes import boxes_in
from fineclip.stages.given.captions import captions_in
from fineclip.stages.given.tables import GivenBoxesRow, GivenCaptionsRow, GivenConfig, R, claim

log = logging.getLogger(__name__)


def read_given(manifest: Path, config: GivenConfig) -> None:
    """Write the table of a JSON, then its manifest; the rows are in the order of the JSON.

    Raises:
        DataError: the JSON is absent, cut short, of another form, or holds no image.
    """
    path = Path(config.path)
    if not path.is_file():
        raise DataError(f"{path}: no such file. Put it there, or name another.")
    inputs = {path.as_posix(): sha256_of(path)}
    job = Job(manifest, stage="given", version=VERSION, config=claim(config), inputs=inputs)
    if job.is_done():
        return
    log.info("reading %s, %.0f MB", path, path.stat().st_size / 1e6)
    if isinstance(config, BoxesJsonDetect):
        _write(job, boxes_in(path, config), GivenBoxesRow)
    else:
        _write(job, captions_in(path), GivenCaptionsRow)


def _write(job: Job, rows: Iterator[R], row_type: type[R]) -> None:
    with TableWriter(job, row_type) as table:
        for row in rows:
            table.write(row)
        if not table.rows:
            raise DataError(f"{next(iter(job.inputs))}: holds no image. Is it the right file?")
    log.info("%d regions of %d images", sum(len(row.regions) for row in table.rows), len(table.rows))

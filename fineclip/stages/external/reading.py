"""Stage `import-annotations`: read a JSON of boxes or captions once into a table with one row per image.

A JSON of several hundred megabytes takes about ten seconds and several gigabytes of memory to parse. Jobs of shards read only
the rows of their own images from the table.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from fineclip.config import BoxesJsonDetect
from fineclip.errors import DataError
from fineclip.shards import Job, TableWriter, sha256_of
from fineclip.stages.declaration import Stage, stage
from fineclip.stages.external.annotation_tables import (
    ExternalBoxesRow,
    ExternalCaptionsRow,
    ExternalConfig,
    R,
    table_identity,
)
from fineclip.stages.external.coco_boxes import boxes_in
from fineclip.stages.external.keyed_captions import captions_in

log = logging.getLogger(__name__)


IMPORT_ANNOTATIONS = Stage(
    name="given",
    verb="import-annotations",
    version=1,
    help="read a released JSON of boxes or captions into one table",
    config=Annotated[ExternalConfig, Field(discriminator="engine")],
    section="{kind}.{name}",
    row=ExternalBoxesRow,
    options={
        "kind": {"required": True, "choices": ("detect", "caption"), "help": "catalog of the entry"},
        "name": {"required": True, "help": "name of the entry in the catalog"},
    },
    key=table_identity,
)


@stage(IMPORT_ANNOTATIONS)
def import_annotations(manifest: Path, config: ExternalConfig, *, kind: str, name: str) -> None:
    """Write the table of a JSON in file order, and then its manifest.

    Args:
        manifest: Path of the manifest to write; the table is written beside it.
        config: Entry of `detect` or `caption`.
        kind: `detect` or `caption`, for messages.
        name: Name of the entry, for messages.

    Raises:
        DataError: The JSON is absent, truncated, of another form, or lists no image.
    """
    path = Path(config.path)
    if not path.is_file():
        raise DataError(f"{path}: no such file. Put it there, or name another.")
    inputs = {path.as_posix(): sha256_of(path)}
    job = IMPORT_ANNOTATIONS.job(manifest, table_identity(config), inputs)
    if job.is_up_to_date():
        return
    log.info("%s.%s: reading %s, %.0f MB", kind, name, path, path.stat().st_size / 1e6)
    if isinstance(config, BoxesJsonDetect):
        _write(job, boxes_in(path, config), ExternalBoxesRow)
    else:
        _write(job, captions_in(path), ExternalCaptionsRow)


def _write(job: Job, rows: Iterator[R], row_type: type[R]) -> None:
    with TableWriter(job, row_type) as table:
        for row in rows:
            table.write(row)
        if not table.rows:
            raise DataError(f"{next(iter(job.inputs))}: holds no image. Check that it is the right file.")
    log.info("%d regions of %d images", sum(len(row.regions) for row in table.rows), len(table.rows))

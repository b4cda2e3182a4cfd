"""Stage `import-annotations`: read a JSON of boxes or captions once into a table with one row per image.

A JSON of several hundred megabytes takes about ten seconds and several gigabytes of memory to parse. Jobs of shards read only
the rows of their own images from the table.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from fineclip.config import BoxesJsonDetect, CaptionsJsonCaption
from fineclip.errors import DataError
from fineclip.shards import sha256_of
from fineclip.stages.declaration import Stage, stage
from fineclip.stages.external.annotation_tables import (
    ExternalBoxesRow,
    ExternalCaptionsRow,
    ExternalConfig,
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
    declared = IMPORT_ANNOTATIONS
    if isinstance(config, CaptionsJsonCaption):
        declared = replace(declared, row=ExternalCaptionsRow)

    def rows() -> list[ExternalBoxesRow] | list[ExternalCaptionsRow]:
        log.info("%s.%s: reading %s, %.0f MB", kind, name, path, path.stat().st_size / 1e6)
        rows = list(boxes_in(path, config)) if isinstance(config, BoxesJsonDetect) else list(captions_in(path))
        if not rows:
            raise DataError(f"{path}: holds no image. Check that it is the right file.")
        log.info("%d regions of %d images", sum(len(row.regions) for row in rows), len(rows))
        return rows

    declared.write_table(manifest, table_identity(config), {path.as_posix(): sha256_of(path)}, rows)

"""Source: one table per shard with a row for each sample, failed ones too.

shard_plan.py  shards, known before the first job
shard.py       the stages, by kind of source; kinds folder and coco have one table of all samples, of which every shard takes a slice
"""

from fineclip.config import SourceConfig
from fineclip.shards import SourceRow
from fineclip.stages.declaration import Input, Stage

LISTED = {
    "no-text": "no caption belongs to the image, though the source has captions",
    "missing-image": "the image is named, but its file is not in the folder",
    "bad-name": "the file name is not Unicode, so no table can hold it",
}

INDEX_SOURCE = Stage(
    name="list",
    verb="index-source",
    version=2,
    help="read names, sizes and texts of a folder or a COCO data set into one table",
    config=SourceConfig,
    section="source",
    row=SourceRow,
    reasons=LISTED,
)

SOURCE = Stage(
    name="source",
    version=2,
    help="write the table of one shard: a row for each sample, with the byte range of its image",
    config=SourceConfig,
    section="source",
    inputs={
        "listing": Input(
            stage="list", reads=(SourceRow,), note="for kinds folder and coco", option="listing", required=False
        )
    },
    row=SourceRow,
    reasons=LISTED
    | {
        "no-image": "text without an image",
        "bad-json": "the only text of the image would be in a JSON member that cannot be read",
        "failed-to-download": "img2dataset states this status",
        "failed-to-resize": "img2dataset states this status: it could not read the bytes as an image",
        "download-failed": "img2dataset states another status",
    },
    options={
        "shard": {"required": True, "help": "name of the shard"},
        "shard_index": {
            "default": "0/1",
            "metavar": "I/N",
            "help": "it is shard I of N, counted from 0 (kinds miniature, folder and coco)",
        },
        "tars": {"nargs": "*", "default": [], "help": "tar files of the shard (kind webdataset)"},
    },
)

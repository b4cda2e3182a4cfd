"""Source kind miniature: drawn scenes with the flaws of web data, in a tar of img2dataset's layout.

Every item has key.jpg, key.txt and key.json, also one that is not an image. `truth` in the JSON holds the reason for which the
pipeline should drop the item, or null, so that tests can compare; the table does not contain it.
"""

import hashlib
import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from fineclip.config import MiniatureSource
from fineclip.shards import SourceRow, TarAppender, atomic
from fineclip.shards.images import read_header
from fineclip.stages.source import SOURCE
from fineclip.stages.source.shard_plan import PlannedShard

if TYPE_CHECKING:
    from fineclip.miniature.web import WebItem


def miniature_shard(shard: PlannedShard, manifest: Path, config: MiniatureSource) -> None:
    """Draw the scenes of one shard, write tar and table, and then the manifest."""
    from fineclip.miniature.web import web_item

    start = shard.position * config.images_per_shard
    count = min(config.images_per_shard, config.images - start)
    recorded = {"kind": config.kind, "seed": config.seed, "images_per_shard": config.images_per_shard}
    job = SOURCE.job(manifest, recorded | {"items": [start, start + count]}, {})
    if job.is_up_to_date():
        return
    path = manifest.with_suffix(".tar")
    with (
        SOURCE.table(job, also=(path,)) as table,
        atomic(path) as temporary,
        closing(TarAppender(temporary)) as tar,
    ):
        for index in range(count):
            item = web_item(config.seed, start + index, items_per_shard=config.images_per_shard)
            key = f"{shard.name}-{index:06d}"
            image = tar.add(f"{key}.jpg", item.image)
            tar.add(f"{key}.txt", item.captions[0].encode())
            tar.add(f"{key}.json", json.dumps(description(item), indent=4, ensure_ascii=False).encode())
            row = SourceRow(
                key=key,
                kept=True,
                source_key=item.source_key,
                file=path.as_posix(),
                offset=image.offset,
                size=image.size,
                captions=list(item.captions),
                url=item.url,
            )
            table.write(row)


def description(item: "WebItem") -> dict[str, str | int | None]:
    """Return the JSON of an item: the fields of img2dataset, and `truth`."""
    header = read_header(item.image)
    width, height = (header.width, header.height) if header else (None, None)
    return {
        "caption": item.captions[0],
        "url": item.url,
        "key": item.source_key,
        "status": "success",
        "error_message": None,
        "width": width,
        "height": height,
        "original_width": width,
        "original_height": height,
        "exif": "{}",
        "sha256": hashlib.sha256(item.image).hexdigest(),
        "truth": item.truth,
    }

"""The data of a benchmark, read once: an index that evaluation and the check for leaks read. No torch here.

    data/<dataset>/index/<benchmark>.json            manifest
                         <benchmark>.parquet         a row for every image: where its bytes lie, their hash, captions or boxes
                         <benchmark>.classes.json    [{"name", "is_thing"}, …], where there are boxes; a box's label counts in it
                         <benchmark>.tar             the images, where the package draws them

Boxes are clipped to their image. An image is left out of the scores, and still counts as a leak, for these reasons:

    no-box     no box is left of those between `min_side_px` and `max_side_px`
    no-text    no caption belongs to it
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from fineclip.boxes import clip
from fineclip.config import (
    BenchmarkConfig,
    BoxesBenchmark,
    CaptionList,
    CocoCaptions,
    CocoPanoptic,
    Karpathy,
    MiniatureTest,
)
from fineclip.errors import DataError
from fineclip.evals.sources.coco import captions_contents, coco_inputs, panoptic_contents
from fineclip.evals.sources.lists import list_contents, list_inputs, listed_images
from fineclip.evals.sources.miniature import miniature_contents
from fineclip.evals.sources.picture import BenchmarkClass, Contents, Picture
from fineclip.shards import BenchmarkBox, BenchmarkRow, Job, write_table, write_text

VERSION = 1  # of the index that is written here: a change of it makes every index again
CLASSES_SUFFIX = ".classes.json"


def missing(config: BenchmarkConfig) -> str | None:
    """The first thing that the benchmark's data lacks on disk, in a sentence; None where it looks complete.

    Looks at names only, because it is asked before every plan.
    """
    source = config.source
    if isinstance(source, MiniatureTest):
        return None
    root = Path(source.root)
    folders, file = [root, root / source.images], root / source.annotations
    if isinstance(source, CocoPanoptic):
        folders.append(root / source.masks)
    absent = next((folder for folder in folders if not folder.is_dir()), None)
    if absent is not None:
        return f"{absent} is not there, or no folder."
    return None if file.is_file() else f"{file} is not there, or no file."


def index_identity(config: BenchmarkConfig) -> dict[str, Any]:
    """What of a benchmark's section its index depends on: prompts and sizes change scores and not the data."""
    which = {"kind", "source", "min_side_px", "max_side_px"}
    return config.model_dump(mode="json", exclude_defaults=True, include=which)


def index_benchmark(manifest: Path, config: BenchmarkConfig) -> None:
    """Write the index of one benchmark, and its `manifest` last.

    Raises:
        DataError: something of the data is absent, broken or does not fit together; names file and entry.
    """
    if absent := missing(config):
        raise DataError(f"{manifest.stem}: {absent} Bring it, or name another in benchmarks.{manifest.stem}.source.")
    name = manifest.stem.replace(".", "-")  # a dot would end the key of a member in a tar
    inputs, read_contents = _data(config, manifest.with_suffix(".tar"), name)
    job = Job(manifest, stage="index", version=VERSION, config=index_identity(config), inputs=inputs)
    if job.is_up_to_date():
        return
    contents = read_contents()
    rows = [_row(f"{name}-{index:06d}", picture, config) for index, picture in enumerate(contents.pictures)]
    kept = [row for row in rows if row.kept]
    if not kept:
        what = "box of the sizes asked for" if isinstance(config, BoxesBenchmark) else "caption"
        raise DataError(f"{manifest.stem}: none of its {len(rows)} images has a {what}. Is it the right data?")
    dropped = Counter(row.reason for row in rows if row.reason is not None)
    boxes = sum(len(row.boxes) for row in kept)
    outputs = _write(manifest, config, rows, contents.classes)
    job.finish(outputs, read=len(rows), kept=len(kept), dropped=dropped, regions=boxes)


def _data(config: BenchmarkConfig, tar: Path, name: str) -> tuple[dict[str, str], Callable[[], Contents]]:
    """What the index is made of, by names and hashes; and a function that reads it."""
    match config.source:
        case MiniatureTest() as source:
            return {}, partial(miniature_contents, source, tar, name=name)
        case CocoPanoptic() as source:
            return coco_inputs(source), partial(panoptic_contents, source)
        case CocoCaptions() as source:
            return coco_inputs(source), partial(captions_contents, source)
        case CaptionList() | Karpathy() as source:
            listed = listed_images(source)
            return list_inputs(source, listed), partial(list_contents, listed)


def _write(
    manifest: Path, config: BenchmarkConfig, rows: list[BenchmarkRow], classes: list[BenchmarkClass]
) -> list[Path]:
    """Table and classes beside the manifest; returns all that it should vouch for."""
    outputs = [manifest.with_suffix(".parquet")]
    write_table(outputs[0], rows, BenchmarkRow)
    if isinstance(config, BoxesBenchmark):
        outputs.append(manifest.with_suffix(CLASSES_SUFFIX))
        content = json.dumps([one._asdict() for one in classes], ensure_ascii=False, indent=1)
        write_text(outputs[-1], content + "\n")
    if isinstance(config.source, MiniatureTest):
        outputs.append(manifest.with_suffix(".tar"))
    return outputs


def _row(key: str, picture: Picture, config: BenchmarkConfig) -> BenchmarkRow:
    boxes: list[BenchmarkBox] = []
    if isinstance(config, BoxesBenchmark):
        boxes = list(_of_size(picture, config))
        captions, reason = [], None if boxes else "no-box"
    else:
        captions, reason = picture.captions, None if picture.captions else "no-text"
    return BenchmarkRow(
        key=key,
        kept=reason is None,
        reason=reason,
        file=picture.file.as_posix(),
        offset=picture.offset,
        size=len(picture.content),
        sha256=hashlib.sha256(picture.content).hexdigest(),
        width=picture.width,
        height=picture.height,
        captions=captions,
        boxes=boxes,
    )


def _of_size(picture: Picture, config: BoxesBenchmark) -> Iterator[BenchmarkBox]:
    """The boxes of an area between the two limits, clipped to the image.

    Source: CLIPSelf, training/data.py: width times height between 8 squared and 1024 squared. Deviation: there is no
    limit of 100 boxes for an image.
    """
    for one in picture.boxes:
        box = clip(one.box, picture.width, picture.height)
        if box.width <= 0 or box.height <= 0:
            continue
        if config.min_side_px**2 <= box.width * box.height <= config.max_side_px**2:
            yield BenchmarkBox(box, one.label)


__all__ = ["CLASSES_SUFFIX", "VERSION", "BenchmarkClass", "index_benchmark", "index_identity", "missing"]

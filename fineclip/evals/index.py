"""Index of a benchmark: its images, captions, boxes and classes, read once. No torch is imported.

    data/<dataset>/index/<benchmark>.json            manifest
                         <benchmark>.parquet         one row per image: file, offset, hash, captions or boxes
                         <benchmark>.classes.json    [{"name", "is_thing"}, ...] if there are boxes; a label is an index into it
                         <benchmark>.tar             the images, if the package draws them

Evaluation reads the index, and so does `select`, which keeps the images of benchmarks out of training. Boxes are clipped to
their image. An image is dropped, and is still kept out of training, for these reasons:

    no-box     none of its boxes is between `min_side_px` and `max_side_px`
    no-text    it has no caption
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fineclip.boxes import clip
from fineclip.config.evaluation import (
    BenchmarkConfig,
    BoxesBenchmark,
    CaptionList,
    CocoCaptions,
    CocoPanoptic,
    Karpathy,
    MiniatureTest,
)
from fineclip.errors import DataError, ShardError
from fineclip.evals.datasets.benchmark_image import BenchmarkClass, BenchmarkImage, Contents
from fineclip.evals.datasets.caption_lists import list_contents, list_inputs, listed_images
from fineclip.evals.datasets.coco_layouts import captions_contents, coco_inputs, panoptic_contents
from fineclip.evals.datasets.miniature_scenes import miniature_contents
from fineclip.identity import canonical
from fineclip.shards import (
    BenchmarkBox,
    BenchmarkRow,
    Job,
    kept_rows,
    read_manifest,
    sha256_of,
    write_table,
    write_text,
)

VERSION = 1
CLASSES_SUFFIX = ".classes.json"


@dataclass(frozen=True)
class Index:
    """Kept images of a benchmark, in order, and its classes; no classes if it has no boxes."""

    images: Sequence[BenchmarkRow]
    classes: Sequence[BenchmarkClass]


def missing(config: BenchmarkConfig) -> str | None:
    """Return a sentence that names the first absent file or folder of the benchmark, or None.

    Only names are looked up, because this runs before every plan.
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
        return f"{absent} does not exist or is not a folder."
    return None if file.is_file() else f"{file} does not exist or is not a file."


def index_identity(config: BenchmarkConfig) -> dict[str, Any]:
    """Return the keys of the section that the index depends on; prompts and image size change only the scores."""
    which = {"kind", "source", "min_side_px", "max_side_px"}
    return config.model_dump(mode="json", exclude_defaults=True, include=which)


def index_benchmark(manifest: Path, config: BenchmarkConfig) -> None:
    """Write the index of one benchmark, its manifest last. Return at once if it is up to date.

    Args:
        manifest: `data/<dataset>/index/<benchmark>.json`.
        config: Section of the benchmark.

    Raises:
        DataError: The data is absent, broken or inconsistent; the message names file and entry.
    """
    if absent := missing(config):
        raise DataError(f"{manifest.stem}: {absent} Provide it, or name another in benchmarks.{manifest.stem}.source.")
    name = manifest.stem.replace(".", "-")  # a dot would end the key of a member in a tar
    inputs, read_contents = _data(config, manifest.with_suffix(".tar"), name)
    job = Job(manifest, stage="index", version=VERSION, config=index_identity(config), inputs=inputs)
    if job.is_up_to_date():
        return
    contents = read_contents()
    rows = [_row(f"{name}-{index:06d}", image, config) for index, image in enumerate(contents.images)]
    kept = [row for row in rows if row.kept]
    if not kept:
        what = "box of the configured sizes" if isinstance(config, BoxesBenchmark) else "caption"
        raise DataError(
            f"{manifest.stem}: none of its {len(rows)} images has a {what}. Check benchmarks.{manifest.stem}.source."
        )
    dropped = Counter(row.reason for row in rows if row.reason is not None)
    boxes = sum(len(row.boxes) for row in kept)
    outputs = _write(manifest, config, rows, contents.classes)
    job.finish(outputs, read=len(rows), kept=len(kept), dropped=dropped, regions=boxes)


def read_index(manifest: Path, config: BenchmarkConfig) -> Index:
    """Read the index that `index_benchmark` wrote.

    Args:
        manifest: `data/<dataset>/index/<benchmark>.json`.
        config: Section of the benchmark that the index must belong to.

    Returns:
        Kept images in order, and classes.

    Raises:
        ShardError: It is absent or damaged, or was built for another configuration than `config`.
    """
    found = read_manifest(manifest)
    wanted = index_identity(config)
    if found.stage != "index" or canonical(found.config) != canonical(wanted):
        raise ShardError(
            f"{manifest}: is the {found.stage} of {canonical(found.config)}, not the index of {canonical(wanted)}."
            " Rebuild it: fineclip index."
        )
    classes_path = manifest.with_suffix(CLASSES_SUFFIX)
    classes = _read_classes(classes_path, found.outputs) if classes_path.name in found.outputs else []
    return Index(list(kept_rows(manifest, BenchmarkRow)), classes)


def _data(config: BenchmarkConfig, tar: Path, name: str) -> tuple[dict[str, str], Callable[[], Contents]]:
    """Return the names and hashes of the data, and a function that reads it."""
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
    """Write table and classes beside the manifest; return all files that it names."""
    outputs = [manifest.with_suffix(".parquet")]
    write_table(outputs[0], rows, BenchmarkRow)
    if isinstance(config, BoxesBenchmark):
        outputs.append(manifest.with_suffix(CLASSES_SUFFIX))
        content = json.dumps([one._asdict() for one in classes], ensure_ascii=False, indent=1)
        write_text(outputs[-1], content + "\n")
    if isinstance(config.source, MiniatureTest):
        outputs.append(manifest.with_suffix(".tar"))
    return outputs


def _row(key: str, image: BenchmarkImage, config: BenchmarkConfig) -> BenchmarkRow:
    boxes: list[BenchmarkBox] = []
    if isinstance(config, BoxesBenchmark):
        boxes = list(_of_size(image, config))
        captions, reason = [], None if boxes else "no-box"
    else:
        captions, reason = image.captions, None if image.captions else "no-text"
    return BenchmarkRow(
        key=key,
        kept=reason is None,
        reason=reason,
        file=image.file.as_posix(),
        offset=image.offset,
        size=len(image.content),
        sha256=hashlib.sha256(image.content).hexdigest(),
        width=image.width,
        height=image.height,
        captions=captions,
        boxes=boxes,
    )


def _of_size(image: BenchmarkImage, config: BoxesBenchmark) -> Iterator[BenchmarkBox]:
    """Yield the boxes whose area is between the squares of the two limits, clipped to the image.

    Source: CLIPSelf, training/data.py: width times height between 8 squared and 1024 squared. Deviation: no limit
    of 100 boxes per image.
    """
    for one in image.boxes:
        box = clip(one.box, image.width, image.height)
        if box.width <= 0 or box.height <= 0:
            continue
        if config.min_side_px**2 <= box.width * box.height <= config.max_side_px**2:
            yield BenchmarkBox(box, one.label)


def _read_classes(path: Path, outputs: Mapping[str, str]) -> list[BenchmarkClass]:
    if not path.is_file() or sha256_of(path) != outputs[path.name]:
        raise ShardError(
            f"{path}: is absent, or its hash differs from the manifest. Rebuild the index: fineclip index."
        )
    return [BenchmarkClass(**values) for values in json.loads(path.read_text(encoding="utf-8"))]

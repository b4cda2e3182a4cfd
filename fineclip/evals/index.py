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
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fineclip.boxes import clip
from fineclip.config.evaluation import (
    BenchmarkConfig,
    BoxesBenchmark,
    CaptionList,
    CocoCaptions,
    CocoInstances,
    CocoPanoptic,
    Karpathy,
    MiniatureTest,
)
from fineclip.errors import DataError, ShardError
from fineclip.evals.datasets.benchmark_image import BenchmarkClass, BenchmarkImage, Contents
from fineclip.evals.datasets.caption_lists import list_contents, list_inputs, listed_images
from fineclip.evals.datasets.coco_instances import instances_contents
from fineclip.evals.datasets.coco_layouts import captions_contents, coco_inputs, panoptic_contents
from fineclip.evals.datasets.miniature_scenes import miniature_contents
from fineclip.identity import canonical
from fineclip.readers.files import files_below
from fineclip.shards import BenchmarkBox, BenchmarkRow, Job, TableWriter, kept_rows, read_manifest, write_text
from fineclip.shards.manifest import cached_manifest, verified_output

VERSION = 2
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
    folders, file = [Path(source.root), *folders_of(config)], Path(source.root) / source.annotations
    absent = next((folder for folder in folders if not folder.is_dir()), None)
    if absent is not None:
        return f"{absent} does not exist or is not a folder."
    return None if file.is_file() else f"{file} does not exist or is not a file."


def folders_of(config: BenchmarkConfig) -> list[Path]:
    """Return the folders of images and masks that a benchmark reads; none for scenes that the package draws."""
    source = config.source
    if isinstance(source, MiniatureTest):
        return []
    masks = [source.masks] if isinstance(source, CocoPanoptic) else []
    return [Path(source.root) / name for name in (source.images, *masks)]


def annotations_of(config: BenchmarkConfig) -> list[Path]:
    """Return the JSON file that a benchmark reads; none for scenes that the package draws."""
    source = config.source
    return [] if isinstance(source, MiniatureTest) else [Path(source.root) / source.annotations]


def index_identity(config: BenchmarkConfig) -> dict[str, Any]:
    """Return the keys of the section that the index depends on; prompts and image size change only the scores."""
    which = {"kind", "source", "min_side_px", "max_side_px"}
    return config.model_dump(mode="json", exclude_defaults=True, include=which)


def index_benchmark(manifest: Path, config: BenchmarkConfig) -> None:
    """Write the index of one benchmark, its manifest last. Return at once if it is up to date and no image was modified since.

    Args:
        manifest: `data/<dataset>/index/<benchmark>.json`.
        config: Section of the benchmark.

    Raises:
        DataError: The data is absent, broken or inconsistent; the message names file and entry.
    """
    if absent := missing(config):
        raise DataError(f"{manifest.stem}: {absent} Provide it, or name another in benchmarks.{manifest.stem}.source.")
    name = manifest.stem.replace(".", "-")  # a dot would end the key of a member in a tar
    tar = manifest.with_suffix(".tar")
    data = benchmark_data(config, tar, name)
    job = Job(manifest, stage="index", version=VERSION, config=index_identity(config), inputs=data.inputs)
    if not data.is_changed_since(manifest) and job.is_up_to_date():
        return
    has_boxes, classes = isinstance(config, BoxesBenchmark), manifest.with_suffix(CLASSES_SUFFIX)
    also = ([classes] if has_boxes else []) + ([tar] if isinstance(config.source, MiniatureTest) else [])
    with TableWriter(job, BenchmarkRow, also=also) as table:
        contents = data.read()
        table.write_all(
            benchmark_row(f"{name}-{index:06d}", image, config) for index, image in enumerate(contents.images)
        )
        require_some(table.rows, manifest.stem, config)
        if has_boxes:
            content = json.dumps([one._asdict() for one in contents.classes], ensure_ascii=False, indent=1)
            write_text(classes, content + "\n")


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
    classes: list[BenchmarkClass] = []
    if isinstance(config, BoxesBenchmark):
        path = verified_output(manifest, f"{manifest.stem}{CLASSES_SUFFIX}")
        classes = [BenchmarkClass(**values) for values in json.loads(path.read_text(encoding="utf-8"))]
    return Index(list(kept_rows(manifest, BenchmarkRow)), classes)


class BenchmarkData(NamedTuple):
    """Data of a benchmark: names and hashes, the files whose change of content the hashes may miss, and a function that reads it."""

    inputs: dict[str, str]
    files: Iterable[Path | os.DirEntry[str]]
    read: Callable[[], Contents]

    def is_changed_since(self, manifest: Path) -> bool:
        """Return whether a file was modified after the index was made; `inputs` hold only names and sizes of images."""
        made = cached_manifest(manifest)
        if not made.is_file():
            return False
        return any(file.stat().st_mtime_ns > made.stat().st_mtime_ns for file in self.files)


def benchmark_data(config: BenchmarkConfig, tar: Path, name: str) -> BenchmarkData:
    """Return the data of a benchmark; files are looked up when they are needed."""
    in_folders = (entry for folder in folders_of(config) for _, entry in files_below(folder))
    match config.source:
        case MiniatureTest() as source:
            return BenchmarkData({}, (), partial(miniature_contents, source, tar, name=name))
        case CocoPanoptic() as source:
            return BenchmarkData(coco_inputs(source), in_folders, partial(panoptic_contents, source))
        case CocoInstances() as source:
            return BenchmarkData(coco_inputs(source), in_folders, partial(instances_contents, source))
        case CocoCaptions() as source:
            return BenchmarkData(coco_inputs(source), in_folders, partial(captions_contents, source))
        case CaptionList() | Karpathy() as source:
            listed = listed_images(source)
            return BenchmarkData(list_inputs(source, listed), listed, partial(list_contents, listed))


def require_some(rows: Sequence[BenchmarkRow], name: str, config: BenchmarkConfig) -> None:
    """Check that a benchmark keeps an image.

    Args:
        rows: All of its images.
        name: Name of the benchmark, for messages.
        config: Its section.

    Raises:
        DataError: No image is kept.
    """
    if not any(row.kept for row in rows):
        what = "box of the configured sizes" if isinstance(config, BoxesBenchmark) else "caption"
        raise DataError(f"{name}: none of its {len(rows)} images has a {what}. Check benchmarks.{name}.source.")


def benchmark_row(key: str, image: BenchmarkImage, config: BenchmarkConfig) -> BenchmarkRow:
    """Return the row of an image of a benchmark, kept or dropped with its reason."""
    boxes: list[BenchmarkBox] = []
    captions, reason = image.captions, "no-text"
    if isinstance(config, BoxesBenchmark):
        captions, boxes, reason = [], list(_of_size(image, config)), "no-box"
    is_kept = bool(captions or boxes)
    return BenchmarkRow(
        key=key,
        kept=is_kept,
        reason=None if is_kept else reason,
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

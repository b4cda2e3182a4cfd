"""Cases of the stages from source to scale: every row of their tables, from files and pictures made by hand."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fineclip.config import (
    AnnotationsDetect,
    CocoSource,
    ConceptsConfig,
    FilterConfig,
    FolderSource,
    MiniatureSource,
    ScaleConfig,
    SourceConfig,
    WebDatasetSource,
)
from fineclip.shards import BenchmarkRow, ConceptRow, FilterRow, Job, SelectRow, SourceRow, TableWriter
from fineclip.stages.concepts import concepts_of_scale
from fineclip.stages.detect import detect_shard
from fineclip.stages.filter import filter_shard
from fineclip.stages.select import ScaledSelectConfig, select_scale
from fineclip.stages.source.shard import index_source, source_shard
from fineclip.stages.source.shard_plan import planned_shards
from tests.helpers.images import HTML, encoded, write_tar
from tests.helpers.stages import Item, box, write_filtered, write_source
from tests.versions.inputs import picture, put, table
from tests.versions.registry import case

BYTES = ("sha256", "size", "offset")  # columns that depend on who encoded a JPEG


@case("stages.source", loose={"miniature.brightness": 0.3})
def every_kind() -> dict[str, Any]:
    return {"miniature": _drawn(), "folder": _folder(), "table": _table(), **_coco(), "webdataset": _webdataset()}


def _drawn() -> dict[str, Any]:
    """The sizes and the mean brightness of what was drawn, and its texts."""
    config = MiniatureSource(kind="miniature", seed=20_000, images=60, images_per_shard=40)
    [_, last] = planned_shards(config)
    manifest = Path(f"{last.name}.json")
    source_shard(last, manifest, config)
    with tarfile.open(manifest.with_suffix(".tar")) as tar:
        content = {name: tar.extractfile(name).read() for name in tar.getnames()}
    told = [json.loads(text) for name, text in content.items() if name.endswith(".json")]
    kept = [name for name, text in content.items() if name.endswith(".json") and not json.loads(text)["truth"]][:4]
    pictures = [Image.open(io.BytesIO(content[name.replace(".json", ".jpg")])) for name in kept]
    return {
        "table": table(manifest, SourceRow, without=BYTES),
        "told": [{name: one[name] for name in ("truth", "width", "height", "key")} for one in told],
        "brightness": [round(float(np.asarray(one).mean()), 1) for one in pictures],
    }


def _folder() -> dict[str, Any]:
    files = {f"in/{index}.bmp": picture(index) for index in range(4)}
    texts = {"in/0.txt": "a cat\n\n the same cat ", "in/1.txt": "a dog", "in/2.txt": " \n"}
    put(files | texts | {"in/sub/4.v2.jpg": HTML, "in/sub/4.v2.txt": "caf\xe9 table"})
    put({"in/5.jfif": HTML, "in/5.txt": "one\ncaption", "in/5.json": '{"caption": "one caption"}'})
    put({"linked/6.jpe": HTML, "linked/6.txt": "a boat\u2028at sea".encode("utf-16-le").join([b"\xff\xfe", b""])})
    Path("in/linked").symlink_to("../linked")
    Path("in/7.png").symlink_to("nowhere")
    return _listed(FolderSource(kind="folder", root="in", images_per_shard=3))


def _table() -> dict[str, Any]:
    """Spellings of names, and files that exist and are not read."""
    names = ["sub\\0.bmp", "./1.bmp", "sub/0.bmp", "2.avif", ".3.bmp", "/data/1.bmp", "../table/1.bmp"]
    put({"table/sub/0.bmp": picture(0), "table/1.bmp": picture(1), "table/2.avif": HTML, "table/.3.bmp": picture(3)})
    put({"table/c.csv": "image;caption\n" + "".join(f"{name};caption {n}\n" for n, name in enumerate(names))})
    return _listed(FolderSource(kind="folder", root="table", captions="c.csv", images_per_shard=9))


def _coco() -> dict[str, Any]:
    """With captions, and by its boxes alone."""
    images = [
        {"id": index, "file_name": f"{index}.bmp", "coco_url": f"http://x/{index}", "width": 24, "height": 16}
        for index in range(4)
    ]
    texts = [(0, "one cat"), (1, "a dog"), (0, "another cat"), (3, "nothing here"), (9, "of no image")]
    boxes = [(0, 1, [1, 2.5, 20, 4], 0), (0, 2, [0, 0, 5, 5], 1), (1, 2, [-1, 0, 2, 3], 0)]
    captions = [{"image_id": image, "caption": text} for image, text in texts]
    instances = [
        {"image_id": image, "category_id": label, "bbox": edges, "iscrowd": crowd}
        for image, label, edges, crowd in boxes
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    put(
        {f"coco/train2017/{index}.bmp": picture(index) for index in range(3)}
        | {
            "coco/annotations/captions_train2017.json": json.dumps({"images": images, "annotations": captions}),
            "coco/annotations/instances_train2017.json": json.dumps(
                {"images": images, "categories": categories, "annotations": instances}
            ),
        }
    )
    with_captions = CocoSource(kind="coco", root="coco", images_per_shard=2)
    boxes_alone = CocoSource(kind="coco", root="coco", captions=None, images_per_shard=5)
    return {"coco": _listed(with_captions), "lvis": _listed(boxes_alone)}


def _listed(config: FolderSource | CocoSource) -> dict[str, Any]:
    """The listing, and the shards that are slices of it."""
    listing = Path("out/list.json")
    index_source(listing, config)
    return {"listing": table(listing, SourceRow)} | _shards(config, listing)


def _webdataset() -> dict[str, Any]:
    about = json.dumps({"caption": "a boat", "url": "http://x/b", "key": "own"}).encode()
    write_tar(
        Path("tars/one.tar"),
        [
            ("a.b.bmp", picture(0)), ("a.b.txt", b"a cat"), ("b.json", about), ("b.bmp", picture(1)),
            ("a.b.txt", b"a second"), ("a.b.bmp", picture(2)), ("c.bmp", picture(3)), ("d.txt", b"no image"),
        ],
    )  # fmt: skip
    write_tar(Path("tars/two.tar"), [("a.bmp", picture(4)), ("a.txt", "ünïcode".encode())])
    write_tar(Path("tars/x y.tar"), [("a.bmp", picture(5)), ("a.txt", b"caf\xe9")])
    return _shards(WebDatasetSource(kind="webdataset", root="tars", tars_per_shard=2))


def _shards(config: SourceConfig, listing: Path | None = None) -> dict[str, Any]:
    tables = {}
    for shard in planned_shards(config):
        manifest = Path(f"out/{config.kind}/{shard.name}.json")
        source_shard(shard, manifest, config, listing=listing)
        tables[shard.name] = table(manifest, SourceRow)
    return {"shards": tables}


@case("stages.filter")
def every_reason() -> dict[str, Any]:
    items = [
        Item(picture(0), ["a good caption here"]),
        Item(picture(0), ["the very same bytes again"]),
        Item(HTML, ["an image that is a page"]),
        Item(picture(1, width=9), ["one pixel too narrow for us"]),
        Item(picture(1, width=10, height=31), ["too long for its width"]),
        Item(picture(1, width=10, height=30), ["just as long as may be"]),
        Item(picture(2), [" \t"]),
        Item(picture(2), []),
        Item(picture(2), ["two words"]),
        Item(picture(2), ["one two three four five six seven eight nine"]),
        Item(picture(2), ["Click here to enlarge"]),
        Item(picture(3), ["short", "but the second is good"]),
        Item(picture(4), ["0 0.481 0.338 0.35 4e-05"]),
        Item(picture(4), ["three words\0 and NUL"]),
        Item(picture(4), ["两只狗在海滩"]),
        Item(picture(5), ["两只"]),
        *(Item(encoded(20, 15, color=3, kind=kind), ["in another format"]) for kind in ("JPEG", "PNG", "GIF", "WEBP")),
    ]
    source = write_source(Path(), items)
    limits = FilterConfig(min_side_px=10, max_aspect=3, min_words=3, max_words=8)
    filter_shard(source, Path("limits.json"), limits)
    web = [Item(picture(index), [text]) for index, text in enumerate(BOILERPLATE)]
    filter_shard(write_source(Path(), web, name="web"), Path("defaults.json"), FilterConfig(min_side_px=1))
    hashes = {"without": ["sha256"]}
    return {name: table(Path(f"{name}.json"), FilterRow, **hashes) for name in ("limits", "defaults")}


BOILERPLATE = (
    "Click here for more", "a click here", "free download of it", "IMG_2041.jpg", "image12 of ours", "an image 12", "no caption",
    "n/a", "none of it", "our photo album", "our photo albums", "a red cup",
)  # fmt: skip


@case("stages.select", after=("stages.filter",))
def a_scale() -> dict[str, Any]:
    p = write_filtered(Path(), [Item(picture(number)) for number in (0, 1, 1, 2)], name="p")
    q = write_filtered(Path(), [Item(picture(number)) for number in (2, 3, 4, 5, 6)], name="q")
    leaks = Path("index/b.json")
    leaked = table(q, FilterRow)["rows"][2]["sha256"]
    with TableWriter(Job(leaks, "index", 1, {}, {}), BenchmarkRow) as rows:
        rows.write(
            BenchmarkRow(
                key="b", kept=True, file="x", offset=0, size=1, sha256=leaked, width=1, height=1, captions=[], boxes=[]
            )
        )
    few, every = ScaleConfig(images=5), ScaleConfig(images=None)
    select_scale(
        [p, q], Path("few.json"), ScaledSelectConfig(exclude=("b",), scale=few), scale="few", benchmarks=[leaks]
    )
    select_scale([q, p], Path("all.json"), ScaledSelectConfig(scale=every), scale="all")
    return {name: table(Path(f"{name}.json"), SelectRow) for name in ("few", "all")}


@case("stages.concepts", after=("stages.filter", "stages.select", "stages.detect"))
def from_labels_and_from_nouns() -> dict[str, Any]:
    texts = ["a cat and two dogs near a boat", "the cat's photo, on the wooden boats", "two words", "dogs on a photo"]
    labels = [("cat", "dog", "dog"), ("boat", ""), ("dog", "zebra"), ("cat",)]
    items = [
        Item(
            picture(number),
            [text, f"a ship {number}"],
            [box(0, 0, 9 + index, 9, label) for index, label in enumerate(of_image)],
        )
        for number, (text, of_image) in enumerate(zip(texts, labels, strict=True))
    ]
    kept, scale, found = write_filtered(Path(), items), Path("scale.json"), Path("detect/s.json")
    select_scale([kept], scale, ScaledSelectConfig(scale=ScaleConfig(images=None)), scale="all")
    own = AnnotationsDetect(engine="annotations", min_side_px=1)
    detect_shard(kept, found, own, batch_size=1, device="cpu")
    few = ConceptsConfig.model_validate({"from": "labels", "max_concepts": 2})
    nouns = ConceptsConfig.model_validate({"from": "captions", "min_count": 2})
    concepts_of_scale(scale, Path("labels.json"), few, detected=[found])
    concepts_of_scale(scale, Path("nouns.json"), nouns)
    return {name: table(Path(f"{name}.json"), ConceptRow) for name in ("labels", "nouns")}

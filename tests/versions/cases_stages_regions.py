"""Cases of the stages from detect to card: every row of their tables, from pictures made by hand and a few drawn scenes."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fineclip.config import (
    AnnotationsDetect,
    Blip2Caption,
    BoxesFilesDetect,
    BoxesJsonDetect,
    CaptionConfig,
    CaptionsJsonCaption,
    DetectConfig,
    EncoderConfig,
    FilterConfig,
    PackConfig,
    TemplateCaption,
    WeightsConfig,
    YoloDetect,
    parse,
)
from fineclip.miniature.scenes import draw_scene, jpeg
from fineclip.miniature.seeds import VALIDATION
from fineclip.models.shipped import shipped
from fineclip.shards import CaptionRow, DetectRow, PackRow, TextsFile, read_manifest, sha256_of
from fineclip.stages.caption import caption_shard
from fineclip.stages.card import write_card
from fineclip.stages.detect import detect_shard
from fineclip.stages.embed_texts import texts_shard
from fineclip.stages.external.annotation_tables import ExternalBoxesRow, ExternalCaptionsRow, OwnBoxesRow
from fineclip.stages.external.reading import import_annotations
from fineclip.stages.pack import pack_shard
from fineclip.stages.weights import fetch_weights
from tests.helpers.images import HTML
from tests.helpers.stages import Item, box, write_filtered
from tests.versions.inputs import picture, put, rounded, table
from tests.versions.registry import case
from tests.versions.worlds import WEIGHTS, write_encoder

SEEN, DESCRIBED = (5, 13, 17), (0, 1, 2)  # scenes of VALIDATION; no score of theirs is near the limit, no two tie
OWN = AnnotationsDetect(engine="annotations", min_side_px=3, max_regions=3)
TEMPLATE = TemplateCaption(engine="template", template="the {label}")


def given() -> tuple[BoxesJsonDetect, CaptionsJsonCaption]:
    """Boxes and captions that a JSON gives of the pictures 0.jpg to 2.jpg, and the manifests of both."""
    images = [
        {"id": number, "file_name": f"{number}.jpg", "width": 24, "height": 16 + number // 2} for number in range(3)
    ]
    boxes = [
        (0, 2, [3, 4, 9.5, 8.25], 0.5), (0, 1, [0, 0, 40, 9], 0.75), (0, 2, [1, 1, 2, 2], 1), (0, 3, [2, 2, 9, 9], 0.9),
        (0, 1, [5, 5, 9, 9], 0.25), (9, 1, [0, 0, 9, 9], 1),
    ]  # fmt: skip
    annotations = [
        {"id": index, "image_id": image, "category_id": label, "bbox": box, "score": score}
        for index, (image, label, box, score) in enumerate(boxes)
    ]
    categories = [{"id": number, "name": name} for number, name in ((1, "cat"), (2, "dog"), (3, "boat"))]
    captions = {"0.jpg_3_4_9_8.jpg": "a given dog", "0.jpg_0_0_40_9.jpg": "a given cat", "1.jpg_0_0_9_9.jpg": " "}
    put(
        {
            "boxes_in.json": json.dumps({"images": images, "annotations": annotations, "categories": categories}),
            "captions_in.json": json.dumps(captions),
        }
    )
    configs = (
        BoxesJsonDetect(engine="boxes_json", path="boxes_in.json", max_regions=3, min_side_px=3),
        CaptionsJsonCaption(engine="captions_json", path="captions_in.json"),
    )
    for config in configs:
        import_annotations(given_of(config), config, kind="detect", name="given")
    return configs


def own() -> list[BoxesFilesDetect]:
    """Boxes of the pictures 0 and 2 in files of every format, and the manifests of all."""
    sizes = "<size><width>{}</width><height>16</height></size>"
    bounds = "<bndbox><xmin>4</xmin><ymin>5</ymin><xmax>12.5</xmax><ymax>13</ymax></bndbox>"
    voc = f"<annotation>{sizes}<object><name>dog</name>{bounds}</object></annotation>"
    ids = np.zeros((16, 24), np.uint8)
    ids[3:9, 2:8], ids[12:, 20:] = 7, 3
    png = io.BytesIO()
    Image.fromarray(ids).save(png, format="PNG")
    yolo = "1 0.5 0.5 0.5 0.5 0.25\r\n0 0.1 0.2 0.2 0.4\n0 .25 .25 .75 .25 .75 1 .9\n1 .5 .5 .01 .01 1\n"
    put(
        {
            "yolo/labels/0.txt": yolo, "yolo/labels/2.txt": "", "yolo/data.yaml": "names: [cat, dog]",
            "voc/0.xml": voc.format(24), "voc/2.xml": voc.format(25),
            "boxes_in.csv": "image,x1,y1,x2,y2,label,score\n0.jpg,3,4,12.5,12.25,dog,.5\n0.jpg,0,0,9,9,cat,1\n2.jpg,,,,,,\n",
            "masks/0.png": png.getvalue(), "folders/0/0.png": png.getvalue(),
        }
    )  # fmt: skip
    paths = {"yolo": "yolo/labels", "voc": "voc", "csv": "boxes_in.csv", "masks": "masks", "mask_folders": "folders"}
    configs = [
        BoxesFilesDetect(engine="boxes_files", format=name, path=path, min_side_px=3, max_regions=2)  # type: ignore[arg-type]
        for name, path in paths.items()
    ]
    for config in configs:
        import_annotations(given_of(config), config, kind="detect", name="own")
    return configs


def given_of(config: BoxesJsonDetect | BoxesFilesDetect | CaptionsJsonCaption) -> Path:
    name = config.format if isinstance(config, BoxesFilesDetect) else config.engine
    return Path(f"given/{name}.json")


@case("stages.given")
def tables_of_every_engine() -> dict[str, Any]:
    boxes, captions = given()
    return {
        "boxes": table(given_of(boxes), ExternalBoxesRow),
        "captions": table(given_of(captions), ExternalCaptionsRow),
        **{config.format: table(given_of(config), OwnBoxesRow) for config in own()},
    }


@case("stages.detect", after=("stages.filter", "stages.weights", "stages.given"), relative=0, loose={"yolo": 1})
def every_engine() -> dict[str, Any]:
    """The detector's scores in percent, so that one tolerance does for them and for pixels."""
    boxes = [
        box(-2, 4, 10.004, 12.3456), box(20, 0, 26, 18, "dog"), box(30, 0, 40, 9), box(5, 5, 5, 9), box(5, 5, 7, 9),
        box(2, 2, 8, 8, "b"), box(2, 2, 8, 8, "a"), box(0, 0, 5, 5),
    ]  # fmt: skip
    items = [
        Item(picture(0), annotations=boxes),
        Item(picture(1)[:-40], annotations=[]),
        Item(picture(2), annotations=[]),
    ]
    kept = write_filtered(Path("own"), [*items, Item(picture(3), annotations=[])])
    stated, listed = detected(kept, OWN), detected(kept, given()[0])
    in_files = {config.format: detected(kept, config) for config in own()}
    scenes = [Item(jpeg(draw_scene(VALIDATION, index))) for index in SEEN]
    weights = WeightsConfig(shipped="detector.pt", sha256=sha256_of(shipped("detector.pt")))
    yolo = YoloDetect(engine="yolo", weights=weights, image_size=128, confidence=0.22, min_side_px=18, max_regions=5)
    found = detected(write_filtered(Path("found"), scenes), yolo)
    found.pop("config")  # names the hash of the detector
    for region in (region for row in found["rows"] for region in row["regions"]):
        region["score"] *= 100
        region.update({name: round(region[name], 1) for name in ("x1", "y1", "x2", "y2", "score")})
    return {"annotations": stated, "boxes_json": listed, "boxes_files": in_files, "yolo": found}


def detected(kept: Path, config: DetectConfig) -> dict[str, Any]:
    weights = None
    if isinstance(config, YoloDetect):
        weights = Path("weights/detect.json")
        fetch_weights("detect", "mini", weights, config.weights)
    manifest = Path(f"detect/{config.engine}/s.json")
    boxes = given_of(config) if isinstance(config, BoxesJsonDetect | BoxesFilesDetect) else None
    detect_shard(kept, manifest, config, weights=weights, annotations=boxes, batch_size=2, device="cpu")
    return table(manifest, DetectRow)


@case(
    "stages.caption", after=("stages.filter", "stages.detect", "stages.weights", "stages.given"), loose={"blip2": 0.02}
)
def every_captioner() -> dict[str, Any]:
    scenes = [draw_scene(VALIDATION, index) for index in DESCRIBED]
    boxes = [[box(*thing.box, thing.label) for thing in scene.things] for scene in scenes]
    items = [Item(jpeg(scene), annotations=of_scene) for scene, of_scene in zip(scenes, boxes, strict=True)]
    source = Path("detect/s.json")
    own = AnnotationsDetect(engine="annotations", min_side_px=1)
    detect_shard(write_filtered(Path(), items), source, own, batch_size=1, device="cpu")
    weights = WeightsConfig(shipped="captioner")
    seen = Blip2Caption(engine="blip2", weights=weights, max_new_tokens=8, context=1.2, square=True)
    boxes, captions = given()
    detected(write_filtered(Path("own"), [Item(picture(0))]), boxes)
    listed = captioned(Path("detect/boxes_json/s.json"), captions)
    return {"template": captioned(source, TEMPLATE), "captions_json": listed, "blip2": captioned(source, seen)}


def captioned(source: Path, config: CaptionConfig) -> dict[str, Any]:
    weights = None
    if isinstance(config, Blip2Caption):
        weights = Path("weights/caption.json")
        fetch_weights("caption", "mini", weights, config.weights)
    manifest = Path(f"caption/{config.engine}.json")
    said = given_of(config) if isinstance(config, CaptionsJsonCaption) else None
    caption_shard(source, manifest, config, weights=weights, annotations=said, batch_size=4, device="cpu")
    found = table(manifest, CaptionRow)
    for row in found["rows"]:
        for region in row["regions"]:
            region["logprob"] = None if region["logprob"] is None else round(region["logprob"], 3) + 0.0
    return found


SHARDS = {
    "s0": [
        Item(
            picture(0),
            ["one caption", "no", "a second caption"],
            [box(0, 0, 9, 9), box(3, 3, 23, 9, "dog")],
            "http://x/0",
        ),
        Item(picture(1)[:-40], ["cut short"], []),
        Item(HTML, ["a page"], []),
    ],
    "s1": [Item(picture(2), ["two caption"], []), Item(picture(3), ["three caption"], [box(1, 1, 9, 9, "")])],
}
CAPTIONS = ("one caption", "no", "a second caption", "cut short", "two caption", "three caption", "cat", "dog", "")


def packed(name: str, items: Sequence[Item]) -> Path:
    """One shard from source to pack; the captioner says nothing of a region without label."""
    data = Path("data/mine")
    kept = write_filtered(data, items, name=name, config=FilterConfig(min_side_px=1, min_words=2))
    found, said = data / f"detect/own/{name}.json", data / f"caption/own.label/{name}.json"
    detect_shard(kept, found, OWN, batch_size=1, device="cpu")
    label = TemplateCaption(engine="template", template="{label}")
    caption_shard(found, said, label, batch_size=1, device="cpu")
    manifest = data / f"pack/own.label/{name}.json"
    pack_shard(said, manifest, PackConfig())
    return manifest


@case("stages.pack", after=("stages.filter", "stages.detect", "stages.caption"))
def shards_and_their_bytes() -> dict[str, Any]:
    outputs = {}
    for name, items in SHARDS.items():
        manifest = packed(name, items)
        with tarfile.open(manifest.with_suffix(".tar")) as tar:
            content = {one: tar.extractfile(one).read() for one in tar.getnames()}
        texts = {one: text.decode() for one, text in content.items() if not one.endswith(".bmp")}
        outputs[name] = {
            "table": table(manifest, PackRow),
            "members": [*content],
            "texts": texts,
            "sha256": read_manifest(manifest).outputs[f"{name}.tar"],
        }
    return outputs


@case("stages.card", after=("stages.filter", "stages.detect", "stages.caption", "stages.pack"))
def text_and_counts() -> dict[str, Any]:
    manifests = [packed(name, items) for name, items in SHARDS.items()]
    card = manifests[0].with_name("card.json")
    write_card(manifests, card, PackConfig())
    made = read_manifest(card)
    counts = {"read": made.read, "kept": made.kept, "dropped": dict(made.dropped), "regions": made.regions}
    return {"card": card.with_suffix(".md").read_text(encoding="utf-8").splitlines(), "manifest": counts}


@case(
    "stages.texts",
    after=("stages.filter", "stages.detect", "stages.caption", "stages.pack", "stages.weights"),
    relative=1e-5,
)
def embeddings_of_captions() -> dict[str, Any]:
    """Of a shard with and one without regions that have a caption; the first numbers of each embedding."""
    config, outputs = parse(EncoderConfig, write_encoder(), where="case"), {}
    for name, items in SHARDS.items():
        source, manifest = packed(name, items), Path(f"data/mine/texts/tiny/own.label/{name}.json")
        texts_shard(source, WEIGHTS, manifest, config, batch_size=4, device="cpu")
        file, made = TextsFile(manifest.with_suffix(".safetensors")), read_manifest(manifest)
        known = [text for text in CAPTIONS if text in file]
        outputs[name] = {
            "counts": [made.read, made.kept, made.regions, len(file), file.width],
            "text_tower": file.text_tower,
            "features": {text: rounded(file.features([text])[0, :4], 5) for text in known},
        }
    return outputs


@case("stages.weights")
def manifests_and_records() -> dict[str, Any]:
    put({"one.bin": b"weights", "model/config.json": "{}", "model/sub/weights.bin": b"more", "model/.hidden": b"no"})
    sources = {
        "file": WeightsConfig(path="one.bin"),
        "folder": WeightsConfig(path="model"),
        "shipped": WeightsConfig(shipped="encoder/bpe.txt.gz"),
    }
    written = {}
    for name, config in sources.items():
        manifest = Path(f"data/weights/detect/{name}.json")
        fetch_weights("detect", name, manifest, config)
        recorded = manifest.with_name(f".{name}.sha256")
        made = json.loads(manifest.read_text())
        made.pop("version")
        written[name] = {
            "manifest": made,
            "recorded": json.loads(recorded.read_text())["sha256"] if recorded.is_file() else None,
        }
    return written

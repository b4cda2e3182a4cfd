"""Captions go to their regions, whatever fills a batch, and nothing is opened that is not needed."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from fineclip.config import AnnotationsDetect, Blip2Caption, TemplateCaption, WeightsConfig
from fineclip.errors import ConfigError, ShardError
from fineclip.miniature.scenes import draw_scene, jpeg
from fineclip.miniature.seeds import VALIDATION
from fineclip.miniature.wording import region_caption
from fineclip.shards import CaptionRow, read_manifest, read_rows, sha256_of
from fineclip.stages import caption as module
from fineclip.stages.caption import caption_shard
from fineclip.stages.detect import detect_shard
from fineclip.stages.weights import fetch_weights
from fineclip.types import RegionCaption
from tests.helpers.images import encoded
from tests.helpers.stages import Item, box, write_filtered

TEMPLATE = TemplateCaption(engine="template")
OWN = AnnotationsDetect(engine="annotations", min_side_px=1)
BLIP2 = Blip2Caption(
    engine="blip2", weights=WeightsConfig(shipped="captioner"), max_new_tokens=8, context=1.2, square=True
)
TIGHT = BLIP2.model_copy(update={"context": 1.0, "square": False})


def detected(folder: Path, items: Sequence[Item]) -> Path:
    manifest = folder / "detect/s.json"
    detect_shard(write_filtered(folder, items), manifest, OWN, weights=None, batch_size=1, device="cpu")
    return manifest


def run(source: Path, folder: Path, config: TemplateCaption | Blip2Caption, *, batch_size: int = 2) -> list[CaptionRow]:
    weights = folder / "weights/caption/mini.json" if isinstance(config, Blip2Caption) else None
    if weights:
        fetch_weights("caption", "mini", weights, BLIP2.weights)
    manifest = folder / "caption/s.json"
    caption_shard(source, manifest, config, weights=weights, batch_size=batch_size, device="cpu")
    return list(read_rows(manifest, CaptionRow))


def said(rows: Sequence[CaptionRow]) -> list[list[str]]:
    return [[region.caption for region in row.regions] for row in rows]


def test_the_template_needs_no_image(tmp_path: Path) -> None:
    items = [
        Item(encoded(color=1), annotations=[box(0, 0, 5, 5), box(0, 0, 9, 9, "dog")]),
        Item(encoded(color=2), annotations=[]),
    ]
    source = detected(tmp_path, items)
    (tmp_path / "source/s.bin").unlink()
    rows = run(source, tmp_path, TEMPLATE)
    assert said(rows) == [["a photo of a dog", "a photo of a cat"], []]
    assert rows[0].regions[0].logprob is None
    made = read_manifest(tmp_path / "caption/s.json")
    assert (made.read, made.kept, made.regions) == (2, 2, 2)


class Recorder:
    """A captioner that says how large a crop is, and notes how many it saw at once. Of crops of 3 px it says nothing."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def describe(self, regions: Sequence[Image.Image]) -> list[RegionCaption]:
        self.seen.append(len(regions))
        return [RegionCaption("" if crop.width == 3 else f"{crop.width}x{crop.height}", -1.0) for crop in regions]


def test_regions_of_several_images_fill_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    recorder = Recorder()
    monkeypatch.setattr(module, "_captioner", lambda *_, **__: recorder)
    sides = [[9, 8, 7], [], [6], [5, 4, 3], [2]]
    items = [
        Item(encoded(color=i), annotations=[box(1, 1, 1 + side, 2) for side in row]) for i, row in enumerate(sides)
    ]
    rows = run(detected(tmp_path, items), tmp_path, TIGHT, batch_size=3)
    assert said(rows) == [["" if side == 3 else f"{side}x1" for side in row] for row in sides]
    assert recorder.seen == [3, 3, 2]
    assert "8 regions of 5 images; without a caption: 1 empty" in caplog.text
    assert read_manifest(tmp_path / "caption/s.json").uncaptioned == {"empty": 1}


def test_no_region_opens_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_captioner", lambda *_, **__: pytest.fail("a model was opened"))
    assert said(run(detected(tmp_path, [Item(encoded(), annotations=[])]), tmp_path, BLIP2)) == [[]]
    assert run(detected(tmp_path / "empty", []), tmp_path / "empty", BLIP2) == []


def test_blip2_needs_weights(tmp_path: Path) -> None:
    source = detected(tmp_path, [Item(encoded(), annotations=[])])
    with pytest.raises(ConfigError, match="--weights"):
        caption_shard(source, tmp_path / "caption/s.json", BLIP2, weights=None, batch_size=1, device="cpu")


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (b"x", "cannot be|no header"),
        (encoded(17, 12), "is of 17 x 12 px"),
        (encoded(16, 13), "is of 16 x 13 px"),
    ],
)
def test_an_image_that_is_another_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: bytes, message: str
) -> None:
    monkeypatch.setattr(module, "_captioner", lambda *_, **__: Recorder())
    source = detected(tmp_path, [Item(encoded() + bytes(100), annotations=[box(0, 0, 5, 5)])])
    pieces = tmp_path / "source/s.bin"
    pieces.write_bytes(now + bytes(max(0, pieces.stat().st_size - len(now))))
    with pytest.raises(ShardError, match=f"s.bin: sample s-000000 ({message}).*an image of 16 x 12 px"):
        run(source, tmp_path, TIGHT)
    assert not (tmp_path / "caption/s.json").exists()


def test_the_shipped_captioner_writes_the_same_table_whatever_the_batch_size(tmp_path: Path) -> None:
    scenes = [draw_scene(VALIDATION, index) for index in range(4)]
    items = [
        Item(jpeg(scene), annotations=[box(*thing.box, thing.label) for thing in scene.things]) for scene in scenes
    ]
    source = detected(tmp_path, items)
    hashes = set()
    for batch_size in (3, 128):
        rows = run(source, tmp_path / str(batch_size), BLIP2, batch_size=batch_size)
        hashes.add(sha256_of(tmp_path / str(batch_size) / "caption/s.parquet"))
    assert len(hashes) == 1
    truth = [sorted(map(region_caption, scene.things)) for scene in scenes]
    right = [one in true for row, true in zip(said(rows), truth, strict=True) for one in row]
    assert sum(right) >= 0.7 * len(right) > 4

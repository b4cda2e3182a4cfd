"""The shipped files have the recorded hashes and load."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fineclip.config import WeightsConfig, YoloDetect
from fineclip.errors import ConfigError
from fineclip.miniature import WEIGHTS
from fineclip.miniature.scenes import CLASSES, COLORS, THINGS, Scene, draw_scene
from fineclip.miniature.seeds import VALIDATION
from fineclip.miniature.wording import region_caption
from fineclip.models.detector import UltralyticsDetector
from fineclip.models.shipped import shipped
from tools.shipped_models.hashes import HASHES, hashes
from tools.shipped_models.pictures import square_frame

MOST_BYTES = 9_000_000
SHIPPED = [path for path in sorted(WEIGHTS.rglob("*")) if path.is_file()]


def test_hashes_are_those_written_down() -> None:
    assert hashes(WEIGHTS) == json.loads((WEIGHTS / HASHES).read_text())


def test_all_of_it_is_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED) <= MOST_BYTES


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_no_file_knows_the_machine_that_made_it(path: Path) -> None:
    content = path.read_bytes()
    for place in (b"/tmp/", b"/home/", b"/root/", b"/Users/"):
        assert place not in content
    assert path.stat().st_mode & 0o044 == 0o044


@pytest.mark.parametrize("name", ["encoder", "detector.pt", "captioner", "detector.LICENSE"])
def test_names(name: str) -> None:
    assert shipped(name).exists()


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"shipped:bert: .* captioner, .* encoder"):
        shipped("bert")


def test_encoder_weights_fit_the_model_exactly() -> None:
    open_clip, safetensors = pytest.importorskip("open_clip"), pytest.importorskip("safetensors.torch")
    open_clip.add_model_config(shipped("encoder"))
    model = open_clip.create_model("mini")
    state = safetensors.load_file(shipped("encoder") / "model.safetensors")
    model.load_state_dict(state, strict=True)
    assert all(value.isfinite().all() for value in state.values())
    assert model.visual.pool_type == "avg"
    assert not model.visual.final_ln_after_pool


def test_encoder_vocabulary() -> None:
    tokenizer_module = pytest.importorskip("open_clip.tokenizer")
    tokenize = tokenizer_module.SimpleTokenizer(bpe_path=shipped("encoder") / "bpe.txt.gz", context_length=20)
    config = json.loads((shipped("encoder") / "mini.json").read_text())
    assert tokenize.vocab_size == config["text_cfg"]["vocab_size"]
    assert all(len(tokenize.encode(word)) == 1 for word in (*CLASSES, *COLORS, "a", "photo", "of", ","))
    for index in range(20):
        scene = draw_scene(VALIDATION, index)
        for text in (scene.alt, scene.clean, *map(region_caption, scene.things)):
            spoken = tokenize.decode(tokenize.encode(text)).strip()
            assert spoken == text.replace(",", " ,")
    assert tokenize.encode("zebra!") != tokenize.encode("zebra?")


def test_captioner_says_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    folder = shipped("captioner")
    processor = transformers.Blip2Processor.from_pretrained(folder)
    model = transformers.Blip2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    scenes = [draw_scene(VALIDATION, index) for index in range(15)]
    truth = [region_caption(thing) for scene in scenes for thing in scene.things]
    images = processor(images=[crop for scene in scenes for crop in crops_of(scene)], return_tensors="pt")
    said = processor.batch_decode(model.generate(**images, max_new_tokens=8), skip_special_tokens=True)
    right = [text.strip() == true for text, true in zip(said, truth, strict=True)]
    assert len(right) > 30
    assert sum(right) >= 0.85 * len(right)


def crops_of(scene: Scene) -> list[Image.Image]:
    image, unused = Image.fromarray(scene.pixels), np.random.default_rng(0)
    return [image.crop([round(edge) for edge in square_frame(thing.box, unused)]) for thing in scene.things]


def test_detector_finds_things() -> None:
    pytest.importorskip("ultralytics")
    path = shipped("detector.pt")
    weights = WeightsConfig(shipped="detector.pt", sha256=json.loads((WEIGHTS / HASHES).read_text())["detector.pt"])
    config = YoloDetect(engine="yolo", weights=weights, image_size=128, confidence=0.2)
    scenes = [draw_scene(VALIDATION, index) for index in range(10)]
    detector = UltralyticsDetector(path, config, device="cpu", batch_size=8)
    found = [
        region for regions in detector.find([Image.fromarray(scene.pixels) for scene in scenes]) for region in regions
    ]
    assert {region.label for region in found} <= set(THINGS)
    assert 0.7 <= len(found) / sum(len(scene.things) for scene in scenes) <= 1.3

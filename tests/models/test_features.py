"""`fineclip.load`: what it finds, and features equal to training and evaluation."""

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.nn.functional import normalize

import fineclip
from fineclip.config import EncoderConfig
from fineclip.errors import CheckpointError, ConfigError, DataError
from fineclip.miniature.scenes import draw_scene, jpeg
from fineclip.models.checkpoints import export, find_encoder, load_encoder, save_encoder
from fineclip.models.features import FeatureEncoder, fractions
from fineclip.models.images import SQUASH, normalize_pixels
from fineclip.models.shipped import shipped
from fineclip.shards.images import decode
from tests.helpers.encoders import encoder_config, tiny_encoder

ROOT = Path(__file__).parents[2]
SCENE = draw_scene(7, 0)
PICTURE = Image.fromarray(SCENE.pixels)
BOXES = [tuple(map(float, thing.box)) for thing in SCENE.things]


@pytest.fixture(scope="module")
def mini() -> FeatureEncoder:
    return fineclip.load("mini", device="cpu")


def test_regions_equal_the_region_encoder(mini: FeatureEncoder) -> None:
    found = find_encoder("mini")
    encoder = load_encoder(found.config, found.weights).eval()
    width, height = PICTURE.size
    boxes = torch.tensor([[x1 / width, y1 / height, x2 / width, y2 / height] for x1, y1, x2, y2 in BOXES])
    pixels = normalize_pixels(SQUASH(PICTURE, 96))[None]
    with torch.no_grad():
        regions = encoder.encode_regions(pixels, boxes, torch.zeros(len(boxes), dtype=torch.long))
        image = encoder.encode_image(pixels)
    assert torch.equal(mini.encode_regions(PICTURE, BOXES), normalize(regions, dim=-1))
    assert torch.equal(mini.encode_image(PICTURE), normalize(image, dim=-1))


def test_boxes_are_classified(mini: FeatureEncoder) -> None:
    """On fifty scenes more than half of the things are named right among twenty, where chance is one in twenty."""
    from fineclip.miniature.scenes import THINGS

    text_ND = mini.encode_text([f"a photo of a {name}" for name in THINGS])
    hits = []
    for index in range(50):
        scene = draw_scene(11, index)
        region_RD = mini.encode_regions(Image.fromarray(scene.pixels), [thing.box for thing in scene.things])
        best = (region_RD @ text_ND.T).argmax(dim=1).tolist()
        hits += [THINGS[guess] == thing.label for guess, thing in zip(best, scene.things, strict=True)]
    assert np.mean(hits) > 0.5


def test_shapes_and_lengths(mini: FeatureEncoder) -> None:
    assert mini.encode_image(PICTURE).shape == (1, mini.width)
    assert mini.encode_image([PICTURE] * 3).shape == (3, mini.width)
    assert mini.encode_text("a red star").shape == (1, mini.width)
    assert mini.encode_text(["a red star", "a red star on the sand by the water " * 9, ""]).shape == (3, mini.width)
    for nothing in (mini.encode_image([]), mini.encode_text([]), mini.encode_regions(PICTURE, [])):
        assert nothing.shape == (0, mini.width)
    for rows in (mini.encode_image([PICTURE] * 2), mini.encode_text(["a", "b"]), mini.encode_regions(PICTURE, BOXES)):
        assert rows.dtype == torch.float32 and not rows.requires_grad
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))


def test_batches_equal_single_rows(mini: FeatureEncoder) -> None:
    pictures = [Image.fromarray(draw_scene(8, index).pixels) for index in range(70)]
    texts = [draw_scene(8, index).clean for index in range(70)]
    torch.testing.assert_close(mini.encode_image(pictures)[66:67], mini.encode_image(pictures[66]), atol=1e-5, rtol=0)
    torch.testing.assert_close(mini.encode_text(texts)[66:67], mini.encode_text(texts[66]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_boxes_of_any_kind(mini: FeatureEncoder, kind: type) -> None:
    assert torch.equal(mini.encode_regions(PICTURE, kind(BOXES)), mini.encode_regions(PICTURE, BOXES))


def test_boxes_are_clipped_to_the_picture() -> None:
    assert fractions([(-10, 20, 50, 400)], width=100, height=200).tolist() == [pytest.approx([0, 0.1, 0.5, 1])]
    assert fractions([], width=100, height=200).shape == (0, 4)


@pytest.mark.parametrize(
    ("boxes", "says"),
    [
        ([(5, 5, 9, 9), (5, 5, 5, 9)], r"row 1, \[5.0, 5.0, 5.0, 9.0\], has no area inside the image of"),
        ([(50, 50, 20, 20)], "x1 < x2 and y1 < y2 .not x, y, width, height"),
        ([(5000, 5, 5010, 9)], "has no area inside"),
        ([(float("nan"), 0, 5, 5)], "has no area inside"),
        ([(0, 0, float("inf"), 5)], "has no area inside"),
        ((5, 5, 9, 9), r"have the shape \(4,\); expected \(R, 4\)"),
        ([(5, 5, 9)], r"have the shape \(1, 3\)"),
        ([(5, 5, 9, 9), (5, 5, 9)], "expected rows of x1, y1, x2, y2"),
        ([("a", 5, 9, 9)], "expected rows of x1, y1, x2, y2"),
    ],
)
def test_invalid_boxes_are_refused(mini: FeatureEncoder, boxes: object, says: str) -> None:
    with pytest.raises(DataError, match=says):
        mini.encode_regions(PICTURE, boxes)


def test_images_of_any_mode_equal_the_decoder(mini: FeatureEncoder, tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    (tmp_path / "plain.jpg").write_bytes(jpeg(SCENE))
    Image.open(tmp_path / "plain.jpg").save(tmp_path / "turned.png", exif=turned)
    clear = PICTURE.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(PICTURE.size))
    clear.save(tmp_path / "clear.png")
    PICTURE.convert("L").save(tmp_path / "gray.png")
    PICTURE.quantize(32).save(tmp_path / "palette.png")
    Image.fromarray(np.asarray(PICTURE.convert("L")).astype(np.uint16) * 257).save(tmp_path / "deep.png")
    for path in sorted(tmp_path.iterdir()):
        decoded = mini.encode_image(decode(path.read_bytes()))
        with Image.open(path) as opened:
            assert torch.equal(mini.encode_image(opened), decoded), path.name


def test_other_types_than_images_and_texts_are_refused(mini: FeatureEncoder, tmp_path: Path) -> None:
    for wrong in ("photo.jpg", [np.zeros((4, 4, 3))], Path("photo.jpg")):
        with pytest.raises(DataError, match=r"is not an image: open it with PIL\.Image\.open first"):
            mini.encode_image(wrong)
    with pytest.raises(DataError, match="None is not a text"):
        mini.encode_text(["a", None])
    (tmp_path / "cut.jpg").write_bytes(jpeg(SCENE)[:-900])
    with pytest.raises(DataError, match="cannot be decoded"):
        mini.encode_image(Image.open(tmp_path / "cut.jpg"))


def test_another_image_size(mini: FeatureEncoder) -> None:
    larger = fineclip.load("mini", image_size=144, device="cpu")
    assert (mini.image_size, larger.image_size) == (96, 144)
    assert 0.5 < float(larger.encode_image(PICTURE) @ mini.encode_image(PICTURE).T) < 0.999
    for size in (50, 0, -12):
        with pytest.raises(
            ConfigError, match=f"image_size {size} px is not a multiple of the encoder's patch of 12 x 12 px"
        ):
            fineclip.load("mini", image_size=size)


def test_the_folder_of_a_run(mini: FeatureEncoder, tmp_path: Path) -> None:
    found = find_encoder("mini")
    save_encoder(found.load(), tmp_path / "run", config=found.config, vocabulary=shipped("encoder/bpe.txt.gz"))
    text = yaml.safe_dump({"encoder": found.config.model_dump(mode="json")})
    (tmp_path / "run/config.yaml").write_text(text)
    assert torch.equal(
        fineclip.load(tmp_path / "run").encode_regions(PICTURE, BOXES), mini.encode_regions(PICTURE, BOXES)
    )
    assert torch.equal(fineclip.load(str(tmp_path / "run")).encode_text("a star"), mini.encode_text("a star"))


def test_a_folder_of_open_clips(mini: FeatureEncoder, tmp_path: Path) -> None:
    export(find_encoder("mini"), tmp_path / "folder", layout="open_clip")
    loaded = fineclip.load(tmp_path / "folder")
    assert loaded.image_size == 96
    assert torch.equal(loaded.encode_regions(PICTURE, BOXES), mini.encode_regions(PICTURE, BOXES))
    assert torch.equal(loaded.encode_text("a star"), mini.encode_text("a star"))


def test_folder_with_other_preprocessing(tmp_path: Path) -> None:
    export(find_encoder("mini"), tmp_path / "folder", layout="open_clip")
    path = tmp_path / "folder/open_clip_config.json"
    content = json.loads(path.read_text())
    content["preprocess_cfg"] |= {"size": [224, 240], "mean": [0.5, 0.5, 0.5]}
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"preprocess_cfg has mean \[0.5, 0.5, 0.5\]"):
        fineclip.load(tmp_path / "folder")
    content["preprocess_cfg"] = None
    path.write_text(json.dumps(content))
    assert fineclip.load(tmp_path / "folder").image_size == 96


@pytest.mark.parametrize("name", ["mean", "std"])
def test_a_folder_with_another_normalization_is_refused(tmp_path: Path, name: str) -> None:
    export(find_encoder("mini"), tmp_path / "folder", layout="open_clip")
    path = tmp_path / "folder/open_clip_config.json"
    content = json.loads(path.read_text())
    content["preprocess_cfg"][name] = [0.5, 0.5, 0.5]
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=rf"preprocess_cfg has {name} \[0.5, 0.5, 0.5\]"):
        find_encoder(tmp_path / "folder")


def test_a_file_with_the_name_of_its_model(mini: FeatureEncoder, tmp_path: Path) -> None:
    """The vocabulary is the one beside the weights; the model one of the package's, or a JSON."""
    shutil.copy(shipped("encoder/model.safetensors"), tmp_path / "epoch_10.safetensors")
    shutil.copy(shipped("encoder/bpe.txt.gz"), tmp_path)
    for name in ("mini", "shipped:encoder/mini.json", str(shipped("encoder/mini.json"))):
        loaded = fineclip.load(tmp_path / "epoch_10.safetensors", encoder=name)
        assert torch.equal(loaded.encode_image(PICTURE), mini.encode_image(PICTURE))
        assert torch.equal(loaded.encode_text("a star"), mini.encode_text("a star"))


def test_catalog_comes_first(tmp_path: Path) -> None:
    config = encoder_config(tmp_path, "eva", image_size=48)
    torch.save(dict(tiny_encoder(tmp_path, "eva").state_dict()), tmp_path / "eva.pt")
    found = find_encoder(tmp_path / "eva.pt", encoder="mini", catalog={"mini": config})
    assert found.config is config
    assert found.load().width == 32
    with pytest.raises(
        ConfigError, match=r"encoder mine: no entry of `encoders` \(mini\), and model 'mine': not among"
    ):
        find_encoder(tmp_path / "eva.pt", encoder="mine", catalog={"mini": config})


def test_missing_encoders_are_explained(tmp_path: Path) -> None:
    torch.save(dict(tiny_encoder(tmp_path, "openai").state_dict()), tmp_path / "weights.pt")
    (tmp_path / "empty").mkdir()
    for path, says in (
        ("nowhere", "nowhere: no such file or folder, and not a shipped encoder .mini."),
        ("EVA02-B-16", "is the name of an open_clip architecture, not of weights"),
        (tmp_path / "empty", "holds neither config.yaml of a finished run nor open_clip_config.json"),
        (tmp_path / "weights.pt", "weights.pt: the model of these weights is not known. Set encoder"),
    ):
        with pytest.raises(CheckpointError, match=says):
            fineclip.load(path)
    with pytest.raises(ConfigError, match="did you mean EVA02-B-16"):
        fineclip.load(tmp_path / "weights.pt", encoder="EVA02-CLIP-B-16")
    with pytest.raises(
        CheckpointError, match="weights.pt as shipped:encoder/mini.json: these weights are of another model"
    ):
        fineclip.load(tmp_path / "weights.pt", encoder="mini")
    with gzip.open(tmp_path / "bpe.txt.gz", "wt") as file:
        file.write("not a vocabulary of that size")
    with pytest.raises(ConfigError, match="tokens, but the text tower of"):
        fineclip.load(tmp_path / "weights.pt", encoder=str(tmp_path / "openai.json"))


def test_shipped_encoder_equals_the_default_configuration() -> None:
    values = yaml.safe_load((ROOT / "config.yaml").read_text())["encoders"]["mini"]
    for place in ("weights", "tokenizer"):
        values[place].pop("sha256", None)
    assert find_encoder("mini").config == EncoderConfig(**values)


def test_importing_the_package_loads_no_torch() -> None:
    code = "import fineclip, sys; fineclip.load; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

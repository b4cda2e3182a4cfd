"""Captions depend on their crop only, without the prompt; files that can run code are not loaded."""

import pickle
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fineclip.config import Blip2Caption, TemplateCaption
from fineclip.errors import CheckpointError
from fineclip.miniature.scenes import draw_scene
from fineclip.miniature.seeds import VALIDATION
from fineclip.miniature.wording import region_caption
from fineclip.models.captioner import TemplateCaptioner, region_crop
from fineclip.models.captioner.blip2 import Blip2Captioner, mean_logprob, without_prompt
from fineclip.models.shipped import shipped
from fineclip.types import Box, RegionCaption

SHIPPED = shipped("captioner")


def config(**changes: object) -> Blip2Caption:
    values = {"engine": "blip2", "weights": {"path": "-"}, "max_new_tokens": 8, "context": 1.2, "square": True}
    return Blip2Caption.model_validate(values | changes)


def captioner(folder: Path = SHIPPED, **changes: object) -> Blip2Captioner:
    return Blip2Captioner(folder, config(**changes), device="cpu", batch_size=16)


@cache
def things() -> tuple[tuple[Image.Image, ...], tuple[str, ...]]:
    """Crops of things, and what is true of each."""
    scenes = [draw_scene(VALIDATION, index) for index in range(12)]
    pairs = [
        (region_crop(Image.fromarray(scene.pixels), Box(*thing.box), config()), region_caption(thing))
        for scene in scenes
        for thing in scene.things
    ]
    crops, captions = zip(*pairs, strict=True)
    return crops, captions


def test_template_is_not_changed() -> None:
    template = TemplateCaptioner(TemplateCaption(engine="template", template="a {label}: {label}"))
    assert template.describe(["cat", "{x}"]) == [RegionCaption("a cat: cat", None), RegionCaption("a {x}: {x}", None)]


@pytest.mark.parametrize(
    ("text", "prompt", "left"),
    [
        (" a red \n star ", "", "a red star"),
        ("a photo of a star", "a photo of", "a star"),
        ("A Photo  of a star", "a photo of ", "a star"),
        ("a photo of", "a photo of", ""),
        ("a photo", "a photo of", "a photo"),
        ("a photograph of it", "a photo of", "a photograph of it"),
        ("a star, a photo of it", "a photo of", "a star, a photo of it"),
    ],
)
def test_repeated_prompt_is_removed(text: str, prompt: str, left: str) -> None:
    assert without_prompt(text, prompt) == left


def test_logprob_is_averaged_up_to_the_first_end() -> None:
    tokens = torch.tensor([[5, 6, 2, 0], [5, 6, 7, 8], [2, 2, 2, 2]])
    logprobs = torch.tensor([[-1.0, -2, -3, -100], [-1, -1, -1, -3], [-0.25, -9, -9, -9]])
    assert mean_logprob(tokens, logprobs, [2]) == [-2.0, -1.5, -0.25]
    assert mean_logprob(tokens, logprobs, []) == [-26.5, -1.5, -6.8125]


@pytest.mark.parametrize(
    ("box", "changes", "size"),
    [
        (Box(20, 30, 40, 40), {"context": 1, "square": False}, (20, 10)),
        (Box(20, 30, 40, 40), {"context": 1.5, "square": False}, (30, 14)),  # 27.5 to 42.5, rounded half to even
        (Box(20, 30, 40, 40), {"context": 1, "square": True}, (20, 20)),
        (Box(20, 30, 40, 40), {"context": 1.5, "square": True}, (30, 30)),
        (Box(0, 0, 20, 10), {"context": 2, "square": True}, (30, 25)),  # cut at the edges
        (Box(99.9, 49.9, 100, 50), {"context": 1, "square": False}, (1, 1)),
    ],
)
def test_size_of_the_crop_of_a_region(box: Box, changes: dict, size: tuple[int, int]) -> None:
    assert region_crop(Image.new("RGB", (100, 50)), box, config(**changes)).size == size


def test_caption_does_not_depend_on_the_batch() -> None:
    crops = [*things()[0][:9], *(Image.new("RGB", (3, side), "red") for side in (1, 3, 9))]
    together = captioner().describe(crops)
    assert [captioner().describe([one])[0] for one in crops[::4]] == together[::4]
    assert Blip2Captioner(SHIPPED, config(), device="cpu", batch_size=5).describe(crops[::-1]) == together[::-1]
    assert len(set(together)) > 5
    assert captioner().describe([]) == []


def test_more_crops_than_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fineclip.models.captioner.blip2.CPU_BATCH", 4)
    crops, _ = things()
    said = [caption.caption for caption in captioner().describe(crops[:10])]
    assert said == [caption.caption for caption in captioner().describe(crops)][:10]


def test_shipped_captioner_is_accurate() -> None:
    crops, truth = things()
    said = captioner().describe(crops)
    right = [caption.caption == true for caption, true in zip(said, truth, strict=True)]
    assert sum(right) / len(right) > 0.8
    assert all(caption.logprob is not None and caption.logprob <= 0 for caption in said)


def test_logprob_equals_the_forward_pass() -> None:
    one = captioner()
    crop = things()[0][0]
    [said] = one.describe([crop])
    words = one._tokenizer(said.caption, add_special_tokens=False)["input_ids"] + one._ends
    tokens = torch.tensor([[*one._prompt, *words]])
    pixels = one._images([crop], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        logits = one._model(pixel_values=pixels, input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    steps = logits[0, len(one._prompt) - 1 : -1].log_softmax(dim=-1)
    expected = steps.gather(1, torch.tensor(words)[:, None]).mean().item()
    assert said.logprob == pytest.approx(expected, abs=2e-4)


def test_a_prompt_is_continued() -> None:
    crops = things()[0][:6]
    alone = [caption.caption for caption in captioner().describe(crops)]
    articles = {caption.split()[0] for caption in alone}
    assert articles <= {"a", "an"}
    for article in articles:
        continued = [caption.caption for caption in captioner(prompt=article).describe(crops)]
        chosen = [index for index, caption in enumerate(alone) if caption.split()[0] == article]
        assert [f"{article} {continued[index]}" for index in chosen] == [alone[index] for index in chosen]


def test_beams_and_half_precision_change_little() -> None:
    crops = things()[0][:8]
    greedy = [caption.caption for caption in captioner().describe(crops)]
    for changes in ({"num_beams": 3}, {"precision": "bf16"}):
        said = captioner(**changes).describe(crops)
        assert sum(one.caption == other for one, other in zip(said, greedy, strict=True)) >= 6
        assert all(-5 < one.logprob <= 0 for one in said)
        assert captioner(**changes).describe(crops[-1:]) == said[-1:]


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{tmp_path}: holds no BLIP-2"):
        captioner(tmp_path)


def test_an_absent_weight_is_named(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SHIPPED, tmp_path / "captioner"))
    weights = load_file(folder / "model.safetensors")
    weights.pop("query_tokens")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="1 weights of its BLIP-2 are absent or of another shape, query_tokens"):
        captioner(folder)


def test_a_weight_of_another_shape_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SHIPPED, tmp_path / "captioner"))
    weights = load_file(folder / "model.safetensors")
    weights["query_tokens"] = weights["query_tokens"][:, :, :8].contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="1 weights .* of another shape, query_tokens"):
        captioner(folder)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (Path(tmp_path / "exploded").touch, ())

    folder = Path(shutil.copytree(SHIPPED, tmp_path / "captioner"))
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError):
        captioner(folder)
    torch.save({"query_tokens": Bomb()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError):
        captioner(folder)
    assert not (tmp_path / "exploded").exists()

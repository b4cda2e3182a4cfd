"""A BLIP-2 folder that lacks a key, or whose files do not fit each other, is an error that names the key."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fineclip.errors import CheckpointError
from fineclip.models.captioner.blip2_files import check_files
from fineclip.models.shipped import shipped
from tests.models.test_captioner import captioner


def folder_with(folder: Path, file: str, change: Callable[[dict[str, Any]], object]) -> Path:
    """The shipped captioner, one of its files changed."""
    copy = Path(shutil.copytree(shipped("captioner"), folder / "captioner"))
    content = json.loads((copy / file).read_text())
    change(content)
    (copy / file).write_text(json.dumps(content))
    return copy


def without(key: str) -> Callable[[dict[str, Any]], object]:
    def change(content: dict[str, Any]) -> None:
        *outer, last = key.split(".")
        for part in outer:
            content = content[part]
        del content[last]

    return change


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("config.json", "image_token_index"),
        ("config.json", "num_query_tokens"),
        ("config.json", "model_type"),
        ("config.json", "vision_config"),
        ("config.json", "qformer_config"),
        ("config.json", "text_config"),
        ("config.json", "text_config.model_type"),
        ("config.json", "text_config.num_attention_heads"),
        ("config.json", "vision_config.num_attention_heads"),
        ("config.json", "qformer_config.num_attention_heads"),
        ("processor_config.json", "image_processor.size"),
        ("processor_config.json", "image_processor.size.height"),
        ("processor_config.json", "image_processor.image_mean"),
        ("processor_config.json", "image_processor.image_std"),
        ("tokenizer_config.json", "tokenizer_class"),
    ],
)
def test_an_absent_key_is_named_before_weights_are_read(tmp_path: Path, file: str, key: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{file}: .* lacks .*{key}"):
        check_files(folder_with(tmp_path, file, without(key)))


@pytest.mark.parametrize(
    "key",
    [
        "vision_config.hidden_size",
        "vision_config.patch_size",
        "qformer_config.intermediate_size",
        "qformer_config.cross_attention_frequency",
        "text_config.vocab_size",
        "text_config.bos_token_id",
    ],
)
def test_an_absent_size_whose_default_does_not_fit_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(CheckpointError, match=key):
        captioner(folder_with(tmp_path, "config.json", without(key)))


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        (
            "config.json",
            lambda c: c.update(model_type="clip"),
            "a 'clip' model of transformers; engine blip2 needs 'blip-2'",
        ),
        (
            "config.json",
            lambda c: c.update(image_token_index=43),
            "image_token_index is 43, expected a token .* 0 to 42",
        ),
        ("config.json", lambda c: c.update(image_token_index=-1), "image_token_index is -1"),
        (
            "processor_config.json",
            lambda c: c["image_processor"]["size"].update(height=40),
            r"vision_config\.image_size is 48",
        ),
    ],
)
def test_values_that_do_not_fit_are_named(
    tmp_path: Path, file: str, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    with pytest.raises(CheckpointError, match=says):
        captioner(folder_with(tmp_path, file, change))


def test_the_other_name_of_the_image_token(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "config.json", lambda c: c.update(image_token_id=c.pop("image_token_index")))
    assert captioner(folder)._prompt == captioner()._prompt


@pytest.mark.parametrize("file", ["config.json", "processor_config.json", "tokenizer_config.json", "tokenizer.json"])
def test_an_absent_file_is_named(tmp_path: Path, file: str) -> None:
    folder = folder_with(tmp_path, "config.json", lambda _: None)
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match=file):
        check_files(folder)


def test_the_processor_of_earlier_versions(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "config.json", lambda _: None)
    inner = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    (folder / "preprocessor_config.json").write_text(json.dumps({**inner, "size": 48}))
    (folder / "processor_config.json").write_text(json.dumps({"num_query_tokens": 4}))
    check_files(folder)
    del inner["image_std"]
    (folder / "preprocessor_config.json").write_text(json.dumps(inner))
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json: .* lacks image_std"):
        check_files(folder)


def test_weights_that_were_not_downloaded_are_named(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "config.json", lambda _: None)
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: is a Git LFS pointer"):
        captioner(folder)


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "config.json", lambda _: None)
    weights = load_file(folder / "model.safetensors")
    weights["query_tokens"] = torch.full_like(weights["query_tokens"], float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="query_tokens holds numbers that are not finite"):
        captioner(folder)

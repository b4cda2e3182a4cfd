"""Of several files in a folder the one that fits is used; files of other kinds are named; no code of a file is run."""

import argparse
import gzip
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from fineclip.errors import CheckpointError, ConfigError
from fineclip.models.architecture import same_model_at
from fineclip.models.checkpoints import export, find_encoder, load_encoder, save_encoder
from fineclip.models.checkpoints.torch_files import ScalarType, read_torch_file, scalar
from fineclip.models.checkpoints.weights_files import read_weights
from fineclip.models.encoder import build_encoder
from fineclip.models.file_kinds import OTHER_KINDS, Container, container_of
from fineclip.models.shipped import shipped
from tests.helpers.encoders import KINDS, encoder_config, tiny_encoder
from tests.models.test_weights_naming import is_same, weights_of

STRANGE = {"vision_model.head.probe": torch.zeros(2), "text_model.x": torch.zeros(2)}


def saved_folder(folder: Path) -> Path:
    save_encoder(tiny_encoder(folder, "openai"), folder / "model", config=encoder_config(folder, "openai"))
    return folder / "model"


@pytest.mark.parametrize(
    "good", ["open_clip_pytorch_model.bin", "pytorch_model.bin", "epoch_3.pt", "last.ckpt", "a.safetensors"]
)
def test_the_file_that_fits_is_used(tmp_path: Path, good: str) -> None:
    folder, weights = saved_folder(tmp_path), weights_of(tmp_path)
    if good.endswith(".safetensors"):
        save_file(weights, folder / good)
    else:
        torch.save({"state_dict": weights}, folder / good)
    save_file(STRANGE, folder / "model.safetensors")
    (folder / "optimizer.pt").write_bytes(b"\x80\x02}q\x00.")
    found = find_encoder(folder)
    assert found.weights == folder / good
    assert is_same(found.load(), weights)
    assert is_same(load_encoder(found.config, folder), weights)


def test_usual_names_come_first(tmp_path: Path) -> None:
    folder = saved_folder(tmp_path)
    other = {name: value + 1 for name, value in weights_of(tmp_path).items()}
    torch.save(other, folder / "a.pt")
    torch.save(other, folder / "pytorch_model.bin")
    assert find_encoder(folder).weights.name == "model.safetensors"


def test_two_files_that_fit_are_an_error(tmp_path: Path) -> None:
    folder = saved_folder(tmp_path)
    for name in ("epoch_1.pt", "epoch_2.pt"):
        torch.save(weights_of(tmp_path), folder / name)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"epoch_1\.pt, epoch_2\.pt all fit"):
        find_encoder(folder)


def test_a_usual_name_is_found_among_many_files(tmp_path: Path) -> None:
    folder = saved_folder(tmp_path)
    for number in range(150):
        (folder / f"a{number}.txt").touch()
    assert find_encoder(folder).weights.name == "model.safetensors"


def test_the_message_says_what_each_file_is(tmp_path: Path) -> None:
    folder = saved_folder(tmp_path)
    save_file(STRANGE, folder / "model.safetensors")
    torch.save({"state": {}, "param_groups": [{"lr": 1.0}]}, folder / "optimizer.pt")
    (folder / "x.pt").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(CheckpointError) as caught:
        find_encoder(folder)
    text = str(caught.value)
    assert "none of its 3 files fits" in text
    assert all(what in text for what in ("SiglipModel", "the state of an optimizer", "GGUF"))


def test_a_folder_of_other_files_names_them(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07\x12\x07pytorch" + bytes(50))
    (tmp_path / "notes.md").write_text("text")
    with pytest.raises(CheckpointError, match=r"holds none of .*model\.onnx is an ONNX model"):
        load_encoder(encoder_config(tmp_path, "openai"), tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "Git LFS pointer"),
        ("a.pt", b"\n <!DOCTYPE html><html>", "a web page"),
        ("a.pt", b"<html>", "a web page"),
        ("a.bin", b"GGUF\x03\0\0\0", "GGUF"),
        ("a.bin", b"\x89HDF\r\n\x1a\n", "HDF5"),
        ("a.pt", b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
        ("a.pt", b"\x08\x08\x12\x07pytorch", "ONNX"),
        ("a.pt", b"\x08\x01\x12\x90\x01", "a TensorFlow model"),
        ("a.index", bytes(20), "a TensorFlow model"),
        ("a.msgpack", b"\x81\xa1a", "Flax"),
        ("a.pt", b"\x93NUMPY\x01", "array of NumPy"),
        ("a.pt", gzip.compress(b"x", mtime=0), "gunzip"),
        ("a.safetensors", b"", "is empty"),
    ],
)
def test_files_of_other_programs_are_named_by_their_bytes(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=says):
        read_weights(tmp_path / name)
    with pytest.raises(CheckpointError, match=says):
        find_encoder(tmp_path / name)


def test_every_kind_can_be_recognized() -> None:
    assert all(kind.start or kind.suffixes for kind in OTHER_KINDS)


def test_the_content_decides_and_not_the_name(tmp_path: Path) -> None:
    weights = weights_of(tmp_path)
    torch.save(weights, tmp_path / "a.safetensors")
    save_file(weights, tmp_path / "b.pt")
    torch.save(weights, tmp_path / "c.weird", _use_new_zipfile_serialization=False)
    kinds = [container_of(tmp_path / name) for name in ("a.safetensors", "b.pt", "c.weird")]
    assert kinds == [Container.TORCH_ZIP, Container.SAFETENSORS, Container.TORCH_PICKLE]
    for name in ("a.safetensors", "b.pt", "c.weird"):
        assert is_same(load_encoder(encoder_config(tmp_path, "openai"), tmp_path / name), weights)


@pytest.mark.parametrize("length", [0x8B1F, 0x120708, 0x120108])
def test_the_length_of_a_header_is_no_sign_of_another_kind(tmp_path: Path, length: int) -> None:
    """safetensors begin with the length of their header, here the first bytes of gzip, ONNX and TensorFlow."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).ljust(length).encode()
    (tmp_path / "a.bin").write_bytes(struct.pack("<Q", length) + header + struct.pack("<f", 1.5))
    assert read_weights(tmp_path / "a.bin")[""]["a"].tolist() == [1.5]


def test_archives_of_other_kinds(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    with pytest.raises(CheckpointError, match=r"arrays of NumPy \(\.npz\)"):
        read_weights(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
        archive.writestr("weights.pt", b"x")
    with pytest.raises(CheckpointError, match="a zip archive of 1 files"):
        read_weights(tmp_path / "b.pt")


def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1_000_000)}, tmp_path / "whole.pt")
    with (
        zipfile.ZipFile(tmp_path / "whole.pt") as whole,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in whole.namelist():
            bomb.writestr(name, whole.read(name))
    with pytest.raises(CheckpointError, match="unpacks to more than 4 times its size"):
        read_weights(tmp_path / "bomb.pt")


def numpy_1(content: bytes) -> bytes:
    return content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


@pytest.mark.parametrize("number", [np.float64(1e-5), np.float32(0.5), np.int64(-7), np.int32(12)])
@pytest.mark.parametrize("spelling", [bytes, numpy_1])
def test_numpy_scalars_of_trainers_are_read(tmp_path: Path, number: Any, spelling: Any) -> None:
    weights = weights_of(tmp_path)
    content = {"state_dict": weights, "optimizer": {"param_groups": [{"lr": number, "initial_lr": number}]}}
    torch.save(content, tmp_path / "new.pt")
    with zipfile.ZipFile(tmp_path / "new.pt") as new, zipfile.ZipFile(tmp_path / "spelled.pt", "w") as spelled:
        for name in new.namelist():
            spelled.writestr(name, spelling(new.read(name)) if name.endswith("/data.pkl") else new.read(name))
    read = read_torch_file(tmp_path / "spelled.pt")["optimizer"]["param_groups"][0]["lr"]
    assert read == number and type(read) in (float, int)
    assert is_same(load_encoder(encoder_config(tmp_path, "openai"), tmp_path / "spelled.pt"), weights)


def test_numpy_scalars_of_early_files(tmp_path: Path) -> None:
    torch.save({"lr": np.float64(0.25), "a": torch.zeros(1)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert read_torch_file(tmp_path / "old.pt")["lr"] == 0.25


@pytest.mark.parametrize(
    "value",
    [np.array([1.0, 2.0]), np.str_("x"), np.complex128(1), np.float16(1), np.datetime64("2020-01-01"), np.bool_(1)],
)
def test_other_objects_of_numpy_are_refused(tmp_path: Path, value: object) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}, "x": value}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"x\.pt: holds ") as caught:
        read_torch_file(tmp_path / "x.pt")
    assert "weights_only" not in str(caught.value)


def test_the_allowed_scalars_make_numbers_only() -> None:
    big = ScalarType("f8", False, True)
    big.__setstate__((3, ">", None, None, None, -1, -1, 0))
    assert scalar(big, struct.pack(">d", 2.5)) == 2.5
    for make in (
        lambda: ScalarType("O8"),
        lambda: ScalarType("V1000000000"),
        lambda: ScalarType("f8").__setstate__((3, "|")),
        lambda: scalar(ScalarType("f8"), b"1234"),
        lambda: scalar("f8", b"12345678"),
        lambda: scalar(ScalarType("f8"), "12345678"),
    ):
        with pytest.raises(pickle.UnpicklingError, match="numpy scalar"):
            make()


def test_the_allowed_names_do_not_stay_allowed(tmp_path: Path) -> None:
    torch.save({"lr": np.float64(0.25), "a": torch.zeros(1)}, tmp_path / "x.pt")
    before = set(torch.serialization.get_safe_globals())
    read_torch_file(tmp_path / "x.pt")
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("is_new", [True, False])
def test_an_unsafe_file_is_refused_in_our_words(tmp_path: Path, is_new: bool) -> None:
    content = {"state_dict": weights_of(tmp_path), "args": argparse.Namespace(lr=1)}
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=is_new)
    with pytest.raises(
        CheckpointError, match=r"argparse\.Namespace, as a program that saves its arguments writes it"
    ) as caught:
        read_weights(tmp_path / "x.pt")
    text = str(caught.value)
    assert "\n" not in text and not any(word in text for word in ("weights_only", "safe_globals", "safetensors"))
    assert "torch.save(model.state_dict(), FILE)" in text


def test_the_recommended_file_loads(tmp_path: Path) -> None:
    """The advice for an unsafe file, followed in the program that wrote it."""
    model = open_clip.CLIP(**KINDS["openai"])
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    encoder = load_encoder(encoder_config(tmp_path, "openai"), tmp_path / "weights.pt")
    assert is_same(encoder, dict(model.state_dict()))


def test_a_detector_of_ultralytics_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"ultralytics\.[\w.]+, as ultralytics \(YOLO\) writes it"):
        load_encoder(encoder_config(tmp_path, "openai"), shipped("detector.pt"))


@pytest.mark.parametrize(("kind", "suffix"), [("openai", ".pt"), ("mean", ".safetensors"), ("eva", ".safetensors")])
def test_our_own_backbone_has_no_text_tower(tmp_path: Path, kind: str, suffix: str) -> None:
    save_encoder(tiny_encoder(tmp_path, kind), tmp_path / "model", config=encoder_config(tmp_path, kind))
    export(find_encoder(tmp_path / "model"), tmp_path / f"backbone{suffix}", layout="backbone")
    with pytest.raises(CheckpointError, match=r"`backbone` of `fineclip export`.*no text tower.*open_clip"):
        load_encoder(encoder_config(tmp_path, kind), tmp_path / f"backbone{suffix}")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_one_tower_alone_is_named(tmp_path: Path, kind: str) -> None:
    weights = weights_of(tmp_path, kind)
    save_file(
        {name: value for name, value in weights.items() if name.startswith("visual.")}, tmp_path / "vision.safetensors"
    )
    with pytest.raises(CheckpointError, match="the vision tower of a CLIP model alone.*no text tower"):
        load_encoder(encoder_config(tmp_path, kind), tmp_path / "vision.safetensors")
    save_file(
        {name: value for name, value in weights.items() if not name.startswith("visual.")},
        tmp_path / "text.safetensors",
    )
    with pytest.raises(CheckpointError, match="the text tower of a CLIP model alone.*no vision tower"):
        load_encoder(encoder_config(tmp_path, kind), tmp_path / "text.safetensors")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_another_resolution_states_both(tmp_path: Path, kind: str) -> None:
    weights = weights_of(tmp_path, kind)
    name = "visual.trunk.pos_embed" if kind == "eva" else "visual.positional_embedding"
    shape = (*weights[name].shape[:-2], 1 + 6 * 6, weights[name].shape[-1])
    save_file(weights | {name: torch.zeros(shape)}, tmp_path / "large.safetensors")
    with pytest.raises(
        CheckpointError, match=r"48 x 48 px \(6 x 6 patches\), the model is of 32 x 32 px \(4 x 4 patches\)"
    ):
        load_encoder(encoder_config(tmp_path, kind), tmp_path / "large.safetensors")


def test_models_of_another_resolution_are_found_by_their_config() -> None:
    assert same_model_at("ViT-L-14-quickgelu", 336) == ["ViT-L-14-336-quickgelu"]
    assert same_model_at("EVA02-L-14-336", 224) == ["EVA02-L-14"]
    assert same_model_at("ViT-B-16", 224) and not same_model_at("ViT-B-16", 999)


def test_eva_02_e_is_refused_before_it_is_built(tmp_path: Path) -> None:
    for model in ("EVA02-E-14", "EVA02-E-14-plus"):
        with pytest.raises(ConfigError, match="EVA-02 E is not supported"):
            build_encoder(encoder_config(tmp_path, "eva", model=model))
    weights = weights_of(tmp_path, "eva")
    more = {name.replace("blocks.2.", "blocks.63."): value.clone() for name, value in weights.items()}
    save_file(weights | more, tmp_path / "e.safetensors")
    with pytest.raises(CheckpointError, match="EVA-02 E, with 64 blocks"):
        load_encoder(encoder_config(tmp_path, "eva"), tmp_path / "e.safetensors")


def test_a_model_config_that_lacks_a_key_names_it(tmp_path: Path) -> None:
    folder = saved_folder(tmp_path)
    path = folder / "open_clip_config.json"
    whole = json.loads(path.read_text())
    for part, key in (
        ("vision_cfg", "image_size"),
        ("vision_cfg", "width"),
        ("text_cfg", "heads"),
        ("text_cfg", "vocab_size"),
    ):
        content = json.loads(json.dumps(whole))
        del content["model_cfg"][part][key]
        path.write_text(json.dumps(content))
        with pytest.raises(ConfigError, match=rf"it lacks {part}\.{key}"):
            find_encoder(folder)
    for content, says in (
        ([], "holds a list"),
        ({"model_cfg": 3}, "it lacks embed_dim"),
        ({"model_cfg": {"vision_cfg": []}}, "it lacks"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(ConfigError, match=says):
            find_encoder(folder)
    whole["preprocess_cfg"]["size"] = "large"
    path.write_text(json.dumps(whole))
    with pytest.raises(ConfigError, match="image_size"):
        find_encoder(folder)

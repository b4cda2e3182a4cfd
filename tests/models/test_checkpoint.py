"""Weights are loaded strictly and safely, and saved so that they load the same."""

import os
import pickle
import zipfile
from pathlib import Path

import open_clip
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from fineclip.errors import CheckpointError, ConfigError
from fineclip.models.checkpoints import find_encoder, load_encoder, save_encoder
from fineclip.models.checkpoints.layouts import as_open_clip
from fineclip.models.checkpoints.weights_files import read_weights, weights_files, write_weights
from tests.helpers.encoders import KINDS, as_official, encoder_config, tiny_encoder


def same(left: nn.Module, right: nn.Module) -> bool:
    a, b = left.state_dict(), right.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_saved_encoder_loads_the_same(kind: str, tmp_path: Path) -> None:
    encoder, config = tiny_encoder(tmp_path, kind), encoder_config(tmp_path, kind)
    save_encoder(encoder, tmp_path / "run", config=config)
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({"encoder": config.model_dump(mode="json")}))
    Path(config.model).unlink()  # the folder is enough
    assert same(find_encoder(tmp_path / "run").load(), encoder)
    with pytest.raises(Exception, match="49408 tokens"):
        find_encoder(tmp_path / "run").tokenizer()


def test_a_path_is_never_the_shipped_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may be in a folder that has the name of the shipped encoder."""
    encoder, config = tiny_encoder(tmp_path, "openai"), encoder_config(tmp_path, "openai")
    save_encoder(encoder, tmp_path / "mini", config=config)
    monkeypatch.chdir(tmp_path)
    assert same(find_encoder(Path("mini")).load(), encoder)
    assert same(find_encoder("./mini").load(), encoder)
    assert find_encoder("mini").config.image_size == 96


def test_saved_bytes_depend_on_the_weights_only(tmp_path: Path) -> None:
    config = encoder_config(tmp_path, "openai")
    for folder in ("one", "two"):
        save_encoder(tiny_encoder(tmp_path, "openai"), tmp_path / folder, config=config)
    one, two = (sorted((tmp_path / folder).iterdir()) for folder in ("one", "two"))
    assert [path.name for path in one] == ["model.safetensors", "open_clip_config.json"]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    save_encoder(tiny_encoder(tmp_path, "openai", seed=1), tmp_path / "two", config=config)
    assert one[0].read_bytes() != two[0].read_bytes()


def test_open_clip_loads_the_folder(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path, "mean")
    save_encoder(encoder, tmp_path / "run", config=encoder_config(tmp_path, "mean"))
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'run'}")
    assert same(model, encoder)
    assert "squash" in str(preprocess) or "32, 32" in str(preprocess)


def test_authors_layout_with_wrapping(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path, "eva")
    wrapped = {f"module.{name}": value for name, value in as_official(encoder.state_dict()).items()}
    path = tmp_path / "epoch_10.pt"
    torch.save({"epoch": 10, "name": "x", "state_dict": wrapped, "optimizer": {"state": {}, "lr": 1e-5}}, path)
    assert same(load_encoder(encoder_config(tmp_path, "eva"), path), encoder)


def test_dictionaries_inside_one_another_are_unwrapped(tmp_path: Path) -> None:
    torch.save({"model": {"state_dict": {"module": {"a": torch.ones(2)}}, "epoch": 3}}, tmp_path / "deep.pt")
    [weights] = read_weights(tmp_path / "deep.pt").values()
    assert weights["a"].tolist() == [1, 1]


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_saved_bytes_do_not_depend_on_the_order_of_the_names(tmp_path: Path, name: str) -> None:
    weights, written = {"b": torch.ones(2), "a": torch.zeros(3)}, set[bytes]()
    for names in ("ab", "ba"):
        write_weights(tmp_path / name, {each: weights[each] for each in names})
        written.add((tmp_path / name).read_bytes())
    assert len(written) == 1


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path, "openai")
    half = {name: value.half() for name, value in encoder.state_dict().items()}
    save_file(half, tmp_path / "half.safetensors")
    loaded = load_encoder(encoder_config(tmp_path, "openai"), tmp_path / "half.safetensors")
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32}
    assert torch.equal(loaded.visual.proj, half["visual.proj"].float())


def test_text_tower_at_the_top_or_nested(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path, "openai")
    flat = encoder.state_dict()
    nested = {name if name.startswith(("visual.", "logit")) else f"text.{name}": value for name, value in flat.items()}
    torch.save({**nested, "input_resolution": torch.tensor(32)}, tmp_path / "nested.pt")
    assert same(load_encoder(encoder_config(tmp_path, "openai"), tmp_path / "nested.pt"), encoder)


def test_a_folder_of_the_hub(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path, "openai")
    folder = tmp_path / "snapshot"
    folder.mkdir()
    with pytest.raises(CheckpointError, match="holds none of"):
        load_encoder(encoder_config(tmp_path, "openai"), folder)
    save_file(dict(encoder.state_dict()), folder / "open_clip_model.safetensors")
    assert same(load_encoder(encoder_config(tmp_path, "openai"), folder), encoder)


def test_of_several_files_in_a_folder_the_safetensors_is_read(tmp_path: Path) -> None:
    for number, name in enumerate(("open_clip_pytorch_model.bin", "pytorch_model.bin")):
        torch.save({"a": torch.full((1,), float(number))}, tmp_path / name)
    for number, name in enumerate(("model.safetensors", "open_clip_model.safetensors"), start=2):
        save_file({"a": torch.full((1,), float(number))}, tmp_path / name)
        assert weights_files(tmp_path)[0].name == name


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("visual.proj"), r"1 keys are missing: visual.proj"),
        (lambda w: w.update({"visual.extra": torch.zeros(1)}), r"1 keys are not expected: visual.extra"),
        (lambda w: w.update({"visual.proj": torch.zeros(64, 33)}), r"visual.proj is \(64, 33\), not \(64, 32\)"),
        (
            lambda w: w.update({"visual.proj": torch.zeros(64, 32, dtype=torch.int64)}),
            r"not floating-point numbers: visual.proj",
        ),
    ],
)
def test_keys_and_shapes_that_do_not_fit_are_named(tmp_path: Path, change, says: str) -> None:
    weights = dict(tiny_encoder(tmp_path, "openai").state_dict())
    change(weights)
    save_file({name: value.clone() for name, value in weights.items()}, tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match=says):
        load_encoder(encoder_config(tmp_path, "openai"), tmp_path / "weights.safetensors")


def test_another_architecture_counts_the_keys(tmp_path: Path) -> None:
    save_file(dict(tiny_encoder(tmp_path, "eva").state_dict()), tmp_path / "eva.safetensors")
    with pytest.raises(CheckpointError, match=r"keys are missing: .* and \d+ more; \d+ keys are not expected"):
        load_encoder(encoder_config(tmp_path, "openai"), tmp_path / "eva.safetensors")


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "extra": Bomb(marker)}, tmp_path / "new.pt")
    torch.save({"extra": Bomb(marker)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Bomb(marker)))
    for name in ("new.pt", "old.pt", "plain.pt"):
        with pytest.raises(CheckpointError, match=name):
            read_weights(tmp_path / name)
    assert not marker.exists()


def test_damaged_files_are_named(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "whole.pt")
    save_file({"a": torch.zeros(1000)}, tmp_path / "whole.safetensors")
    for name in ("whole.pt", "whole.safetensors"):
        for share in (0.0, 0.3, 0.9):
            content = (tmp_path / name).read_bytes()
            cut = tmp_path / f"cut-{share}-{name}"
            cut.write_bytes(content[: int(len(content) * share)])
            with pytest.raises(CheckpointError, match=cut.name):
                read_weights(cut)
    with pytest.raises(CheckpointError, match=r"absent\.pt: no such file"):
        read_weights(tmp_path / "absent.pt")


@pytest.mark.parametrize("content", [[torch.zeros(1)], {}, {"state_dict": {}}, {"a": 1.0}, {"a": {"b": 1.0}}])
def test_files_without_weights(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=r"odd\.pt: holds "):
        read_weights(tmp_path / "odd.pt")


def test_torchscript_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ViT-B-16.pt", "w") as archive:
        archive.writestr("model/constants.pkl", b"")
        archive.writestr("model/data.pkl", b"")
    with pytest.raises(CheckpointError, match="TorchScript archive, a program"):
        read_weights(tmp_path / "ViT-B-16.pt")


def test_names_of_open_clip_stay(tmp_path: Path) -> None:
    weights = tiny_encoder(tmp_path, "eva").state_dict()
    assert as_open_clip(weights).keys() == weights.keys()
    assert as_open_clip(as_official(weights)).keys() == weights.keys()


def test_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds neither config\.yaml of a finished run nor "):
        find_encoder(tmp_path)
    (tmp_path / "config.yaml").write_text("encoder: [")
    with pytest.raises(ConfigError, match=r"config\.yaml: is not valid YAML"):
        find_encoder(tmp_path)
    (tmp_path / "config.yaml").write_text("train: {}")
    with pytest.raises(CheckpointError, match="has no key `encoder`"):
        find_encoder(tmp_path)


def test_vocabulary_is_copied_to_the_folder(tmp_path: Path) -> None:
    config = encoder_config(tmp_path, "openai")
    (tmp_path / "own.gz").write_bytes(b"merges")
    save_encoder(tiny_encoder(tmp_path, "openai"), tmp_path / "run", config=config, vocabulary=tmp_path / "own.gz")
    assert (tmp_path / "run" / "bpe.txt.gz").read_bytes() == b"merges"
    assert set(load_file(tmp_path / "run" / "model.safetensors")) == set(tiny_encoder(tmp_path, "openai").state_dict())


def test_a_saved_folder_states_the_image_size_and_not_the_crop_size(tmp_path: Path) -> None:
    config = encoder_config(tmp_path, "openai", image_size=32, crop_size=16)
    save_encoder(tiny_encoder(tmp_path, "openai"), tmp_path / "saved", config=config)
    found = find_encoder(tmp_path / "saved").config
    assert (found.image_size, found.crop_size) == (32, 32)

"""Keys and prefixes around a model are ignored, whatever they are; several models in a file are an error."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fineclip.errors import CheckpointError
from fineclip.models.checkpoints import load_encoder
from fineclip.models.checkpoints.layouts import as_eva_clip, layouts_of
from fineclip.models.checkpoints.naming import placements, tensors_by_place
from fineclip.models.encoder import RegionEncoder
from tests.helpers.encoders import KINDS, as_official, encoder_config, tiny_encoder

PREFIXES = [
    "_orig_mod.",
    "module._orig_mod.",
    "model.",
    "clip.",
    "module.module.",
    "backbone.clip_model.",
    "visual.",
    "text.",
    "student/",
    "_forward_module.net.",
    "7.",
]


def weights_of(folder: Path, kind: str = "openai") -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in tiny_encoder(folder, kind).state_dict().items()}


def load(folder: Path, content: object, kind: str = "openai") -> RegionEncoder:
    torch.save(content, folder / "weights.pt")
    return load_encoder(encoder_config(folder, kind), folder / "weights.pt")


def is_same(encoder: nn.Module, weights: dict[str, Tensor]) -> bool:
    state = encoder.state_dict()
    return state.keys() == weights.keys() and all(torch.equal(state[name], weights[name]) for name in state)


def prefixed(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in weights.items()}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_constant_prefix_is_ignored(tmp_path: Path, kind: str, prefix: str) -> None:
    weights = weights_of(tmp_path, kind)
    assert is_same(load(tmp_path, prefixed(weights, prefix), kind), weights)
    save_file(prefixed(weights, prefix), tmp_path / "weights.safetensors")
    assert is_same(load_encoder(encoder_config(tmp_path, kind), tmp_path / "weights.safetensors"), weights)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_in_the_authors_layout(tmp_path: Path, prefix: str) -> None:
    weights = weights_of(tmp_path, "eva")
    assert is_same(load(tmp_path, {"state_dict": prefixed(as_official(weights), prefix)}, "eva"), weights)
    flat = {name.removeprefix("text."): value for name, value in as_eva_clip(weights, tables={}).items()}
    assert is_same(load(tmp_path, prefixed(flat, prefix), "eva"), weights)


@pytest.mark.parametrize(
    "place", [("state_dict",), ("model_state_dict",), ("checkpoint", "network"), ("a", "b", "c", "d", "e")]
)
def test_keys_around_the_weights_are_ignored(tmp_path: Path, place: tuple[str, ...]) -> None:
    weights = weights_of(tmp_path)
    content: dict = prefixed(weights, "model.")
    for key in reversed(place):
        content = {
            key: content,
            "epoch": 3,
            "lr": [0.1, 0.2],
            "name": "x",
            "optimizer": {"state": {0: {"step": torch.zeros(1)}}},
        }
    assert is_same(load(tmp_path, content), weights)


def test_keys_deeper_than_the_limit_are_not_read(tmp_path: Path) -> None:
    content: dict = weights_of(tmp_path)
    for _ in range(7):
        content = {"x": content}
    with pytest.raises(CheckpointError, match="holds no weights"):
        load(tmp_path, content)


def test_the_number_of_places_is_limited() -> None:
    many = {str(number): {"a": torch.zeros(1)} for number in range(5000)}
    assert len(tensors_by_place({"b": torch.zeros(1), **many})) <= 1001


def test_the_weights_are_preferred_to_their_average(tmp_path: Path) -> None:
    weights = weights_of(tmp_path)
    average = {name: value + 1 for name, value in weights.items()}
    content = {"state_dict_ema": average, "state_dict": weights, "ema": {"module": average}}
    assert is_same(load(tmp_path, content), weights)
    del content["state_dict"], content["ema"]
    assert is_same(load(tmp_path, content), average)


def test_one_dictionary_below_two_keys_is_one_model(tmp_path: Path) -> None:
    weights = weights_of(tmp_path)
    content: dict = {"state_dict": weights, "model": weights}
    content["itself"] = content
    assert is_same(load(tmp_path, content), weights)


def test_several_models_are_an_error_that_names_both(tmp_path: Path) -> None:
    weights = weights_of(tmp_path)
    both = prefixed(weights, "student.") | prefixed(weights, "teacher.")
    with pytest.raises(CheckpointError, match=r"several models .*'student\.'.*'teacher\.'"):
        load(tmp_path, both)
    with pytest.raises(CheckpointError, match=r"several models .*the top.*'teacher\.'"):
        load(tmp_path, weights | prefixed(weights, "teacher."))
    with pytest.raises(CheckpointError, match=r"several models .*'student'.*'teacher'"):
        load(tmp_path, {"student": weights, "teacher": dict(weights)})


def test_tensors_of_the_trainer_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = weights_of(tmp_path)
    content = {"state_dict": prefixed(weights, "model.") | {"metric.sum": torch.zeros(3)}}
    with caplog.at_level(logging.WARNING):
        assert is_same(load(tmp_path, content), weights)
    assert "metric.sum" in caplog.text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.update({"model.visual.extra": torch.zeros(1)}), "1 keys are not expected: visual.extra"),
        (lambda w: w.pop("model.visual.proj"), "1 keys are missing: visual.proj"),
        (
            lambda w: w.update({"visual.proj": w.pop("model.visual.proj")}),
            r"prefix 'model\.', but 1 others .*: visual\.proj",
        ),
        (
            lambda w: w.update({"loss.logit_scale": torch.ones(())}),
            r"prefix 'model\.', but 1 others .*: loss\.logit_scale",
        ),
        (
            lambda w: (w.pop("model.visual.proj"), w.update({"head.w": torch.zeros(1)})),
            "missing: visual.proj; 1 keys are not expected: head.w",
        ),
    ],
)
def test_everything_else_stays_strict(tmp_path: Path, change, says: str) -> None:
    weights = prefixed(weights_of(tmp_path), "model.")
    change(weights)
    with pytest.raises(CheckpointError, match=says):
        load(tmp_path, weights)


def test_names_in_a_message_are_one_short_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="2 keys are not expected") as caught:
        load(tmp_path, weights_of(tmp_path) | {"a\n\x1b[31m": torch.zeros(1), "b" * 10_000: torch.zeros(1)})
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


def test_extra_tensors_without_a_prefix_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="1 keys are not expected: loss.scale"):
        load(tmp_path, weights_of(tmp_path) | {"loss.scale": torch.zeros(1)})


@pytest.mark.parametrize("shape", [(1,), ()])
def test_the_shape_of_a_scalar_is_ignored(tmp_path: Path, shape: tuple[int, ...]) -> None:
    weights = weights_of(tmp_path)
    assert weights["logit_scale"].shape == ()
    assert is_same(load(tmp_path, weights | {"logit_scale": weights["logit_scale"].reshape(shape)}), weights)


def test_a_scalar_is_not_a_matrix(tmp_path: Path) -> None:
    weights = weights_of(tmp_path)
    for wrong in (torch.ones(2), torch.ones(1, 1, 1)):
        with pytest.raises(CheckpointError, match="1 have another shape: logit_scale"):
            load(tmp_path, weights | {"logit_scale": wrong})


def broken(value: Tensor, number: float) -> Tensor:
    value = value.clone()
    value.view(-1)[1] = number
    return value


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda value: value.to_sparse(), "1 are sparse"),
        (lambda value: value.to("meta"), "1 have no values"),
        (lambda value: broken(value, float("nan")), "1 hold numbers that are not finite"),
        (lambda value: broken(value, float("-inf")), "1 hold numbers that are not finite"),
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "1 are quantized"),
        (lambda value: value.to(torch.int8), "1 are not floating-point numbers"),
        (lambda value: value.to(torch.complex64), "1 are not floating-point numbers"),
        (lambda value: torch.zeros(1).expand(10**6, 10**6), "1 have another shape"),
        (lambda _: 4.6, "1 keys are missing"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch deprecates quantized tensors
def test_tensors_without_usable_values_are_named(tmp_path: Path, change, says: str) -> None:
    weights = weights_of(tmp_path)
    weights["visual.proj"] = change(weights["visual.proj"])
    with pytest.raises(CheckpointError, match=f"{says}.*visual.proj"):
        load(tmp_path, weights)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = {name: value.to(dtype) for name, value in weights_of(tmp_path).items()}
    assert is_same(load(tmp_path, weights), {name: value.float() for name, value in weights.items()})


def test_parameters_are_read_as_tensors(tmp_path: Path) -> None:
    weights = weights_of(tmp_path)
    assert is_same(load(tmp_path, {name: nn.Parameter(value) for name, value in weights.items()}), weights)


def test_a_long_name_is_no_burden() -> None:
    """The time to look at a name does not grow with the square of its length."""
    found = placements({"": ["x" * 3_000_000 + ".visual.proj"]}, layouts_of({"visual.proj": 0, "logit_scale": 0}))
    assert [one.found for one in found] == [1]

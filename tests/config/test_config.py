"""The configuration refuses what is wrong in one sentence, and an identity holds only what differs from the defaults."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from fineclip.config import FineCLIPConfig, YoloDetect, load, merge, parse
from fineclip.errors import ConfigError
from fineclip.identity import identity

ROOT = Path(__file__).parents[2]


@pytest.fixture
def values() -> dict[str, Any]:
    return deepcopy(yaml.safe_load((ROOT / "config.yaml").read_text()))


def test_runs_follow_from_the_plan(values: dict[str, Any]) -> None:
    values["plan"] |= {"scales": [500, 2000], "methods": ["clip", "fineclip"], "seeds": [0, 7], "encoders": ["mini"]}
    runs = load(values).runs()
    assert next(iter(runs)) == "pretrained-mini"
    assert "fineclip-mini-2000-s7" in runs and len(runs) == 1 + 2 * 2 * 2
    assert runs["clip-mini-500-s0"].scale == "500"


def test_a_variant_is_a_run_of_its_own(values: dict[str, Any]) -> None:
    values["variants"] = {
        "alone": {"method": "fineclip", "options": {"weights": {"global": 0}}, "train": {"learning_rate": 0.1}}
    }
    values["plan"] |= {"scales": [500], "methods": ["clip"], "variants": ["alone"], "encoders": ["mini"]}
    config = load(values)
    assert list(config.runs()) == ["pretrained-mini", "clip-mini-500-s0", "fineclip-mini-500-alone-s0"]
    plain, variant = list(config.runs().values())[1:]
    assert (plain.recipe, variant.recipe) == ("clip", "fineclip alone")
    assert config.options(plain) == config.methods.clip and config.training(plain) == config.train
    options = config.options(variant)
    assert isinstance(options, FineCLIPConfig)
    assert (options.weights.global_, options.weights.region) == (0, 1)
    assert options.train_text == config.methods.fineclip.train_text  # what it does not name is the section's
    assert config.training(variant) == config.train.model_copy(update={"learning_rate": 0.1})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            ["variants"],
            {"x": {"method": "clip", "options": {"weights": {}}}},
            "variants.x.options: weights: unknown key",
        ),
        (["variants"], {"x": {"method": "clipp"}}, "variants.x.method names 'clipp', which is not among"),
        (["plan", "variants"], ["x"], "plan.variants names 'x', which is not among nothing"),
        (["variants"], {"x": {"method": "clip", "train": {"epochs": 0}}}, "variants.x.train: epochs: input should be"),
        (["filter", "min_sid_px"], 3, "filter.min_sid_px: unknown key, did you mean filter.min_side_px?"),
        (
            ["detect", "yolov9t.mini", "confidnce"],
            0.2,
            "detect.yolov9t.mini.confidnce: unknown key, did you mean detect.yolov9t.mini.confidence?",
        ),
        (["detect", "yolov9t.mini", "image_size"], 100, "detect.yolov9t.mini.image_size: must be a multiple of 32"),
        (["plan", "scales"], ["3000"], "plan.scales names '3000', which is not among"),
        (["train", "batch_size"], 0, "train.batch_size: input should be greater than or equal to 1, not 0"),
        (["plan", "seeds"], [1, 1], "seeds names something twice"),
        (["dataset", "name"], "My Data", "dataset.name: string should match pattern"),
        (["filter", "boilerplate"], ["("], "is no regular expression"),
        (["train", "max_steps"], 5, "warmup_steps"),
    ],
)
def test_mistakes_are_named(values: dict[str, Any], path: list[str], value: Any, message: str) -> None:
    section = values
    for name in path[:-1]:
        section = section[name]
    section[path[-1]] = value
    with pytest.raises(ConfigError) as caught:
        load(values, where="config.yaml")
    assert message in str(caught.value) and str(caught.value).startswith("config.yaml")


def test_a_missing_section_is_named(values: dict[str, Any]) -> None:
    del values["source"]
    with pytest.raises(ConfigError, match=r"config.yaml: source: this key is required"):
        load(values)


def test_identity_is_what_differs_from_the_defaults() -> None:
    spelled_out = parse(FineCLIPConfig, {"relaxed": {"detach_crops": False}, "weights": {"global": 0.5}}, where="x")
    assert identity(spelled_out) == {"weights": {"global": 0.5}}
    assert identity(FineCLIPConfig()) == {}
    detector = {"engine": "yolo", "weights": {"shipped": "detector.pt"}, "iou": 0.5}
    assert identity(parse(YoloDetect, detector, where="x")) == {"engine": "yolo", "weights": {"shipped": "detector.pt"}}


def test_overlays_merge_maps_and_replace_lists() -> None:
    assert merge({"a": {"b": 1, "c": [1, 2]}}, {"a": {"c": [3]}, "d": 4}) == {"a": {"b": 1, "c": [3]}, "d": 4}


def test_weights_have_one_origin() -> None:
    for weights in ({}, {"shipped": "x", "hub": "y", "revision": "z"}, {"hub": "y"}, {"shipped": "../x"}):
        with pytest.raises(ConfigError):
            parse(YoloDetect, {"engine": "yolo", "weights": weights}, where="x")


def test_configuration_is_frozen(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(values).train.batch_size = 3  # type: ignore[misc]


def test_labels_of_regions_are_not_looked_for_among_nouns(values: dict[str, Any]) -> None:
    values["plan"]["methods"], values["concepts"] = ["regionclip"], {"from": "captions"}
    with pytest.raises(ConfigError, match=r"run regionclip-\S+ takes the labels .* Set concepts.from: labels"):
        load(values)
    values["methods"]["regionclip"] = {"targets": "pseudo"}
    assert load(values).concepts.least == 100

"""Errors of a configuration name place and value; an identity holds the keys that differ from the defaults."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from fineclip.config import FineCLIPConfig, YoloDetect, load, merge, parse, read_files
from fineclip.errors import ConfigError
from fineclip.identity import identity

ROOT = Path(__file__).parents[2]


@pytest.fixture
def values() -> dict[str, Any]:
    return deepcopy(yaml.safe_load((ROOT / "config.yaml").read_text()))


def test_runs_of_a_plan(values: dict[str, Any]) -> None:
    values["plan"] |= {"scales": [500, 2000], "methods": ["clip", "fineclip"], "seeds": [0, 7], "encoders": ["mini"]}
    runs = load(values).runs()
    assert next(iter(runs)) == "pretrained-mini"
    assert "fineclip-mini-2000-s7" in runs and len(runs) == 1 + 2 * 2 * 2
    assert runs["clip-mini-500-s0"].scale == "500"


def test_a_variant_is_a_separate_run(values: dict[str, Any]) -> None:
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
    assert options.train_text == config.methods.fineclip.train_text  # not overridden
    assert config.training(variant) == config.train.model_copy(update={"learning_rate": 0.1})


@pytest.mark.parametrize(
    ("path", "value", "facts"),
    [
        (
            ["variants"],
            {"x": {"method": "clip", "options": {"weights": {}}}},
            ["variants.x.options: weights: unknown key"],
        ),
        (["filter", "min_sid_px"], 3, ["filter.min_sid_px: unknown key", "filter.min_side_px?"]),
        (
            ["detect", "yolov9t.mini", "confidnce"],
            0.2,
            ["detect.yolov9t.mini.confidnce: unknown key", "detect.yolov9t.mini.confidence?"],
        ),
        (["filter", "nothing_like_it"], 3, ["filter.nothing_like_it: unknown key", "docs/configuration.md"]),
        (
            ["detect", "yolov9t.mini", "image_size"],
            100,
            ["detect.yolov9t.mini.image_size", "multiple of 32", "96", "128"],
        ),
        (["plan", "scales"], ["3000"], ["plan.scales names '3000'", "2000, 500"]),
        (["train", "batch_size"], 0, ["train.batch_size: input should be greater than or equal to 1, not 0"]),
        (["plan", "seeds"], [1, 1], ["plan", "seeds", "1, 1"]),
        (["dataset", "name"], "My Data", ["dataset.name: string should match pattern", "'My Data'"]),
        (["filter", "boilerplate"], ["("], ["filter.boilerplate", "'('", "regular expression"]),
        (["train", "max_steps"], 5, ["warmup_steps (5)", "max_steps (5)"]),
    ],
)
def test_errors_name_place_and_value(values: dict[str, Any], path: list[str], value: Any, facts: list[str]) -> None:
    section = values
    for name in path[:-1]:
        section = section[name]
    section[path[-1]] = value
    with pytest.raises(ConfigError) as caught:
        load(values, where="config.yaml")
    assert str(caught.value).startswith("config.yaml: ")
    assert all(fact in str(caught.value) for fact in facts), str(caught.value)


def test_one_line_per_error(values: dict[str, Any]) -> None:
    values["train"]["epochs"], values["filter"]["min_words"] = 0, -1
    with pytest.raises(ConfigError) as caught:
        load(values, where="mine.yaml")
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["mine.yaml", "filter.min_words"],
        ["mine.yaml", "train.epochs"],
    ]


def test_a_missing_section_is_named(values: dict[str, Any]) -> None:
    del values["source"]
    with pytest.raises(ConfigError, match=r"config.yaml: source: this key is required"):
        load(values)


def test_identity_holds_keys_that_differ_from_defaults() -> None:
    explicit = parse(FineCLIPConfig, {"relaxed": {"detach_crops": False}, "weights": {"global": 0.5}}, where="x")
    assert identity(explicit) == {"weights": {"global": 0.5}}
    assert identity(FineCLIPConfig()) == {}
    detector = {"engine": "yolo", "weights": {"shipped": "detector.pt"}, "iou": 0.5}
    assert identity(parse(YoloDetect, detector, where="x")) == {"engine": "yolo", "weights": {"shipped": "detector.pt"}}


def test_overlays_merge_maps_and_replace_lists() -> None:
    assert merge({"a": {"b": 1, "c": [1, 2]}}, {"a": {"c": [3]}, "d": 4}) == {"a": {"b": 1, "c": [3]}, "d": 4}


@pytest.mark.parametrize(("content", "fact"), [(None, "No such file"), ("a: [", "YAML"), ("- a", "map")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: str | None, fact: str) -> None:
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=rf"mine\.yaml.*{fact}"):
        read_files([ROOT / "config.yaml", path])


def test_files_are_merged_from_left_to_right(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("train: {epochs: 3, batch_size: 8}\n")
    (tmp_path / "b.yaml").write_text("train: {epochs: 4}\n")
    assert read_files([tmp_path / "a.yaml", tmp_path / "b.yaml"]) == {"train": {"epochs": 4, "batch_size": 8}}


def test_region_labels_are_not_searched_in_captions(values: dict[str, Any]) -> None:
    values["plan"]["methods"], values["concepts"] = ["regionclip"], {"from": "captions"}
    with pytest.raises(ConfigError, match=r"concepts.from.*run regionclip-\S+.*targets: labels"):
        load(values)
    values["methods"]["regionclip"] = {"targets": "pseudo"}
    assert load(values).concepts.from_ == "captions"


@pytest.mark.parametrize("content", [b"dataset: {name: caf\xe9}\n", b"\0\0", b"\xff\xfe\0"])
def test_a_configuration_of_another_encoding_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"c\.yaml: is not valid YAML"):
        read_files([tmp_path / "c.yaml"])


def test_a_configuration_in_utf_16(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes("dataset: {name: café}\n".encode("utf-16"))
    assert read_files([tmp_path / "c.yaml"]) == {"dataset": {"name": "café"}}

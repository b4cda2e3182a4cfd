"""Runs have their own seed, scale, encoder, method and variant; cache keys hold the keys that change a result."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from fineclip.config import Config, TrainConfig, load, merge
from fineclip.config.methods import MethodsConfig
from fineclip.errors import ConfigError
from fineclip.plan import Plan

ROOT = Path(__file__).parents[2]
TABLE: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "keys.yaml").read_text())
METHODS = {name: info.annotation.__name__ for name, info in MethodsConfig.model_fields.items()}  # type: ignore[union-attr]


@pytest.fixture
def values() -> dict[str, Any]:
    return deepcopy(yaml.safe_load((ROOT / "config.yaml").read_text()))


def dumped(section: BaseModel) -> dict[str, Any]:
    return section.model_dump(mode="json", by_alias=True)


def differences(one: BaseModel, other: BaseModel) -> set[str]:
    return {name for name, value in dumped(one).items() if dumped(other)[name] != value}


def alternatives(section: str) -> dict[str, dict[str, Any]]:
    """Return, for each key, another valid value together with the keys that it needs."""
    return {
        key: row.get("given", {}) | {key: row["valid"][0]}
        for key, row in TABLE[section].items()
        if key != "base" and "valid" in row
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": {"batch_size": 1}}, r"train\.batch_size: 1, but run clip-mini-500-s0 needs at least 2 images"),
        ({"scales": {"500": {"images": 1}}}, r"scales\.500\.images: 1, but run clip-mini-500-s0 needs at least 2 images"),
        ({"train": {"batch_size": 1}, "plan": {"methods": ["fineclip"]}}, "run fineclip-mini-500-s0 needs at least 2"),
        (
            {"train": {"batch_size": 1}, "plan": {"methods": ["regionclip"]},
             "methods": {"regionclip": {"targets": "pseudo"}}},
            "run regionclip-mini-500-s0 needs at least 2",
        ),
        (
            {"plan": {"methods": [], "variants": ["one"]},
             "variants": {"one": {"method": "clip", "train": {"batch_size": 1}}}},
            "run clip-mini-500-one-s0 needs at least 2",
        ),
        ({"train": {"batch_size": 28}, "plan": {"methods": ["clim"]}}, "at least 29 images .*one set of mosaics"),
        ({"scales": {"500": {"images": 28}}, "plan": {"methods": ["clim"]}}, r"scales\.500\.images: 28"),
    ],
)  # fmt: skip
def test_a_step_too_small_for_its_method_is_refused(
    values: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    base = {"train": {"warmup_steps": 0}, "plan": {"methods": ["clip"], "scales": ["500"]}}
    with pytest.raises(ConfigError, match=message):
        load(merge(merge(_text_keys(values), base), change))


@pytest.mark.parametrize("options", [{"methods": ["clipself"]}, {"methods": ["regionclip"]}])
def test_a_step_of_one_image_is_enough_without_negatives(values: dict[str, Any], options: dict[str, Any]) -> None:
    change = {"train": {"batch_size": 1}, "plan": {"scales": ["500"], **options}}
    assert load(merge(_text_keys(values), change)).train.batch_size == 1


def _text_keys(values: dict[str, Any]) -> dict[str, Any]:
    return values | {"scales": {str(name): section for name, section in values["scales"].items()}}


def test_a_run_has_the_seed_of_the_plan(values: dict[str, Any]) -> None:
    values["train"]["seed"] = 3  # overridden by plan.seeds
    values["plan"] |= {"methods": ["clip"], "seeds": [7, 0], "scales": [500]}
    config = load(values)
    assert {name: run.seed for name, run in config.runs().items() if run.method} == {
        "clip-mini-500-s7": 7,
        "clip-mini-500-s0": 0,
    }
    for run in config.runs().values():
        if run.method:
            assert config.training(run).seed == run.seed
            assert differences(config.training(run), config.train) == {"seed"}


def test_a_variant_has_the_seed_of_the_plan(values: dict[str, Any]) -> None:
    values["variants"] = {"slow": {"method": "clip", "train": {"learning_rate": 0.1, "seed": 5}}}
    values["plan"] |= {"methods": [], "variants": ["slow"], "seeds": [7], "scales": [500]}
    config = load(values)
    training = config.training(config.runs()["clip-mini-500-slow-s7"])
    assert (training.seed, training.learning_rate) == (7, 0.1)


def test_every_run_has_its_encoder_method_scale_seed_and_variant(values: dict[str, Any]) -> None:
    values["encoders"]["other"] = values["encoders"]["mini"] | {"image_size": 192}
    values["variants"] = {"alone": {"method": "fineclip", "options": {"weights": {"global": 0}}}}
    values["plan"] |= {
        "encoders": ["mini", "other"],
        "scales": [500, 2000],
        "methods": ["clip", "clipself"],
        "variants": ["alone"],
        "seeds": [0, 7],
    }
    runs = load(values).runs()
    assert list(runs)[:2] == ["pretrained-mini", "pretrained-other"]
    assert [(run.encoder, run.method, run.scale, run.variant) for run in list(runs.values())[:2]] == [
        ("mini", None, None, None),
        ("other", None, None, None),
    ]
    wanted = {
        f"{method}-{encoder}-{scale}{'-alone' if variant else ''}-s{seed}": (encoder, method, scale, seed, variant)
        for scale in ("500", "2000")
        for method, variant in (("clip", None), ("clipself", None), ("fineclip", "alone"))
        for encoder in ("mini", "other")
        for seed in (0, 7)
    }
    assert {name: tuple(run)[1:] for name, run in runs.items() if run.method} == wanted
    assert all(name == run.id for name, run in runs.items())


@pytest.mark.parametrize("key", [key for key in alternatives("TrainConfig") if key != "seed"])
def test_a_variant_overrides_one_training_key_only(values: dict[str, Any], key: str) -> None:
    values["train"] = {"max_regions": 3, "warmup_steps": 0}
    chosen = alternatives("TrainConfig")[key]
    values["variants"] = {"other": {"method": "clip", "train": chosen}}
    values["plan"] |= {"methods": ["clip"], "variants": ["other"], "scales": [500], "seeds": [7]}
    config = load(values)
    usual = config.training(config.runs()["clip-mini-500-s7"])
    other = config.training(config.runs()["clip-mini-500-other-s7"])
    assert differences(usual, other) == {key}
    assert other == TrainConfig.model_validate(values["train"] | chosen | {"seed": 7})


@pytest.mark.parametrize(
    ("method", "key"), [(method, key) for method, section in METHODS.items() for key in alternatives(section)]
)
def test_a_variant_overrides_one_option_only(values: dict[str, Any], method: str, key: str) -> None:
    chosen = alternatives(METHODS[method])[key]
    beside = {name: value for name, value in chosen.items() if name != key}
    values["methods"] = {method: {"unlocked_blocks": 3} | beside}
    values["variants"] = {"other": {"method": method, "options": chosen}}
    values["plan"] |= {"methods": [method], "variants": ["other"], "scales": [500], "seeds": [0]}
    config = load(values)
    usual = config.options(config.runs()[f"{method}-mini-500-s0"])
    other = config.options(config.runs()[f"{method}-mini-500-other-s0"])
    assert usual == getattr(config.methods, method)
    assert type(other) is type(usual) and differences(usual, other) == {key}


def planned(values: dict[str, Any]) -> dict[tuple[str, ...], str]:
    """Return the cache key of each planned job, by stage and names."""
    plan = Plan(load(values))
    config = plan.config
    jobs: dict[tuple[str, ...], dict[str, str]] = {
        ("source",): {},
        ("filter",): {},
        ("concepts",): {},
        ("pack",): {},
        ("detect",): {"regions": config.regions},
        ("caption",): {"captions": config.captions},
    }
    jobs |= {("select", scale): {"scale": scale} for scale in config.plan.scales}
    jobs |= {("texts", encoder): {"encoder": encoder} for encoder in config.planned_encoders}
    jobs |= {("weights", *pair): {"kind": pair[0], "name": pair[1]} for pair in plan.needed_weights()}
    jobs |= {("train" if run.method else "pretrained", name): {"run": name} for name, run in plan.runs.items()}
    for benchmark in plan.benchmarks:
        jobs |= {("index", benchmark): {"benchmark": benchmark}}
    jobs |= {("evaluate",): {}}
    return {job: plan.key(job[0], **names) for job, names in jobs.items()} | {("report",): plan.key("report")}


def changed_stages(values: dict[str, Any], *path: str, **chosen: Any) -> set[str]:
    """Return the stages with a job whose cache key differs after a change of keys."""
    before = planned(values)
    section = values
    for name in path:
        section = section.setdefault(name, {})
    section |= chosen
    after = planned(values)
    return {job[0] for job in before.keys() & after.keys() if before[job] != after[job]}


@pytest.mark.parametrize("key", alternatives("RuntimeConfig"))
def test_runtime_keys_are_not_part_of_a_cache_key(values: dict[str, Any], key: str) -> None:
    assert changed_stages(values, "runtime", **alternatives("RuntimeConfig")[key]) == set()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scales", [500]),
        ("methods", ["clip"]),
        ("seeds", [0, 7]),
        ("expected_keep_rate", 0.9),
        ("shard_margin", 0.5),
    ],
)
def test_plan_keys_are_part_of_the_report_only(values: dict[str, Any], key: str, value: Any) -> None:
    assert changed_stages(values, "plan", **{key: value}) == {"report"}


def test_an_evaluation_has_the_planned_benchmarks(values: dict[str, Any]) -> None:
    assert changed_stages(values, "plan", benchmarks=["boxes"]) == {"evaluate", "report"}


@pytest.mark.parametrize(
    ("key", "value", "stages"),
    [
        ("expected_keep_rate", 0.9, {"report"}),
        ("shard_margin", 0.5, {"report"}),
        ("images", 400, {"select", "report"}),
        ("allow_fewer", True, {"select", "report"}),
    ],
)
def test_scale_keys_in_the_cache_key_of_select(values: dict[str, Any], key: str, value: Any, stages: set[str]) -> None:
    values["scales"] = {str(name): scale for name, scale in values["scales"].items()}
    assert changed_stages(values, "scales", "500", **{key: value}) == stages


SECTIONS = [
    (("source",), "MiniatureSource", {"source"}),
    (("filter",), "FilterConfig", {"filter"}),
    (("select",), "SelectConfig", {"select"}),
    (("concepts",), "ConceptsConfig", {"concepts"}),
    (("detect", "yolov9t.mini"), "YoloDetect", {"detect"}),
    (("caption", "blip2.mini"), "Blip2Caption", {"caption"}),
    (("encoders", "mini"), "EncoderConfig", {"texts", "train", "pretrained"}),
    (("train",), "TrainConfig", {"train"}),
    (("loader",), "LoaderConfig", {"train"}),
    *((("methods", method), section, {"train"}) for method, section in METHODS.items()),
    (("benchmarks", "boxes"), "BoxesBenchmark", {"index", "evaluate"}),
    (("benchmarks", "retrieval"), "RetrievalBenchmark", {"index", "evaluate"}),
]
SEED = ("TrainConfig", "seed")  # each run takes its seed from plan.seeds


@pytest.mark.parametrize(
    ("path", "section", "key", "stages"),
    [
        pytest.param(path, section, key, stages, id=f"{'.'.join(path)}.{key}")
        for path, section, stages in SECTIONS
        for key in alternatives(section)
        if (section, key) != SEED
    ],
)
def test_each_key_is_part_of_the_cache_keys_of_its_jobs(
    values: dict[str, Any], path: tuple[str, ...], section: str, key: str, stages: set[str]
) -> None:
    values["train"] = {"warmup_steps": 0}
    values["methods"] = {}
    values["plan"] |= {"methods": ["clip"] if key == "from" else ["clip", "fineclip", "regionclip", "clipself"]}
    if path == ("methods", "clim"):
        values["plan"]["methods"] = ["clim"]
    chosen = alternatives(section)[key]
    at_its_default = values
    for name in path:
        at_its_default = at_its_default.setdefault(name, {})
    if "default" in TABLE[section][key] and key != "tokenizer":
        at_its_default.pop(key, None)
    own_weights = {"weights"} if key in ("weights", "tokenizer") and path[0] != "methods" else set()
    assert changed_stages(values, *path, **chosen) == stages | own_weights | {"report"}


def test_a_substitute_encoder_gets_images_of_its_own_size(values: dict[str, Any]) -> None:
    values["benchmarks"]["boxes"]["image_size"] = 224
    assert load(values).benchmark("boxes").image_size == 224
    values["substitutes"] = {"encoder": "mini"}
    config = load(values)
    assert config.benchmark("boxes").image_size is None
    assert differences(config.benchmark("boxes"), config.benchmarks["boxes"]) == {"image_size"}


def test_substitutes_replace_models_with_downloaded_weights(values: dict[str, Any]) -> None:
    values["detect"] |= {
        "big": {"engine": "yolo", "weights": {"path": "x.pt"}},
        "own": {"engine": "annotations"},
        "released": {"engine": "boxes_json", "path": "x.json"},
    }
    values["caption"] |= {
        "big": {"engine": "blip2", "weights": {"path": "x"}},
        "released": {"engine": "captions_json", "path": "x.json"},
    }
    values["encoders"]["big"] = {"model": "ViT-B-16", "weights": {"path": "x.pt"}}
    values["substitutes"] = {"detect": "yolov9t.mini", "caption": "blip2.mini", "encoder": "mini"}
    for regions, expected in (("big", "yolov9t.mini"), ("own", "own"), ("released", "released")):
        values["plan"] |= {"regions": regions, "encoders": ["big"]}
        assert load(values).regions == expected
    for captions, expected in (("big", "blip2.mini"), ("template", "template"), ("released", "released")):
        values["plan"] |= {"captions": captions}
        assert load(values).captions == expected
    assert load(values).planned_encoders == ("mini",) and "pretrained-mini" in load(values).runs()
    del values["substitutes"]
    values["plan"] |= {"regions": "big", "captions": "big"}
    config = load(values)
    assert (config.regions, config.captions, config.planned_encoders) == ("big", "big", ("big",))


ABSENT = [
    (("plan", "scales"), ["x"]),
    (("plan", "regions"), "x"),
    (("plan", "captions"), "x"),
    (("plan", "encoders"), ["mini", "x"]),
    (("plan", "methods"), ["x"]),
    (("plan", "variants"), ["x"]),
    (("plan", "benchmarks"), ["boxes", "x"]),
    (("select", "exclude"), ["x"]),
    (("substitutes", "detect"), "x"),
    (("substitutes", "caption"), "x"),
    (("substitutes", "encoder"), "x"),
    (("variants", "mine", "method"), "x"),
]


@pytest.mark.parametrize(("path", "value"), ABSENT, ids=lambda part: ".".join(part) if isinstance(part, tuple) else "")
def test_an_unknown_entry_is_an_error(values: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    load(values)
    section = values
    for name in path[:-1]:
        section = section.setdefault(name, {})
    section[path[-1]] = value
    with pytest.raises(ConfigError, match=rf"{'.'.join(path)} names 'x'"):
        load(values)


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"loader": {"crops": "device", "image_backend": "pillow"}}, ["crops: device", "pillow"]),
        ({"train": {"max_steps": 10, "warmup_steps": 10}}, ["warmup_steps (10)", "max_steps (10)"]),
        ({"methods": {"clipself": {"train_text": True}}}, ["methods.clipself", "train_text: true"]),
        ({"methods": {"regionclip": {"train_text": True}}}, ["methods.regionclip", "train_text: true"]),
        (
            {"methods": {"regionclip": {"train_text": True, "targets": "pseudo", "weights": {"global": 0}}}},
            ["methods.regionclip", "train_text: true"],
        ),
        (
            {
                "methods": {
                    "regionclip": {"targets": "pseudo", "weights": {"global": 0, "distill": 0, "contrast": 0}},
                }
            },
            ["methods.regionclip", "all are 0"],
        ),
        ({"plan": {"methods": ["clim"]}, "train": {"batch_size": 28}}, ["train.batch_size: 28", "clim-mini-", "29"]),
        (
            {"plan": {"methods": ["regionclip"]}, "concepts": {"from": "captions"}},
            ["concepts.from", "regionclip-mini-"],
        ),
        (
            {"source": {"kind": "coco", "root": "x", "captions": None, "instances": None}},
            ["source", "captions", "instances"],
        ),
        (
            {"variants": {"mine": {"method": "clip", "options": {"crop_scale": 2}}}},
            ["variants.mine.options", "crop_scale"],
        ),
        ({"variants": {"mine": {"method": "clip", "train": {"epochs": 0}}}}, ["variants.mine.train", "epochs"]),
        ({"variants": {"mine": {"method": "clipself", "options": {"train_text": True}}}}, ["variants.mine.options"]),
        (
            {
                "variants": {"few": {"method": "clim", "train": {"batch_size": 28}}},
                "plan": {"variants": ["few"]},
            },
            ["train.batch_size: 28", "clim-mini-500-few"],
        ),
        ({"scales": {"a-b": {}}}, ["scales", "a-b"]),
        ({"encoders": {"A": {}}}, ["encoders", "A"]),
    ],
)
def test_conflicting_keys_are_errors(values: dict[str, Any], changes: dict[str, Any], facts: list[str]) -> None:
    for section, keys in changes.items():
        values[section] = keys if section == "source" else values.get(section, {}) | keys
    with pytest.raises(ConfigError) as caught:
        load(values)
    assert all(fact in str(caught.value) for fact in facts), str(caught.value)


def test_the_smallest_batch_of_clim_is_valid(values: dict[str, Any]) -> None:
    values["plan"]["methods"], values["train"]["batch_size"] = ["clim"], 29  # 2 x 2 + 3 x 3 + 4 x 4
    assert isinstance(load(values), Config)


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"shipped": "x", "hub": "y", "revision": "z"},
        {"shipped": "x", "url": "https://y"},
        {"hub": "x", "revision": "z", "url": "https://y"},
        {"hub": "y"},
        {"revision": "z"},
    ],
)
def test_weights_have_one_origin(values: dict[str, Any], weights: dict[str, str]) -> None:
    values["encoders"]["mini"]["weights"] = weights
    with pytest.raises(ConfigError, match=r"encoders.mini.weights"):
        load(values)

"""The pages on adding a method and a stage: every code block runs, and does what the page says, with the package as it is.

A block has the path of its file as title. New files are written to a folder that is added to the path of their package;
additions to files that exist are executed in a copy of the names of the module.
"""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from pydantic import BaseModel, create_model

import fineclip.methods
import fineclip.stages
from fineclip.cli.main import parser
from fineclip.config import Config, MethodsConfig, data, methods, parse, root
from fineclip.errors import ConfigError
from fineclip.methods import METHODS
from fineclip.plan import Plan
from fineclip.shards import read_manifest, read_rows, tables
from fineclip.stages import declaration
from fineclip.stages.declaration import stages
from fineclip.train.grad_cache import GradCache, MicroBatchSizes
from fineclip.train.train import train
from tests.helpers.images import encoded
from tests.helpers.methods import made, outcome_of
from tests.helpers.packs import write_world
from tests.helpers.stages import Item, write_filtered
from tests.helpers.tiny import batch_of
from tests.helpers.training import lines_of, training_of, weights_of
from tests.helpers.verbs import done
from tests.versions import cases_methods, cases_stages_source, registry

ROOT = Path(__file__).parents[2]
NUMBERS = {"Six": 6, "Eight": 8, "three": 3, "four": 4}


def text_of(name: str) -> str:
    return (ROOT / f"docs/{name}.md").read_text(encoding="utf-8")


def blocks(name: str) -> dict[str, str]:
    """Return the code blocks of a page by the path in their title."""
    found = re.findall(r'^```\w+ title="(.+?)"\n(.*?)^```', text_of(name), re.DOTALL | re.MULTILINE)
    assert len({path for path, _ in found}) == len(found) == text_of(name).count("\n```") // 2
    return dict(found)


METHOD, STAGE = blocks("adding_a_method"), blocks("adding_a_stage")


def added(code: str, module: ModuleType) -> dict[str, Any]:
    """Return the names that code adds to a module, or changes in it. The module stays as it is."""
    names = dict(vars(module))
    exec(compile(code, str(module.__file__), "exec"), names)
    return {name: value for name, value in names.items() if value is not vars(module).get(name)}


def extended(model: type[BaseModel], more: type[BaseModel]) -> Any:
    """Return the model with the fields of another one."""
    fields: Any = {name: (info.annotation, info) for name, info in more.model_fields.items()}
    return create_model(model.__name__, __base__=model, **fields)


def page_tests(code: str) -> dict[str, Callable[..., None]]:
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(code, "page", "exec"), names)
    return {name: value for name, value in names.items() if name.startswith("test_")}


def assert_keys(code: str, section: type[BaseModel]) -> dict[str, Any]:
    """Defaults and values of the page hold for the section; return what the page lists besides."""
    rows = yaml.safe_load(code)
    listed = rows.pop(section.__name__)
    assert listed.keys() == section.model_fields.keys()
    for name, row in listed.items():
        assert getattr(section(), name) == row["default"]
        for value in row["valid"]:
            assert getattr(parse(section, {name: value}, where="x"), name) == value
        for value in row["invalid"]:
            with pytest.raises(ConfigError):
                parse(section, {name: value}, where="x")
    return rows


def write_module(
    package: ModuleType, name: str, code: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Let `<package>.<name>` be importable from a folder, and forget it afterwards."""
    folder.mkdir()
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    yield
    sys.modules.pop(f"{package.__name__}.{name}", None)
    vars(package).pop(name, None)


@pytest.fixture
def regiontext(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The section of the example, with file and section where the page puts them."""
    names = added(METHOD["fineclip/config/methods.py"], methods)
    assert set(names) == {"RegionTextConfig", "MethodsConfig"}
    sections = extended(MethodsConfig, names["MethodsConfig"])
    monkeypatch.setattr(methods, "RegionTextConfig", names["RegionTextConfig"], raising=False)
    monkeypatch.setattr(fineclip.methods, "MethodsConfig", sections)
    [*others, name] = sections.model_fields
    assert others == list(METHODS)
    code = METHOD[f"fineclip/methods/{name}.py"]
    module = write_module(fineclip.methods, name, code, tmp_path / "methods", monkeypatch)
    next(module)
    monkeypatch.setitem(METHODS, name, fineclip.methods._method_class(name))
    yield names["RegionTextConfig"]
    next(module, None)


@pytest.fixture
def color(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The configuration with the section of the example, with module, row and section where the page puts them."""
    for place, module in (("fineclip/config/data.py", data), ("fineclip/shards/tables.py", tables)):
        [(name, value)] = added(STAGE[place], module).items()
        monkeypatch.setattr(module, name, value, raising=False)
    monkeypatch.setattr(root, "ColorConfig", data.ColorConfig, raising=False)  # type: ignore[attr-defined]
    config = extended(Config, added(STAGE["fineclip/config/root.py"], root)["Config"])
    stages()  # every stage of the package is declared before the tables of declarations are copied
    for name in ("_DECLARED", "_FUNCTIONS"):
        monkeypatch.setattr(declaration, name, dict(getattr(declaration, name)))
    module = write_module(fineclip.stages, "color", STAGE["fineclip/stages/color.py"], tmp_path / "stages", monkeypatch)
    next(module)
    stages.cache_clear()
    yield config
    stages.cache_clear()
    next(module, None)


@pytest.mark.parametrize(("page", "own"), [("adding_a_method", METHOD), ("adding_a_stage", STAGE)])
def test_the_number_of_places_is_that_of_the_table(page: str, own: dict[str, str]) -> None:
    by_hand, made_by_tool = re.search(
        r"^(\w+) files are edited by hand, and (\w+) are generated", text_of(page), re.M
    ).groups()  # type: ignore[union-attr]
    rows = re.findall(r"^\| (\d*) ?\| (`.+?) \| ", text_of(page), re.M)
    assert [number for number, _ in rows if number] == [str(one + 1) for one in range(NUMBERS[by_hand])]
    generated = [path for number, paths in rows if not number for path in re.findall(r"`(.+?)`", paths)]
    assert len(generated) == NUMBERS[made_by_tool]
    places = [paths for number, paths in rows if number]
    for path in own:
        assert any(
            re.sub(r"<\w+>", Path(path).stem.removeprefix("test_"), place).startswith(f"`{path}`") for place in places
        ), path
    for path in re.findall(r"`([^`<]+/[^`<]+)`", " ".join([*places, *generated])):
        assert (ROOT / path).is_file(), path


def test_the_method_is_found_by_its_section(regiontext: Any) -> None:
    method = METHODS["regiontext"]
    assert (method.__name__, method.config_type, method.version) == ("RegionText", regiontext, 1)
    assert regiontext.__name__ == f"{method.__name__}Config"


def test_the_keys_of_the_method_are_listed(regiontext: Any) -> None:
    [(name, row)] = assert_keys(METHOD["tests/config/keys.yaml"], regiontext)["MethodsConfig"].items()
    for value in row["valid"]:
        parse(fineclip.methods.MethodsConfig.model_fields[name].annotation, value, where="x")


@pytest.mark.usefixtures("regiontext")
def test_the_tests_of_the_method_pass() -> None:
    found = page_tests(METHOD["tests/methods/test_regiontext.py"])
    assert len(found) == 2
    for test in found.values():
        test()


@pytest.mark.usefixtures("regiontext")
def test_micro_batches_of_the_method_equal_the_batch() -> None:
    batch = batch_of([2, 0, 1, 3])
    values, gradients = outcome_of(made("regiontext", {"train_text": True}), batch)
    split = made("regiontext", {"train_text": True})
    same, found = outcome_of(split, batch, GradCache(split, MicroBatchSizes(images=1)))
    assert same == pytest.approx(values)
    for name, gradient in gradients.items():
        if gradient is not None:
            torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("regiontext")
def test_the_method_is_trained(tmp_path: Path) -> None:
    world = write_world(tmp_path / "world", {"a": 4, "b": 4})
    training = training_of(world, tmp_path / "run", method="regiontext", epochs=1, log_every_steps=1)
    before = weights_of(training)
    train(training)
    after = weights_of(training)
    assert {name for name in after if not torch.equal(before[name], after[name])} >= {"encoder.visual.proj"}
    assert torch.equal(before["encoder.text_projection"], after["encoder.text_projection"])
    assert all(line["region"] > 0 for line in lines_of(tmp_path / "run/metrics.jsonl"))
    assert len(lines_of(tmp_path / "run/metrics.jsonl")) == 2


@pytest.mark.usefixtures("regiontext")
def test_the_output_of_the_method_can_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_CASES", {})
    added(METHOD["tests/versions/cases_methods.py"], cases_methods)
    output = registry._CASES["methods.regiontext"].output()
    assert set(output) == {"default", "letterboxed"}
    for variant in output.values():
        assert variant["losses"]["region"] > 0


def test_the_stage_has_a_place_and_a_verb(color: Any) -> None:
    order = list(stages())
    assert order.index("color") > order.index("filter")
    [verbs] = [action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)]
    assert {"--filter", "--manifest", "--config"} <= set(verbs.choices["color"]._option_string_actions)
    key = json.loads(plan_of(color, min_saturation=0.25).key("color", shard="s"))
    assert key == {"version": 1, "min_saturation": 0.25}
    assert "| `color` | `gray` |" in declaration.markdown()


def plan_of(config: Any, **section: Any) -> Plan:
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    return Plan(parse(config, {**values, "color": section}, where="test"))


def test_the_stage_writes_a_table_once(color: Any, tmp_path: Path) -> None:
    images = [encoded(color=1), encoded(color=0)]
    kept = write_filtered(tmp_path, [Item(image) for image in images])
    manifest, key = tmp_path / "color/s.json", json.loads(plan_of(color).key("color", shard="s"))
    words = ("--filter", str(kept), "--manifest", str(manifest))
    assert "up to date" not in done(tmp_path, "color", *words, config=key)
    rows = list(read_rows(manifest, tables.ColorRow))  # type: ignore[attr-defined]
    assert [(row.kept, row.reason) for row in rows] == [(True, None), (False, "gray")]
    found = read_manifest(manifest)
    assert (found.stage, found.read, found.kept, found.dropped) == ("color", 2, 1, {"gray": 1})
    written = manifest.with_suffix(".parquet").stat().st_mtime_ns
    assert "up to date" in done(tmp_path, "color", *words, config=key)
    assert manifest.with_suffix(".parquet").stat().st_mtime_ns == written
    assert "up to date" not in done(tmp_path, "color", *words, config=key | {"min_saturation": 0})
    assert read_manifest(manifest).kept == 2


@pytest.mark.usefixtures("color")
def test_the_tests_of_the_stage_pass(tmp_path: Path) -> None:
    [test] = page_tests(STAGE["tests/stages/test_color.py"]).values()
    test(tmp_path)


@pytest.mark.usefixtures("color")
def test_the_keys_of_the_stage_are_listed() -> None:
    assert assert_keys(STAGE["tests/config/keys.yaml"], data.ColorConfig) == {}  # type: ignore[attr-defined]


@pytest.mark.usefixtures("color")
def test_the_output_of_the_stage_can_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_CASES", {})
    added(STAGE["tests/versions/cases_stages_source.py"], cases_stages_source)
    assert registry._CASES["stages.color"].output()["dropped"] == {"gray": 1}


@pytest.mark.usefixtures("color")
def test_the_rule_calls_the_verb() -> None:
    rule = STAGE["workflow/rules/source.smk"]
    [command] = re.findall(r"exec python -m fineclip (.*?)\"\"\"", rule, re.DOTALL)
    filled = command.replace("\\\n", " ").replace("{params.config:q}", "'{}'")
    options = parser().parse_args(shlex.split(re.sub(r"{([\w.]+):q}", r"\1", filled)))
    assert (options.kept, options.manifest) == (Path("input.kept"), Path("output.manifest"))
    assert 'job_key("color")' in rule
    for path in ("filter", "color"):
        assert f'"data/{{dataset}}/{path}/{{shard}}.json"' in rule

"""What every stage, method and benchmark puts out is what was recorded for its VERSION; and that would be noticed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.versions import record, registry
from tests.versions.registry import COMMAND, RECORDED, Case, cases, complaint, differences, versions

NOW = versions()
FILTER = "stages.filter"


@pytest.mark.parametrize("module", NOW)
def test_the_output_is_that_recorded_for_the_version(module: str) -> None:
    said = complaint(module, cases(), NOW)
    assert said is None, said


def test_nothing_is_recorded_of_what_states_no_version() -> None:
    assert {path.stem for path in RECORDED.glob("*.json")} <= NOW.keys()
    assert cases().keys() <= NOW.keys(), "a case stands for a module that states no VERSION"


def test_methods_and_benchmarks_state_a_version() -> None:
    from fineclip.evals.benchmarks import KINDS
    from fineclip.methods import METHODS

    assert {f"methods.{name}" for name in METHODS} <= NOW.keys()
    assert {f"evals.benchmarks.{name}" for name in KINDS} <= NOW.keys()


def test_a_changed_constant_of_a_stage_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from fineclip.stages import filter as module

    monkeypatch.setattr(module, "RULES", module.RULES[1:])  # headers that cannot be read are no longer a reason
    said = complaint(FILTER, cases(), NOW)
    assert said
    assert said.startswith("the output of stages.filter changed:\n  output.limits.dropped.")
    assert 'rows[2].reason: "unreadable" was recorded, now "too-small"' in said
    assert "raise VERSION in fineclip/stages/filter.py" in said
    assert f"run `{COMMAND}`" in said


def test_a_raised_version_wants_a_new_record() -> None:
    said = complaint(FILTER, cases(), NOW | {FILTER: NOW[FILTER] + 1})
    assert said
    assert f"and the code says {{'version': {NOW[FILTER] + 1}" in said
    assert f"Run `{COMMAND} {FILTER}`" in said
    below = complaint("stages.select", cases(), NOW | {FILTER: NOW[FILTER] + 1})
    assert below
    assert f"Run `{COMMAND} stages.select`" in below


def test_a_module_without_a_case_wants_one() -> None:
    said = complaint("stages.select", {}, NOW)
    assert said
    assert said.startswith("fineclip/stages/select.py states a VERSION, but nothing is recorded")


def test_versions_are_found_without_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {
        "stages.source",
        "stages.filter",
        "methods.clip",
        "evals.benchmarks.boxes",
        "train.run",
        "report.page",
    } <= NOW.keys()
    assert registry.file_of("stages.source") == "fineclip/stages/source/shard.py"
    monkeypatch.setattr(registry, "PACKAGE", tmp_path)
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/new.py").write_text("VERSION = compute()\n")
    with pytest.raises(Exception, match=r"fineclip\.stages\.new states no VERSION"):
        versions()


@pytest.mark.parametrize(
    ("recorded", "found", "said"),
    [
        ({"a": [1, 2.0]}, {"a": [1, 2.0000001]}, []),
        ({"a": [1, 2.0]}, {"a": [1, 2.1]}, ["output.a[1]: 2.0 was recorded, now 2.1"]),
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": 1}, {"a": True}, ["output.a: 1 was recorded, now true"]),
        ({"a": 7}, {"a": 8}, ["output.a: 7 was recorded, now 8"]),
        ({"a": None}, {"a": 0.0}, ["output.a: null was recorded, now 0.0"]),
        ({"a": 1, "b": 2}, {"b": 2, "c": 3}, ["output.a: is gone", "output.c: is new"]),
        ([1, 2], [1], ["output: 2 values were recorded, now there are 1"]),
        ("one", "two", ['output: "one" was recorded, now "two"']),
        (1.0, float("nan"), ["output: 1.0 was recorded, now NaN"]),
    ],
)
def test_differences_by_hand(recorded: Any, found: Any, said: list[str]) -> None:
    assert list(differences(recorded, found, Case(run=dict, relative=1e-3))) == said


def test_only_loose_places_are_loose() -> None:
    one = Case(run=dict, loose={"yolo": 1.0})
    recorded, found = ({name: {"rows": [value]} for name in ("own", "yolo")} for value in (5.0, 5.5))
    assert list(differences(recorded, found, one)) == ["output.own.rows[0]: 5.0 was recorded, now 5.5"]


@pytest.fixture
def invented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Any], list[str]]:
    """Gives the one module there is a version and an output, records it and returns what the record says."""
    monkeypatch.setattr(registry, "RECORDED", tmp_path)

    def recorded(version: int, output: Any, *arguments: str) -> tuple[int, Any]:
        for name, value in (("cases", {"stages.x": Case(lambda: output)}), ("versions", {"stages.x": version})):
            monkeypatch.setattr(record, name, lambda value=value: value)
        code = record.main(arguments)
        return code, json.loads((tmp_path / "stages.x.json").read_text())

    return recorded


def test_a_record_is_not_written_over_while_its_version_holds(invented: Callable[..., tuple[int, Any]]) -> None:
    first = {"version": 1, "after": {}, "output": [1]}
    assert invented(1, [1]) == (0, first)
    assert invented(1, [2]) == (0, first)  # nothing is due
    assert invented(1, [2], "stages.x") == (2, first)
    assert invented(1, [2], "stages.x", "--case-changed") == (0, first | {"output": [2]})
    assert invented(2, [3]) == (0, {"version": 2, "after": {}, "output": [3]})


def test_a_module_without_a_case_is_said_when_recording(
    invented: Callable[..., tuple[int, Any]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    invented(1, [1])
    monkeypatch.setattr(record, "versions", lambda: {"stages.x": 1, "stages.y": 1})
    assert record.main([]) == 2
    assert "fineclip/stages/y.py states a VERSION and has no case" in caplog.text


def test_a_record_is_laid_out_so_that_it_can_be_read() -> None:
    value = {"a": [{"b": "x" * 90, "c": None}, {"b": "ü" * 90, "c": [1.5, {}]}], "d": {"e": "é"}}
    text = record.laid_out(value)
    assert json.loads(text) == value
    assert len(text.splitlines()) == 7

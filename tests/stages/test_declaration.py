"""Declarations: what the command line, the order of stages and the tables take from them."""

import argparse
from pathlib import Path

import pytest
from pydantic import BaseModel

from fineclip.cli.main import parser
from fineclip.shards import DetectRow, FilterRow, Job, TableWriter
from fineclip.stages import declaration
from fineclip.stages.declaration import Input, Stage, function_of, lineage, markdown, stages
from tests.helpers.verbs import fineclip


def test_every_stage_is_found_and_comes_after_the_stages_that_it_reads() -> None:
    order = list(stages())
    assert set(order) >= {
        "given", "list", "weights", "source", "filter", "select", "detect", "concepts", "caption", "pack", "card", "texts",
    }  # fmt: skip
    for name, declared in stages().items():
        assert name == declared.name
        for needed in declared.inputs.values():
            assert needed.stage == "index" or order.index(needed.stage) < order.index(name)


def test_a_shard_passes_through_the_first_required_inputs() -> None:
    assert lineage("pack") == ("source", "filter", "detect", "caption", "pack")
    assert lineage("source") == ("source",)


def test_every_stage_is_a_verb_with_an_option_for_each_input() -> None:
    [verbs] = [action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)]
    for declared in stages().values():
        options = verbs.choices[declared.verb or declared.name]._option_string_actions
        assert {"--manifest", "--config", "--force", "--log", *(one.flag for one in declared.inputs.values())} <= set(
            options
        )
        assert ("--batch-size" in options) == (declared.batch_size is not None)
    assert set(stages()["detect"].reasons) == {"undecodable", "size-mismatch", "not-listed", "other-size", "turned"}


def test_a_new_stage_needs_its_declaration_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class BlurConfig(BaseModel):
        limit: float = 0.5

    blur = Stage(
        name="blur",
        version=3,
        help="drop blurred images",
        config=BlurConfig,
        section="blur",
        inputs={"kept": Input(stage="filter", reads=(FilterRow,))},
        row=DetectRow,
        reasons={"blurred": "the image is blurred"},
        options={"window": {"type": int, "default": 3}},
        batch_size=4,
    )
    calls = []
    monkeypatch.setattr(declaration, "_DECLARED", dict(declaration._DECLARED))
    monkeypatch.setattr(declaration, "_FUNCTIONS", dict(declaration._FUNCTIONS))
    stages.cache_clear()
    try:
        declaration.stage(blur)(lambda **arguments: calls.append(arguments))
        words = ("--filter", "f.json", "--manifest", "b.json", "--device", "cpu", "--window", "5")
        assert fineclip(tmp_path, "blur", *words, config={"version": 3, "limit": 0.25}).code == 0
        refused = fineclip(tmp_path, "blur", *words, config={"version": 2})
    finally:
        stages.cache_clear()
    assert refused.code == 2 and "version 2" in refused.said and "version 3" in refused.said
    [call] = calls
    assert call.pop("config") == BlurConfig(limit=0.25)
    assert call == {
        "manifest": Path("b.json"), "kept": Path("f.json"), "window": 5, "batch_size": 4, "device": "cpu",
    }  # fmt: skip
    job = blur.job(tmp_path / "b.json", {}, {})
    assert (job.stage, job.version) == ("blur", 3)


def test_a_table_accepts_declared_reasons_only(tmp_path: Path) -> None:
    writer: TableWriter[FilterRow] = TableWriter(
        Job(tmp_path / "x.json", "filter", 1, {}, {}), FilterRow, reasons={"a"}
    )
    row = {"key": "k", "kept": False, "width": 1, "height": 1, "format": None, "sha256": ""}
    writer.write(FilterRow(**row, reason="a"))
    with pytest.raises(AssertionError, match="'b'"):
        writer.write(FilterRow(**row, reason="b"))


def test_the_table_of_a_stage_accepts_the_reasons_of_that_stage_only(tmp_path: Path) -> None:
    declared = stages()["filter"]
    table = declared.table(declared.job(tmp_path / "x.json", {}, {}))
    row = {"key": "k", "kept": False, "width": 1, "height": 1, "format": None, "sha256": ""}
    table.write(FilterRow(**row, reason="duplicate"))
    with pytest.raises(AssertionError, match="stage filter declares no reason 'undecodable'"):
        table.write(FilterRow(**row, reason="undecodable"))


def test_the_docs_hold_the_table_of_the_declarations() -> None:
    page = (Path(__file__).parents[2] / "docs/stages.md").read_text(encoding="utf-8")
    assert page.endswith(f"\n\n{markdown()}"), "run the command that docs/stages.md states"


def test_the_function_of_a_stage_is_that_of_its_module() -> None:
    assert function_of("filter").__module__ == "fineclip.stages.filter"


def test_a_stage_that_reads_from_no_declared_stage_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Stage(name="lost", version=1, help="", config=dict, inputs={"x": Input(stage="nowhere")})
    monkeypatch.setitem(declaration._DECLARED, "lost", lost)
    with pytest.raises(AssertionError, match="lost"):
        declaration.stages.__wrapped__()

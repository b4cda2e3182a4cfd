"""Captions are embedded once where a training asks for it, and by nobody otherwise."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.dag import edit_config, planned, run_all, small_world

ASKED = {"loader": {"cached_texts": True}}


def test_runs_that_need_cached_texts(tmp_path: Path) -> None:
    small_world(tmp_path)
    without = planned(tmp_path, "train")
    assert "texts_shard" not in without
    assert planned(tmp_path, "texts")["texts_shard"] == without["pack_shard"]
    edit_config(tmp_path, ASKED)
    assert planned(tmp_path, "train") == {**without, "texts_shard": without["pack_shard"]}
    edit_config(
        tmp_path, {"methods": {"fineclip": {"train_text": True}}, "plan": {"methods": ["fineclip", "clipself"]}}
    )
    assert "texts_shard" not in planned(tmp_path, "train")


@pytest.mark.slow
def test_a_training_looks_them_up_and_ends_where_it_ended(copy_of_finished: Callable[[], Path]) -> None:
    folder = copy_of_finished()
    before = {path.parent.name: path.read_text() for path in folder.glob("results/small/*/metrics.jsonl")}
    edit_config(folder, ASKED)
    jobs = planned(folder)
    assert jobs == {"texts_shard": 2, "train_run": 4, "evaluate_run": 4, "report": 1}
    run_all(folder)
    assert len(before) == 4
    for run, lines in before.items():
        inputs = json.loads((folder / f"results/small/{run}/train.json").read_text())["inputs"]
        assert any(name.startswith("data/small/texts/mini/annotations.template/") for name in inputs)
        after = (folder / f"results/small/{run}/metrics.jsonl").read_text()
        for one, other in zip(after.splitlines(), lines.splitlines(), strict=True):
            assert json.loads(one) == pytest.approx(json.loads(other), rel=1e-4)
    assert planned(folder) == {}

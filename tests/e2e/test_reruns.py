"""An edit plans what it changes and nothing else; the same bytes made again stop the wave."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.dag import edit_config, planned, results_of, run_all, snakemake

pytestmark = pytest.mark.slow

Copy = Callable[[], Path]
EVERYTHING_AFTER_CAPTION = {"caption_shard", "pack_shard", "data_card", "train_run", "evaluate_run", "report"}


def test_a_finished_workflow_plans_no_job(finished_world: Path) -> None:
    assert planned(finished_world) == {}


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        ({"caption": {"template": {"template": "a {label}"}}}, EVERYTHING_AFTER_CAPTION),
        ({"detect": {"annotations": {"max_regions": 2}}}, EVERYTHING_AFTER_CAPTION | {"detect_shard"}),
        ({"runtime": {"num_workers": 3, "detect_batch_size": 5, "devices": [0], "crop_micro_batch_size": 2}}, set()),
        ({"plan": {"shard_margin": 0.01}}, {"report"}),  # which states the plan
        ({"methods": {"fineclip": {"relaxed": {"detach_crops": False}}}}, {"train_run", "evaluate_run", "report"}),
        (
            {"benchmarks": {"boxes": {"prompts": "vild"}}},
            {"index_benchmark", "select_scale", "train_run", "evaluate_run", "report"},
        ),
    ],
    ids=["caption", "detect", "runtime", "shard_margin", "method", "benchmark"],
)
def test_an_edit_plans_what_it_changes(copy_of_finished: Copy, change: dict[str, Any], rules: set[str]) -> None:
    folder = copy_of_finished()
    edit_config(folder, change)
    assert set(planned(folder)) == rules


def test_editing_a_method_plans_its_runs_only(copy_of_finished: Copy) -> None:
    folder = copy_of_finished()
    edit_config(folder, {"methods": {"fineclip": {"relaxed": {"detach_crops": False}}}})
    jobs = planned(folder)
    assert jobs == {"train_run": 2, "evaluate_run": 2, "report": 1}


def test_a_method_that_needs_concepts_plans_them_and_its_runs(copy_of_finished: Copy) -> None:
    folder = copy_of_finished()
    edit_config(folder, {"concepts": {"max_concepts": 5}})
    assert planned(folder) == {"report": 1}  # no run asks for any
    edit_config(folder, {"plan": {"methods": ["clip", "fineclip", "regionclip"]}})
    assert planned(folder) == {"concepts_scale": 2, "train_run": 2, "evaluate_run": 2, "report": 1}
    assert planned(folder, "concepts") == {"concepts_scale": 2}


def test_a_new_scale_plans_only_what_is_new(copy_of_finished: Copy) -> None:
    folder = copy_of_finished()
    edit_config(folder, {"scales": {"30": {"images": 30}}, "plan": {"scales": ["10", "20", "30"]}})
    jobs = planned(folder)
    assert jobs["source_shard"] == jobs["filter_shard"] == jobs["detect_shard"] == jobs["pack_shard"] == 1
    assert jobs["select_scale"] == 1 and jobs["train_run"] == 2 and jobs["evaluate_run"] == 2


def test_a_larger_margin_makes_new_shards_and_trains_nothing_again(copy_of_finished: Copy) -> None:
    folder = copy_of_finished()
    before = results_of(folder)
    edit_config(folder, {"scales": {"20": {"images": 20, "shard_margin": 0.5}}})
    assert planned(folder)["detect_shard"] == 1
    run_all(folder)
    after = results_of(folder)
    changed = {name for name, digest in before.items() if after[name] != digest}
    assert changed == {"data/small/pack/annotations.template/card.json"}
    log = (folder / "logs/small/train/fineclip-mini-20-s0.log").read_text()
    assert "up to date" in log


def test_a_deleted_manifest_is_rebuilt_and_nothing_after_it_works(copy_of_finished: Copy) -> None:
    folder = copy_of_finished()
    before, written = results_of(folder), times_of_data(folder)
    (folder / "data/small/detect/annotations/coco-0001.json").unlink()
    assert planned(folder)["detect_shard"] == 1
    run_all(folder)
    assert results_of(folder) == before
    assert times_of_data(folder) == written
    assert planned(folder) == {}


def times_of_data(folder: Path) -> dict[str, int]:
    """When each table, tar and weights file was written."""
    kinds = (".parquet", ".tar", ".safetensors")
    files = (path for top in ("data", "results") for path in (folder / top).rglob("*") if path.suffix in kinds)
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in files}


def test_a_damaged_table_comes_back(copy_of_finished: Copy) -> None:
    folder = copy_of_finished()
    before = results_of(folder)
    (folder / "data/small/detect/annotations/coco-0001.parquet").write_bytes(b"damaged")
    (folder / "data/small/detect/annotations/coco-0001.json").unlink()
    run_all(folder)
    assert results_of(folder) == before


@pytest.mark.parametrize(
    "target",
    [
        "source",
        "filter",
        "index",
        "select",
        "detect",
        "caption",
        "pack",
        "card",
        "data",
        "weights",
        "train",
        "evaluate",
        "report",
    ],
)
def test_every_stage_can_be_asked_for_alone(finished_world: Path, target: str) -> None:
    assert planned(finished_world, target) == {}
    forced = planned(finished_world, target, "--forceall")
    assert forced, f"{target} asks for nothing"
    if target == "detect":
        assert set(forced) == {"index_source", "check_dataset", "source_shard", "filter_shard", "detect_shard"}


def test_a_wrong_key_stops_before_the_first_job(copy_of_finished: Copy) -> None:
    folder = copy_of_finished()
    edit_config(folder, {"filter": {"min_sid_px": 3}})
    done = snakemake(folder)
    assert done.returncode == 2
    assert "filter.min_sid_px: unknown key, did you mean filter.min_side_px?" in done.stderr
    assert "Traceback" not in done.stderr

"""Scores become tables and sentences: means by hand, best cells, one protocol per table."""

import math

import pytest

from fineclip.config import Run
from fineclip.report.formatting import duration, listed, memory, metric_parts, percent, phrase
from fineclip.report.headline import main_finding
from fineclip.report.result_files import Result, ScoreRecord
from fineclip.report.runs import RunRecord
from fineclip.report.score_tables import Table, aggregate, score_tables
from fineclip.report.sections import what_was_run
from tests.report.world import config_of

IMAGES = {"500": 500, "2000": 2000}
NBSP = "\u00a0"


def record(method: str | None, scale: str | None, seed: int = 0, *, chance: float = 5.0, **scores: float) -> RunRecord:
    """A run with scores on the benchmark `boxes`; `things_top1=3` is things/top1."""
    result = Result(
        benchmark="boxes",
        version=1,
        scores=tuple(ScoreRecord(metric=name.replace("_", "/"), value=value, n=10) for name, value in scores.items()),
        chance={name.replace("_", "/"): chance for name in scores},
    )
    name = f"{method}-mini-{scale}-s{seed}" if method else "pretrained-mini"
    return RunRecord(Run(name, "mini", method, scale, seed), None, "", {"boxes": result}, ())


def tables_of(*records: RunRecord) -> tuple[Table, ...]:
    return score_tables(config_of(), records, IMAGES)


def test_seeds_are_averaged_and_spread_is_their_standard_deviation() -> None:
    cell = aggregate([10.0, 12.0, 17.0])
    assert cell.mean == 13.0
    assert cell.spread == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    assert (cell.low, cell.high) == (10.0, 17.0)
    assert aggregate([4.0]).spread is None


def test_rows_are_chance_untrained_then_methods_by_scale() -> None:
    (table,) = tables_of(
        record(None, None, things_top1=10.0),
        record("clip", "500", things_top1=11.0),
        record("fineclip", "500", things_top1=16.0),
        record("clip", "2000", things_top1=12.0),
        record("fineclip", "2000", 0, things_top1=26.0),
        record("fineclip", "2000", 1, things_top1=27.0),
    )
    rows = [(line.kind, line.method, line.images, line.seeds) for line in table.lines]
    assert rows == [
        ("chance", None, None, 0),
        ("untrained", None, None, 1),
        ("trained", "clip", 500, 1),
        ("trained", "clip", 2000, 1),
        ("trained", "fineclip", 500, 1),
        ("trained", "fineclip", 2000, 2),
    ]
    assert [table.is_best(line, "things/top1") for line in table.lines] == [False] * 5 + [True]
    assert table.lines[-1].cells["things/top1"].mean == 26.5
    assert table.cases == {"things/top1": (10, 10)}


def test_chance_is_never_the_best_and_ties_as_shown_share_it() -> None:
    (table,) = tables_of(
        record(None, None, things_top1=10.04, chance=99.0), record("clip", "500", things_top1=10.01, chance=99.0)
    )
    assert [table.is_best(line, "things/top1") for line in table.lines] == [False, True, True]


def test_protocols_that_differ_never_share_a_table() -> None:
    first = record("clip", "500", things_top1=1.0)
    for change in ({"version": 2}, {"config": {"prompts": "vild"}}, {"config": {"image_size": 224}}):
        other = record("fineclip", "500", things_top1=2.0)
        changed = other.results["boxes"].model_copy(update=change)
        tables = tables_of(first, RunRecord(other.run, None, "", {"boxes": changed}, ()))
        assert [len(table.lines) for table in tables] == [2, 2], change  # a method and chance each


def test_the_finding_starts_with_the_best_method() -> None:
    finding = main_finding(
        tables_of(
            record(None, None, things_top1=30.0),
            record("clip", "2000", things_top1=20.0),
            record("fineclip", "2000", things_top1=15.0),
        )
    )
    assert (
        finding.sentence.replace(NBSP, " ")
        == "CLIP names 20.0 % of the things in their boxes, FineCLIP 15.0 %, the pretrained encoder 30.0 %, chance 5.0 %."
    )
    assert finding.more == ()


def test_finding_compares_at_one_scale() -> None:
    finding = main_finding(
        tables_of(
            record("clip", "500", things_top1=11.0),
            record("fineclip", "500", things_top1=16.0),
            record("fineclip", "2000", things_top1=26.0),
        )
    )
    assert [(line.name, score) for line, score in finding.bars] == [("FineCLIP", 16.0), ("CLIP", 11.0), ("chance", 5.0)]
    assert finding.images == 500
    assert finding.more == (f"From 500 to 2,000 images FineCLIP rises from 16.0{NBSP}% to 26.0{NBSP}%.",)


def test_the_finding_without_trained_runs() -> None:
    assert main_finding(()).sentence == "There are no scores yet."
    untrained = main_finding(tables_of(record(None, None, all_top1=8.0)))
    assert untrained.sentence.replace(NBSP, " ") == (
        "The pretrained encoder names 8.0 % of what is in the boxes, chance 5.0 %."
    )
    other = main_finding(tables_of(record("clip", "500", masks_iou=8.0)))
    assert other.sentence.replace(NBSP, " ") == "CLIP reaches 8.0 % in masks, iou, chance 5.0 %."


def test_growth_may_fall() -> None:
    finding = main_finding(tables_of(record("clip", "500", things_top1=11.0), record("clip", "2000", things_top1=9.0)))
    assert finding.more == (f"From 500 to 2,000 images CLIP falls from 11.0{NBSP}% to 9.0{NBSP}%.",)


def test_the_plan_in_one_sentence() -> None:
    assert what_was_run(config_of()) == (
        "CLIP and FineCLIP, trained from mini on 500 and 2,000 images of tiny with one seed;"
        " boxes by annotations, their captions by template."
    )


def test_wording() -> None:
    assert percent(26.649) == f"26.6{NBSP}%"
    assert [duration(s).replace(NBSP, " ") for s in (0.43, 9.96, 59.4, 59.6, 200, 18_720)] == [
        "0.4 s",
        "10 s",
        "59 s",
        "1 min 00 s",
        "3 min 20 s",
        "5 h 12 min",
    ]
    assert [memory(mb).replace(NBSP, " ") for mb in (640.2, 1700)] == ["640 MB", "1.7 GB"]
    assert [listed(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert metric_parts("image_to_text/R@1") == ("image to text", "R@1")
    assert metric_parts("accuracy") == ("", "accuracy")
    assert phrase("things/top1", 5).replace(NBSP, " ") == "names 5.0 % of the things in their boxes"

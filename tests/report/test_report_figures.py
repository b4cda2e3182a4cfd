"""Charts: round ticks, labels that do not overlap, escaped texts; readers of metrics, tables and logs."""

import json
from pathlib import Path

import pytest

from fineclip.report.charts import leading, term_css, terms_of
from fineclip.report.costs import read_job
from fineclip.report.formatting import method_css
from fineclip.report.line_chart import Chart, Point, Series, line_chart, nice_ticks, spread_apart, thinned
from fineclip.report.result_files import last_lines
from fineclip.report.runs import read_steps
from fineclip.report.samples import describe_bytes, evenly


def test_ticks_are_round_and_reach_over_the_highest_value() -> None:
    assert nice_ticks(26.6) == [0, 10, 20, 30]
    assert nice_ticks(100) == [0, 20, 40, 60, 80, 100]
    assert nice_ticks(0.23) == [0, 0.05, 0.1, 0.15, 0.2, 0.25]
    assert nice_ticks(0) == [0, 1]


def test_labels_keep_their_order_and_their_distance() -> None:
    assert spread_apart([50, 10, 52], 14, low=0, high=100) == [50, 10, 64]
    assert spread_apart([95, 99, 5], 14, low=0, high=100) == [86, 100, 5]
    assert spread_apart([], 14, low=0, high=100) == []


def test_thinning_keeps_the_mean_and_the_end() -> None:
    points = [(float(x), float(x % 2)) for x in range(1001)]
    few = thinned(points, 100)
    assert len(few) <= 100
    assert few[-1] == points[-1]
    assert few[10] == (114.5, 0.5)
    assert thinned(points[:50], 100) == points[:50]


def test_a_chart_draws_what_it_is_given_and_escapes_it() -> None:
    points = (Point(500, 10, 9, 11, "<b>one</b>"), Point(2000, 20, 20, 20, "two"))
    chart = Chart(
        title="t",
        note="",
        summary='a "quoted" <summary>',
        x_label="images",
        y_label="%",
        series=(Series("chance", "chance 5.0", 5), Series("m1", "a<b 20", 20, (points,), has_marks=True)),
        log_ticks=(500, 2000),
    )
    svg = line_chart(chart)
    assert svg.count("<circle") == 2
    assert svg.count('class="whisker') == 1
    assert svg.count('class="reference') == 1
    assert "a&lt;b 20" in svg
    assert "&lt;b&gt;one" in svg
    assert "<summary>" not in svg


def test_charts_of_one_point_and_of_none() -> None:
    series = Series("m1", "a", 3, ((Point(7, 3, 3, 3),),), has_marks=True)
    one = Chart("t", "n", "s", "x", "%", (series,), log_ticks=(7,))
    assert "nan" not in line_chart(one)
    assert line_chart(one).count("<circle") == 1
    assert "<svg" in line_chart(Chart("t", "n", "s", "x", "%", ()))


def test_methods_and_terms_keep_their_colors() -> None:
    assert (method_css("clip"), method_css("fineclip")) == ("m1", "m2")
    assert term_css(["global", "total", "region"]) == {"total": "total", "global": "t1", "region": "t2"}
    step = {"step": 1.0, "epoch": 0.1, "global": 2.0, "total": 2.0}
    assert terms_of([[step]]) == ["global"]
    assert terms_of([[step | {"region": 1.0}]]) == ["total", "global", "region"]
    assert leading(["things/top1", "things/top5", "all/top1", "plain"]) == ["things/top1", "all/top1", "plain"]


def test_evenly_spaced_items() -> None:
    assert evenly(list(range(10)), 2) == [2, 7]
    assert evenly([1, 2], 5) == [1, 2]
    assert evenly([], 5) == []


def test_metrics_of_a_stopped_and_resumed_run(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [
        json.dumps({"step": step, "total": value}) for step, value in ((1, 5.0), (2, 4.0), (3, 9.0), (2, 4.5), (3, 3.0))
    ]
    path.write_text("\n".join(lines) + '\n{"step": 4, "to')
    assert [(step["step"], step["total"]) for step in read_steps(path)] == [(1, 5.0), (2, 4.5), (3, 3.0)]
    lines = [json.dumps({"step": step, "total": value}) for step, value in ((1, 5.0), (4, 4.0), (2, 3.0), (4, 2.0))]
    path.write_text("\n".join(lines))
    assert [(step["step"], step["total"]) for step in read_steps(path)] == [(1, 5.0), (2, 3.0), (4, 2.0)]
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_steps(path)


def test_a_job_too_short_to_measure(tmp_path: Path) -> None:
    path = tmp_path / "job.tsv"
    path.write_text("s\th:m:s\tmax_rss\tcpu_time\n0.11\t0:00:00\t-\tNA\n")
    job = read_job(path)
    assert (job.wall_s, job.cpu_s, job.peak_mb) == (0.11, None, None)
    path.write_text("nothing\n")
    with pytest.raises(ValueError, match="not a benchmark table"):
        read_job(path)


def test_the_end_of_a_log(tmp_path: Path) -> None:
    path = tmp_path / "job.log"
    path.write_bytes(b"one\n\n\x1b[31mtwo\x1b[0m\r\n 1%\r 50%\r100%\nbad \xff byte\n")
    assert last_lines(path, lines=3) == "two\n100%\nbad \ufffd byte"
    assert last_lines(tmp_path / "absent.log") == ""


def test_bytes_that_are_not_an_image_are_described() -> None:
    assert describe_bytes(b"", "why") == "an empty file"
    assert describe_bytes(b"<!DOCTYPE html><html>", "why").startswith("text instead of an image: <!DOCTYPE html>")
    assert describe_bytes(b"\x00\x01\x02", "no header of JPEG") == "no header of JPEG"

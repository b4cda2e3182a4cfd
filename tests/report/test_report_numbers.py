"""Every number of the page, computed by hand from small manifests whose counts all differ."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fineclip.config import Config, Run
from fineclip.plan import Plan
from fineclip.report.charts import loss_charts, scale_charts
from fineclip.report.costs import Job as TimedJob
from fineclip.report.costs import collect_costs, read_job, stage_cost
from fineclip.report.formatting import count, duration, memory, percent, plural
from fineclip.report.funnel import Funnel, Scale, collect_funnel, note_absent, planned_shards
from fineclip.report.headline import main_finding
from fineclip.report.line_chart import line_chart
from fineclip.report.page import collect_report, render
from fineclip.report.result_files import Result, ResultFiles, ScoreRecord
from fineclip.report.runs import RunRecord, collect_runs
from fineclip.report.samples import KeptTile
from fineclip.report.score_tables import score_tables
from fineclip.shards import Job, Manifest, sha256_of
from fineclip.types import Box, Region, Sample
from tests.helpers.verbs import fineclip
from tests.report.world import World, config_of, write_metrics, write_scores

NBSP = "\u00a0"
SHARDS = ("miniature-0000", "miniature-0001")
CAPTIONS = "annotations.template"
STAGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # two shards each; no number stands twice in a stage
    "source": ({"read": 30, "kept": 29, "dropped": {"no-image": 1}}, {"read": 31, "kept": 27, "dropped": {"no-image": 4}}),
    "filter": (
        {"read": 29, "kept": 20, "dropped": {"too-small": 2, "duplicate": 7}},
        {"read": 27, "kept": 13, "dropped": {"too-small": 1, "unreadable": 13}},
    ),
    "detect": (
        {"read": 20, "kept": 19, "dropped": {"undecodable": 1}, "regions": 57},
        {"read": 13, "kept": 12, "dropped": {"undecodable": 1}, "regions": 34},
    ),
    "caption": (
        {"read": 19, "kept": 19, "regions": 57, "uncaptioned": {"empty": 2, "too-long": 1}},
        {"read": 12, "kept": 12, "regions": 34, "uncaptioned": {"empty": 5}},
    ),
    "pack": (
        {"read": 19, "kept": 18, "dropped": {"undecodable": 1}, "regions": 50},
        {"read": 12, "kept": 9, "dropped": {"undecodable": 3}, "regions": 30},
    ),
}  # fmt: skip


class Page(HTMLParser):
    """The rows of each table by its class, the list of large figures, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.figures: list[str] = []
        self._rows: list[list[str]] = []
        self._open = ""
        self._words: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._rows = self.tables.setdefault(dict(attrs)["class"] or "", [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th", "dd"):
            self._open, self._words = tag, []

    def handle_data(self, data: str) -> None:
        self._words.append(data)
        self.text = f"{self.text} {data.strip()}" if data.strip() else self.text

    def handle_endtag(self, tag: str) -> None:
        if tag == self._open:
            words = " ".join("".join(self._words).split())
            (self.figures if tag == "dd" else self._rows[-1]).append(words)
            self._open = ""


@pytest.fixture
def bare(tmp_path: Path) -> World:
    """Manifests without data: two shards of five stages, a scale that is short of its images and one that is not."""
    world = World(tmp_path, config_of(seeds=[3, 5]))
    for stage, shards in STAGES.items():
        for name, counts in zip(SHARDS, shards, strict=True):
            write_manifest(folder_of(world, stage) / f"{name}.json", stage, **counts)
    select = world.root / "data" / world.name / "select"
    write_manifest(select / "500.json", "select", read=43, kept=37, dropped={"repeated": 2, "in-benchmark": 4})
    write_manifest(select / "2000.json", "select", read=2009, kept=2000, dropped={"in-benchmark": 9})
    return world


def folder_of(world: World, stage: str) -> Path:
    inside = {"detect": ["annotations"], "caption": [CAPTIONS], "pack": [CAPTIONS]}.get(stage, [])
    return world.root.joinpath("data", world.name, stage, *inside)


def write_manifest(path: Path, stage: str, **counts: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Job(path, stage, 1, {}, {}).finish([], **counts)


def funnel_of(world: World) -> tuple[Funnel, ResultFiles]:
    files = ResultFiles(world.root, world.name)
    return collect_funnel(world.config, files), files


def test_each_stage_counts_its_own_shards(bare: World) -> None:
    funnel, files = funnel_of(bare)
    counted = {
        s.stage: (s.read, s.kept, dict(s.dropped), s.regions, sum(s.uncaptioned.values()), s.found, len(funnel.shards))
        for s in funnel.stages.values()
    }
    assert counted == {
        "source": (61, 56, {"no-image": 5}, 0, 0, 2, 2),
        "filter": (56, 33, {"unreadable": 13, "duplicate": 7, "too-small": 3}, 0, 0, 2, 2),
        "detect": (33, 31, {"undecodable": 2}, 91, 0, 2, 2),
        "caption": (31, 31, {}, 91, 8, 2, 2),
        "pack": (31, 27, {"undecodable": 4}, 80, 0, 2, 2),
    }  # fmt: skip
    assert list(counted) == ["source", "filter", "detect", "caption", "pack"]
    assert list(funnel.stages["filter"].dropped) == ["unreadable", "duplicate", "too-small"]  # the most frequent first
    assert files.problems == []


def test_a_scale_has_the_images_that_it_kept_and_not_those_that_were_wanted(bare: World) -> None:
    funnel, _ = funnel_of(bare)
    assert [(s.name, s.wanted, s.kept, dict(s.dropped), s.images) for s in funnel.scales] == [
        ("500", 500, 37, {"repeated": 2, "in-benchmark": 4}, 37),
        ("2000", 2000, 2000, {"in-benchmark": 9}, 2000),
    ]
    assert Scale("all", None, 12, {}).images == 12
    assert Scale("500", 500, None, {}).images == 500
    assert Scale("500", 500, 0, {}).images == 0
    assert Scale("all", None, None, {}).images is None


def test_the_kept_images_are_the_size_in_tables_charts_and_sentences(bare: World) -> None:
    write_runs(bare)
    report = collect_report(bare.config, bare.root)
    sizes = [line.images for line in report.tables[0].lines if line.kind == "trained"]
    assert sizes == [37, 2000, 37, 2000]
    assert [chart.title for chart in report.losses] == [
        f"{method} \N{MIDDLE DOT} {size} images" for method in ("CLIP", "FineCLIP") for size in ("37", "2,000")
    ]
    assert report.finding.more[0].startswith("From 37 to 2,000 images FineCLIP rises from ")
    page = Page(render(report))
    assert page.tables["scales"][1:] == [
        ["500", "37", "500", "in benchmark 4, repeated 2"],
        ["2000", "2,000", "2,000", "in benchmark 9"],
    ]


def test_the_figures_at_the_top(bare: World) -> None:
    """Packed samples and regions, of what came in first; regions without a caption are those of the stage caption."""
    page = Page(render(collect_report(bare.config, bare.root)))
    assert page.figures[:6] == [
        "27",
        "of 61 that came in",
        "80",
        "3.0 an image; 8 without a caption",
        "0",
        "of 9 planned",
    ]


def test_a_shard_without_a_manifest_is_not_counted_and_is_named(bare: World) -> None:
    (folder_of(bare, "detect") / f"{SHARDS[1]}.json").unlink()
    (bare.root / f"data/{bare.name}/select/500.json").unlink()
    funnel, files = funnel_of(bare)
    detect = funnel.stages["detect"]
    assert (detect.read, detect.kept, detect.regions, detect.found, len(funnel.shards)) == (20, 19, 57, 1, 2)
    assert funnel.stages["caption"].found == 2
    assert (funnel.scales[0].kept, funnel.scales[0].images) == (None, 500)
    assert [problem.what for problem in files.problems] == [
        f"data/{bare.name}/select/500.json", f"data/{bare.name}/detect/annotations",
    ]  # fmt: skip
    assert "1 of 2" in files.problems[1].why
    assert SHARDS[1] in files.problems[1].why
    assert SHARDS[0] not in files.problems[1].why
    page = Page(render(collect_report(bare.config, bare.root)))
    assert "1 of 2 shards" in page.text
    assert page.tables["scales"][1] == ["500", "\u2013", "500", "not drawn yet"]


def test_a_damaged_manifest_is_not_counted_as_found(bare: World) -> None:
    (folder_of(bare, "filter") / f"{SHARDS[1]}.json").write_text("{")
    funnel, files = funnel_of(bare)
    stage = funnel.stages["filter"]
    assert (stage.read, stage.kept, dict(stage.dropped), stage.found, len(funnel.shards)) == (
        29,
        20,
        {"duplicate": 7, "too-small": 2},
        1,
        2,
    )
    assert [problem.what for problem in files.problems] == [f"data/{bare.name}/filter/{SHARDS[1]}.json"]


def test_a_problem_is_noted_once(tmp_path: Path) -> None:
    files = ResultFiles(tmp_path, "tiny")
    for why in ("is missing", "is damaged", "is missing"):
        files.note("a.json", why)
    assert [problem.why for problem in files.problems] == ["is missing", "is damaged"]


def test_absent_shards_are_named_up_to_a_limit(tmp_path: Path) -> None:
    paths = [tmp_path / f"data/tiny/pack/{CAPTIONS}/shard-{n}.json" for n in range(6)]
    log = tmp_path / f"logs/tiny/pack/{CAPTIONS}/shard-2.log"
    log.parent.mkdir(parents=True)
    log.write_text("why\n")
    files = ResultFiles(tmp_path, "tiny")
    note_absent(paths, of=9, files=files)
    (problem,) = files.problems
    assert "6 of 9 shards" in problem.why
    assert "shard-0, shard-1, shard-2, shard-3 and 2 more" in problem.why
    assert (problem.log_path, problem.log_tail) == (f"logs/tiny/pack/{CAPTIONS}/shard-2.log", "why")


def test_the_shards_that_the_largest_scale_needs(tmp_path: Path) -> None:
    """1,000 images of 100 a shard: 120 of 0.5 kept with a tenth to spare are 264, three shards; 40 alone are one."""
    source = {"kind": "miniature", "images": 1000, "images_per_shard": 100}

    def names(*scales: str, **keys: float) -> tuple[str, ...]:
        values = config_of().model_dump(by_alias=True)
        values |= {
            "source": source,
            "scales": {"small": {"images": 40}, "large": {"images": 120}, "all": {"images": None}},
        }
        values["scales"]["large"] |= keys
        values["plan"] |= {"scales": list(scales), "expected_keep_rate": 0.5, "shard_margin": 0.1}
        return planned_shards(Config.model_validate(values), tmp_path, otherwise=tmp_path)

    assert len(names("small")) == 1
    assert names("small", "large") == names("large", "small") == tuple(f"miniature-{n:04d}" for n in range(3))
    assert len(names("large", shard_margin=1.0)) == 5
    assert len(names("large", expected_keep_rate=0.2)) == 7
    assert len(names("small", "all")) == 10


def test_units_and_digits() -> None:
    shown = {mb: memory(mb).replace(NBSP, " ") for mb in (0.4, 999.4, 1000, 1049, 2560, 81_920)}
    assert shown == {
        0.4: "0 MB", 999.4: "999 MB", 1000: "1.0 GB", 1049: "1.0 GB", 2560: "2.6 GB", 81_920: "81.9 GB",
    }  # fmt: skip
    assert [duration(s).replace(NBSP, " ") for s in (0, 9.94, 9.95, 60, 3599.4, 3600, 90_061)] == [
        "0.0 s", "9.9 s", "10 s", "1 min 00 s", "59 min 59 s", "1 h 00 min", "25 h 01 min",
    ]  # fmt: skip
    assert (percent(0.25), percent(100), percent(99.96)) == (f"0.2{NBSP}%", f"100.0{NBSP}%", f"100.0{NBSP}%")
    assert (count(999), count(25_010)) == ("999", "25,010")
    assert (plural(0, "image"), plural(1, "image"), plural(1200, "image")) == ("0 images", "1 image", "1,200 images")


def test_costs_add_seconds_and_take_the_most_memory() -> None:
    jobs = [TimedJob(10.0, 7.0, 300.0), TimedJob(40.0, None, 900.0), TimedJob(20.0, 36.0, None)]
    cost = stage_cost("train", jobs)
    assert (cost.stage, cost.jobs, cost.wall_s, cost.longest_s, cost.cpu_s, cost.peak_mb) == (
        "train",
        3,
        70.0,
        40.0,
        43.0,
        900.0,
    )


def write_timing(world: World, name: str, *, wall_s: float, cpu_s: float, peak_mb: float, after: str = "") -> None:
    path = world.root / "logs" / world.name / f"{name}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time"
    line = f"{wall_s}\t0:00:01\t{peak_mb}\t99999\t88888\t77777\t1\t2\t55\t{cpu_s}"
    path.write_text("\n".join([columns, *([after] if after else []), line]) + "\n")


def test_the_table_of_costs(bare: World) -> None:
    """Stages in the order of the work; jobs of other regions, captions and runs are not of this plan."""
    write_timing(bare, "train/clip-mini-500-s3", wall_s=100, cpu_s=180, peak_mb=2500)
    write_timing(bare, "train/clip-mini-2000-s5", wall_s=300, cpu_s=500, peak_mb=1500)
    write_timing(bare, "train/clip-mini-500-s0", wall_s=7000, cpu_s=7000, peak_mb=70_000)
    write_timing(bare, "evaluate/clip-mini-500-s3", wall_s=20, cpu_s=30, peak_mb=640)
    write_timing(bare, "evaluate/clip-mini-500-s0", wall_s=7000, cpu_s=7000, peak_mb=70_000)
    write_timing(bare, "detect/annotations/miniature-0000", wall_s=4, cpu_s=3, peak_mb=200)
    write_timing(bare, "detect/yolov9/miniature-0000", wall_s=7000, cpu_s=7000, peak_mb=70_000)
    write_timing(bare, f"caption/{CAPTIONS}/miniature-0000", wall_s=5, cpu_s=6, peak_mb=100)
    write_timing(bare, "caption/annotations.blip2/miniature-0000", wall_s=7000, cpu_s=7000, peak_mb=70_000)
    write_timing(bare, f"texts/mini/{CAPTIONS}/miniature-0000", wall_s=2, cpu_s=1, peak_mb=50)
    write_timing(bare, f"texts/other/{CAPTIONS}/miniature-0000", wall_s=7000, cpu_s=7000, peak_mb=70_000)
    write_timing(bare, "zzz/1", wall_s=1, cpu_s=1, peak_mb=10)
    report = collect_report(bare.config, bare.root)
    page = Page(render(report))
    assert [[cell.replace(NBSP, " ") for cell in row] for row in page.tables["cost"]] == [
        ["stage", "jobs", "CPU time", "", "wall time", "longest job", "peak memory"],
        ["detect", "1", "3.0 s", "", "4.0 s", "4.0 s", "200 MB"],
        ["caption", "1", "6.0 s", "", "5.0 s", "5.0 s", "100 MB"],
        ["texts", "1", "1.0 s", "", "2.0 s", "2.0 s", "50 MB"],
        ["train", "2", "11 min 20 s", "", "6 min 40 s", "5 min 00 s", "2.5 GB"],
        ["evaluate", "1", "30 s", "", "20 s", "20 s", "640 MB"],
        ["zzz", "1", "1.0 s", "", "1.0 s", "1.0 s", "10 MB"],
        ["together", "7", "12 min 01 s", "", "7 min 12 s", "5 min 00 s", "2.5 GB"],
    ]
    assert [figure.replace(NBSP, " ") for figure in page.figures[6:8]] == ["12 min 01 s", "in 7 jobs"]
    assert [cost.stage for cost in collect_costs(bare.config, ResultFiles(bare.root, bare.name))] == [
        "detect", "caption", "texts", "train", "evaluate", "zzz",
    ]  # fmt: skip


def test_a_job_is_timed_by_its_last_line(bare: World) -> None:
    write_timing(bare, "train/x", wall_s=3, cpu_s=4, peak_mb=5, after="900\t0\t900\t0\t0\t0\t0\t0\t0\t900")
    job = read_job(bare.root / f"logs/{bare.name}/train/x.tsv")
    assert (job.wall_s, job.cpu_s, job.peak_mb) == (3, 4, 5)


def write_runs(world: World) -> None:
    """Every planned run with scores; a training reads 11 images for each of its seed's number and scale's tenth."""
    for run in world.config.runs().values():
        folder = world.root / "results" / world.name / run.id
        folder.mkdir(parents=True)
        images = int(run.scale) // 10 + 11 * run.seed if run.scale else 0
        Job(folder / "train.json", "train", 1, {}, {}).finish([], read=images + 1, kept=images, dropped={"lost": 1})
        if run.method:
            write_metrics(folder / "metrics.jsonl", run.method, steps=30, wobble=run.seed)
            rates = [(2, 10.0), (4, 1000.0), (6, 40.0 + run.seed)]  # the median is that of the last
            lines = [json.dumps({"step": step, "images_per_second": rate, "peak_memory_mb": 9}) for step, rate in rates]
            (folder / "speed.jsonl").write_text("\n".join(lines) + "\n")
        for benchmark in world.config.plan.benchmarks:
            write_scores(world, run.id, benchmark)


def test_the_table_of_runs(bare: World) -> None:
    write_runs(bare)
    last = json.loads((bare.root / f"results/{bare.name}/clip-mini-500-s3/metrics.jsonl").read_text().splitlines()[-1])
    page = Page(render(collect_report(bare.config, bare.root)))
    rows = page.tables["runs"]
    assert rows[0] == ["run", "state", "steps", "images read", "last loss", "images/s"]
    assert rows[1] == ["pretrained-mini", "done", *["\u2013"] * 4]
    assert rows[2] == ["clip-mini-500-s3", "done", "30", "83", f"{last['total']:.3f}", "43"]
    assert [(row[0], row[3], row[5]) for row in rows[3:]] == [
        ("clip-mini-500-s5", "105", "45"),
        ("fineclip-mini-500-s3", "83", "43"), ("fineclip-mini-500-s5", "105", "45"),
        ("clip-mini-2000-s3", "233", "43"), ("clip-mini-2000-s5", "255", "45"),
        ("fineclip-mini-2000-s3", "233", "43"), ("fineclip-mini-2000-s5", "255", "45"),
    ]  # fmt: skip


@pytest.mark.parametrize("benchmark", ["boxes", "retrieval"])
def test_scores_that_are_not_there_are_named_by_run_and_benchmark(bare: World, benchmark: str) -> None:
    """One absent file, for every run and benchmark in turn; the others keep their scores."""
    write_runs(bare)
    for run in bare.config.runs():
        path = bare.root / f"results/{bare.name}/{run}/evals/{benchmark}.json"
        text = path.read_text()
        path.unlink()
        files = ResultFiles(bare.root, bare.name)
        records = collect_runs(bare.config, files)
        path.write_text(text)
        assert [problem.what for problem in files.problems] == [f"{run} on {benchmark}"]
        absent = [(r.run.id, name) for r in records for name in ("boxes", "retrieval") if name not in r.results]
        assert absent == [(run, benchmark)]


def test_runs_that_have_no_result_are_named_in_the_order_of_the_plan(bare: World) -> None:
    """With the end of their own log and their own message: one failed with a marker, one has metrics, one nothing."""
    write_runs(bare)
    folder, logs = bare.root / "results" / bare.name, bare.root / "logs" / bare.name / "train"
    logs.mkdir(parents=True)
    gone = ("clip-mini-500-s5", "fineclip-mini-500-s3", "pretrained-mini")
    for run in gone:
        (folder / run / "train.json").unlink()
        (logs / f"{run}.log").write_text(f"log of {run}\n")
    (folder / "clip-mini-500-s5/state").mkdir()
    (folder / "clip-mini-500-s5/state/failed.json").write_text('{"message": "the loss is nan at step 7"}')
    files = ResultFiles(bare.root, bare.name)
    records = {r.run.id: r for r in collect_runs(bare.config, files)}
    assert [problem.what for problem in files.problems] == [
        "pretrained-mini",
        "clip-mini-500-s5",
        "fineclip-mini-500-s3",
    ]
    assert [problem.log_tail for problem in files.problems] == [f"log of {problem.what}" for problem in files.problems]
    assert [problem.log_path for problem in files.problems] == [
        f"logs/{bare.name}/train/{problem.what}.log" for problem in files.problems
    ]
    assert "the loss is nan at step 7" in files.problems[1].why
    assert "nan" not in files.problems[0].why + files.problems[2].why
    assert {run: records[run].state for run in gone} == {
        "pretrained-mini": "missing", "clip-mini-500-s5": "failed", "fineclip-mini-500-s3": "unfinished",
    }  # fmt: skip
    assert {record.state for run, record in records.items() if run not in gone} == {"done"}
    assert all(not records[run].results for run in gone)  # scores of a run that is gone are not shown


def test_a_run_without_a_result_is_one_entry_whether_or_not_it_was_scored(bare: World) -> None:
    write_runs(bare)
    shutil.rmtree(bare.root / f"results/{bare.name}/clip-mini-500-s5")
    files = ResultFiles(bare.root, bare.name)
    collect_runs(bare.config, files)
    assert [problem.what for problem in files.problems] == ["clip-mini-500-s5"]


def test_scores_of_another_run_are_not_taken(bare: World) -> None:
    write_runs(bare)
    folder = bare.root / "results" / bare.name
    manifest = folder / "clip-mini-500-s3/train.json"
    stale = {f"results/{bare.name}/clip-mini-500-s3/train.json": "0" * 64}
    write_scores(bare, "clip-mini-500-s3", "boxes", inputs=stale)
    files = ResultFiles(bare.root, bare.name)
    records = {r.run.id: r for r in collect_runs(bare.config, files)}
    assert list(records["clip-mini-500-s3"].results) == ["retrieval"]
    assert [problem.what for problem in files.problems] == [f"results/{bare.name}/clip-mini-500-s3/evals/boxes.json"]
    assert records["clip-mini-500-s3"].manifest_sha256 == sha256_of(manifest)


def record(run: Run, values: dict[str, float], *, n: int = 10, chance: float = 5.0, **changes: Any) -> RunRecord:
    scores = tuple(ScoreRecord(metric=name, value=value, n=n) for name, value in values.items())
    result = Result(benchmark="boxes", version=1, scores=scores, chance=dict.fromkeys(values, chance), **changes)
    return RunRecord(run, None, "", {"boxes": result}, ())


def two_encoders(*, image_size: int = 96) -> Config:
    values = config_of().model_dump(by_alias=True)
    values["encoders"]["big"] = values["encoders"]["mini"] | {"image_size": image_size}
    values["plan"] |= {"encoders": ["mini", "big"], "methods": ["clip"], "seeds": [0, 1, 2]}
    return Config.model_validate(values)


def test_seeds_are_averaged_within_one_method_encoder_and_scale() -> None:
    """Values whose mean tells which runs went into it: 1, 2, 4 in one row, 10, 20, 40 in the next, and so on."""
    config, records = two_encoders(), []
    rows = [("mini", "500"), ("mini", "2000"), ("big", "500"), ("big", "2000")]
    for power, (encoder, scale) in enumerate(rows):
        for seed, value in enumerate((1.0, 2.0, 4.0)):
            run = Run(f"clip-{encoder}-{scale}-s{seed}", encoder, "clip", scale, seed)
            score = value * 10.0**power / 100
            records.append(record(run, {"things/top1": score, "things/top5": score + 0.5}, n=10 + seed))
    records.append(record(Run("pretrained-mini", "mini"), {"things/top1": 3.0, "things/top5": 3.5}))
    (table,) = score_tables(config, records[::-1], {"500": 500, "2000": 2000})
    found = {
        (line.encoder, line.scale): (line.images, line.seeds, *(round(line.cells[m].mean, 6) for m in table.metrics))
        for line in table.lines
        if line.kind == "trained"
    }
    assert found == {
        ("mini", "500"): (500, 3, 0.023333, 0.523333),
        ("mini", "2000"): (2000, 3, 0.233333, 0.733333),
        ("big", "500"): (500, 3, 2.333333, 2.833333),
        ("big", "2000"): (2000, 3, 23.333333, 23.833333),
    }
    cell = next(line for line in table.lines if (line.encoder, line.scale) == ("big", "2000")).cells["things/top1"]
    assert (cell.low, cell.high) == (10.0, 40.0)
    assert cell.spread == pytest.approx(15.275252)
    assert table.cases["things/top1"] == (10, 12)
    chart = scale_charts(table)[0]
    assert chart.note == "n = 10 to 12"


def test_encoders_of_other_sizes_share_no_table_unless_the_benchmark_names_a_size() -> None:
    config = two_encoders(image_size=224)
    runs = [Run(f"pretrained-{name}", name) for name in ("mini", "big")]
    tables = score_tables(config, [record(run, {"things/top1": 3.0}) for run in runs], {})
    assert [(table.protocol.image_size, [line.encoder for line in table.lines[1:]]) for table in tables] == [
        (96, ["mini"]), (224, ["big"]),
    ]  # fmt: skip
    named = [record(run, {"things/top1": 3.0}, config={"image_size": 64}) for run in runs]
    (table,) = score_tables(config, named, {})
    assert (table.protocol.image_size, [line.encoder for line in table.lines[1:]]) == (64, ["mini", "big"])


def test_a_variant_is_a_row_of_its_own() -> None:
    plain = Run("fineclip-mini-500-s0", "mini", "fineclip", "500", 0)
    variant = Run("fineclip-mini-500-distill-s0", "mini", "fineclip", "500", 0, "distill")
    records = [record(plain, {"things/top1": 20.0}), record(variant, {"things/top1": 30.0})]
    (table,) = score_tables(config_of(), records, {"500": 500})
    assert [(line.method, line.seeds, line.cells["things/top1"].mean) for line in table.lines[1:]] == [
        ("fineclip", 1, 20.0), ("fineclip distill", 1, 30.0),
    ]  # fmt: skip


def test_a_metric_that_a_run_lacks_is_not_taken_from_another() -> None:
    runs = [Run(f"{method}-mini-500-s0", "mini", method, "500", 0) for method in ("clip", "fineclip")]
    records = [
        record(runs[0], {"things/top1": 20.0}),
        record(runs[1], {"things/top1": 30.0, "stuff/top1": 8.0}, chance=7.0),
    ]
    (table,) = score_tables(config_of(), records, {"500": 500})
    chance, clip, fineclip = table.lines
    assert table.metrics == ("things/top1", "stuff/top1")
    assert "stuff/top1" not in clip.cells
    assert {name: cell.mean for name, cell in fineclip.cells.items()} == {"things/top1": 30.0, "stuff/top1": 8.0}
    assert {name: cell.mean for name, cell in chance.cells.items()} == {"things/top1": 5.0, "stuff/top1": 7.0}


def test_the_table_of_scores(bare: World) -> None:
    """Columns in the order of the metrics, groups over their own; the mean with its spread, the best in its column."""
    write_runs(bare)
    report = collect_report(bare.config, bare.root)
    rows = [[cell.replace(NBSP, " ") for cell in row] for row in Page(render(report)).tables["scores"]]
    assert rows[:3] == [
        ["model", "images", "seeds", "things", "stuff", "all"],
        ["top 1", "top 5", "top 1", "top 5", "top 1", "top 5"],
        ["n 1,894", "n 1,894", "n 1,106", "n 1,106", "n 1,894", "n 1,894"],
    ]
    assert rows[3] == ["chance", "", "", "5.0", "25.0", "16.7", "83.3", "3.8", "19.2"]
    assert rows[4] == ["pretrained encoder", "", "", "10.7", "42.7", "12.6", "55.4", "8.3", "35.0"]
    # seeds 3 and 5 add 1.5 and 2.5 to 10.9, so 12.4 and 13.4: mean 12.9, standard deviation 0.7
    assert rows[5] == [
        "CLIP",
        "37",
        "2",
        "12.9 ± 0.7",
        "46.3 ± 1.2",
        "13.3 ± 0.2",
        "56.5 ± 0.4",
        "10.1 ± 0.6",
        "38.1 ± 1.0",
    ]
    assert [row[:4] for row in rows[6:9]] == [
        ["CLIP", "2,000", "2", "13.1 ± 0.7"],
        ["FineCLIP", "37", "2", "18.8 ± 0.7"],
        ["FineCLIP", "2,000", "2", "28.6 ± 0.7"],
    ]
    best = [line.method for line in report.tables[0].lines if report.tables[0].is_best(line, "all/top5")]
    assert best == ["fineclip"]
    assert [table.protocol.benchmark for table in report.tables] == ["boxes", "retrieval"]
    assert [(line.name, round(score, 1)) for line, score in report.finding.bars] == [
        ("FineCLIP", 28.6), ("CLIP", 13.1), ("pretrained encoder", 10.7), ("chance", 5.0),
    ]  # fmt: skip
    assert (report.finding.metric, report.finding.images) == ("things/top1", 2000)
    assert "things, top 1, in percent; trained on 2,000 images" in Page(render(report)).text


def test_the_finding_is_that_of_the_first_metric_that_was_measured() -> None:
    run = Run("clip-mini-500-s0", "mini", "clip", "500", 0)
    values = {"stuff/top1": 90.0, "all/top1": 40.0, "things/top1": 30.0}
    assert main_finding(score_tables(config_of(), [record(run, values)], {"500": 37})).bars[0][1] == 30.0
    del values["things/top1"]
    assert main_finding(score_tables(config_of(), [record(run, values)], {"500": 37})).bars[0][1] == 40.0


def test_the_last_loss_of_a_chart_is_the_mean_over_its_seeds() -> None:
    def steps(*totals: float) -> tuple[dict[str, float], ...]:
        return tuple(
            {"step": float(n), "epoch": n / 2, "images": 64.0, "total": t, "global": t} for n, t in enumerate(totals, 1)
        )

    runs = [
        RunRecord(Run(f"clip-mini-500-s{s}", "mini", "clip", "500", s), None, "", {}, steps(9.0, 1.0 + s))
        for s in (0, 1)
    ]
    other = RunRecord(Run("clip-mini-2000-s0", "mini", "clip", "2000", 0), None, "", {}, steps(9.0, 8.0, 7.0))
    small, large = loss_charts([*runs, other], {"500": 37, "2000": 2000})
    assert (small.title, small.note) == ("CLIP \N{MIDDLE DOT} 37 images", "2 steps, 2 seeds")
    assert (large.title, large.note) == ("CLIP \N{MIDDLE DOT} 2,000 images", "3 steps")
    assert "global 1.50" in line_chart(small)
    assert "global 7.00" in line_chart(large)


def test_hashes_stand_beside_their_own_files(bare: World) -> None:
    """Of many inputs the first twelve by name; the manifest covers the others."""
    inputs = {f"in/{n:02d}.json": f"{n:02d}" * 32 for n in reversed(range(15))}
    manifest = Manifest("train", 1, {}, inputs, {"model.safetensors": "a" * 64, "config.yaml": "b" * 64})
    run = replace(
        record(Run("clip-mini-500-s0", "mini", "clip", "500"), {}), manifest=manifest, manifest_sha256="c" * 64
    )
    html = render(replace(collect_report(bare.config, bare.root), records=(run,)))
    assert re.findall("<h4>(.*)</h4>", html) == ["clip-mini-500-s0"]
    assert re.findall("<li><code>(.*)</code> ([a-z0-9/.]*)", html) == [
        ("c" * 16, "train.json"), ("b" * 16, "config.yaml"), ("a" * 16, "model.safetensors"),
        *((f"{n:02d}" * 8, f"in/{n:02d}.json") for n in range(12)),
    ]  # fmt: skip
    assert "and 3 more inputs" in Page(html).text


def test_a_tile_shows_at_most_six_boxes(bare: World) -> None:
    regions = tuple(
        Region(Box(10 + n, 20, 14 + n, 50), 0.9 - n / 10, f"label {n}", "" if n else "a caption") for n in range(8)
    )
    tile = KeptTile(Sample("the-key", b"", 120, 80, ("one", "two"), None, regions), "data:,")
    html = render(replace(collect_report(bare.config, bare.root), kept=(tile,)))
    assert re.findall('<span class="box r[0-9]" style="left:([0-9.]+)%', html) == [
        f"{100 * (10 + n) / 120:.3f}" for n in range(6)
    ]
    assert re.findall('<li class="r[0-9]" title="(label [0-9])', html) == [f"label {n}" for n in range(6)]
    assert '<img src="data:," alt="one" width="120" height="80">' in html
    for words in ("one and 1 more caption", "1 a caption 2 label 1", "and 2 more regions", "the-key"):
        assert words in Page(html).text, words


def test_the_page_after_a_failed_job_is_made_by_the_verb_as_the_workflow_calls_it(bare: World) -> None:
    """With the section that the workflow passes: the page names the failed run with its log, and the verb ends well."""
    write_runs(bare)
    failed = "fineclip-mini-2000-s5"
    (bare.root / f"results/{bare.name}/{failed}/train.json").unlink()
    log = bare.root / f"logs/{bare.name}/train/{failed}.log"
    log.parent.mkdir(parents=True)
    log.write_text("the third line from the end is not this one\n" + "step 9: out of memory\n")
    (folder_of(bare, "pack") / f"{SHARDS[0]}.json").unlink()
    output = f"results/{bare.name}/report/index.html"
    config = json.loads(Plan(bare.config).key("report"))
    assert fineclip(bare.root, "report", "--output", output, config=config).code == 0
    page = Page((bare.root / output).read_text(encoding="utf-8"))
    assert "2 things missing or failed" in page.text
    assert f"{failed} has no result" in page.text
    assert "step 9: out of memory" in page.text
    assert page.figures[4:6] == ["8", "of 9 planned"]
    assert page.figures[0] == "9"
    assert [row[:2] for row in page.tables["runs"] if row[1] != "done"][1:] == [[failed, "unfinished"]]
    assert Page(render(collect_report(bare.config, bare.root))).tables == page.tables


def widths(html: str, css: str) -> list[float]:
    """The width of every bar of a class, in percent, in the order of the page."""
    return [float(width) for width in re.findall(rf'<span class="{css}" style="width:([0-9.]+)%', html)]


def test_bars_are_shares_of_what_came_in_first(bare: World) -> None:
    write_timing(bare, "detect/annotations/miniature-0000", wall_s=40, cpu_s=5, peak_mb=200)
    write_timing(bare, "train/clip-mini-500-s3", wall_s=10, cpu_s=20, peak_mb=2500)
    write_runs(bare)
    report = collect_report(bare.config, bare.root)
    html = render(report)
    assert widths(html, "kept") == [round(100 * kept / 61, 3) for kept in (56, 33, 31, 31, 27)]
    assert widths(html, r"gone g\d") == [round(100 * number / 61, 3) for number in (5, 13, 7, 3, 2, 4)]
    top = report.finding.bars[0][1]
    assert widths(html, "fill")[: len(report.finding.bars)] == [
        pytest.approx(100 * score / top, abs=1e-3) for _, score in report.finding.bars
    ]
    most = max(cost.cpu_s for cost in report.costs)
    cpu_widths = widths(html, "fill")[-len(report.costs) :]
    assert cpu_widths == [pytest.approx(100 * cost.cpu_s / most, abs=1e-3) for cost in report.costs]


def test_boxes_are_drawn_where_they_are(bare: World) -> None:
    """Left and width are shares of the width, top and height of the height."""
    sample = Sample("key", b"", 200, 50, ("a",), None, (Region(Box(20, 5, 120, 35), 0.256, "ball"),))
    report = replace(collect_report(bare.config, bare.root), kept=(KeptTile(sample, "data:,"),))
    html = render(report)
    assert 'style="left:10.000%;top:10.000%;width:50.000%;height:60.000%"' in html
    assert "more region" not in Page(html).text
    assert '<li class="r1" title="ball, score 0.26"><b>1</b><span>ball</span></li>' in html
    named = replace(sample, regions=(Region(Box(0, 0, 5, 5), 1.0, "ball", "a red ball"),))
    assert "<span>a red ball</span>" in render(replace(report, kept=(KeptTile(named, "data:,"),)))


def circles(svg: str) -> list[tuple[float, float]]:
    """Where the points of a chart lie, in pixels from its upper left corner."""
    return [(float(x), float(y)) for x, y in re.findall(r'<circle[^>]* cx="([0-9.]+)" cy="([0-9.]+)"', svg)]


def test_points_of_a_chart_are_means_at_their_own_number_of_images() -> None:
    """Two encoders at two scales; the seeds of one lie far apart around the mean that the single run of the other has."""
    config, records = two_encoders(), []
    for encoder, scale, values in (
        ("mini", "500", (10.0, 30.0)), ("mini", "2000", (40.0,)), ("big", "500", (20.0,)), ("big", "2000", (5.0,)),
    ):  # fmt: skip
        for seed, value in enumerate(values):
            records.append(
                record(Run(f"clip-{encoder}-{scale}-s{seed}", encoder, "clip", scale, seed), {"things/top1": value})
            )
    (table,) = score_tables(config, records, {"500": 37, "2000": 2000})
    svg = line_chart(*scale_charts(table)).replace(NBSP, " ")
    (mini_37, mini_2000), (big_37, big_2000) = (circles(svg)[:2], circles(svg)[2:])
    assert mini_37 == big_37
    assert mini_2000[0] == big_2000[0] > mini_37[0]
    assert mini_2000[1] < mini_37[1] < big_2000[1]
    assert svg.count('class="whisker') == 1
    for words in (
        "CLIP (mini) 40.0",
        "CLIP (big) 5.0",
        "CLIP (mini), 37 images: 20.0",
        "with a spread of 14.1",
        "2,000",
    ):
        assert words in svg, words


def test_variants_and_encoders_have_charts_of_their_own() -> None:
    steps = ({"step": 1.0, "total": 3.0, "global": 3.0},)
    runs = [
        Run("clip-mini-500-s0", "mini", "clip", "500"),
        Run("clip-big-500-s0", "big", "clip", "500"),
        Run("clip-mini-500-wide-s0", "mini", "clip", "500", 0, "wide"),
    ]
    charts = loss_charts([RunRecord(run, None, "", {}, steps) for run in runs], {"500": 37})
    assert [chart.title.replace(" \N{MIDDLE DOT} ", "|") for chart in charts] == [
        "CLIP|37 images|mini", "CLIP|37 images|big", "CLIP wide|37 images|mini",
    ]  # fmt: skip


def test_growth_is_that_of_the_best_row_with_its_own_encoder() -> None:
    values = {("mini", "500"): 10.0, ("mini", "2000"): 20.0, ("big", "500"): 11.0, ("big", "2000"): 12.0}
    runs = [Run(f"clip-{encoder}-{scale}-s0", encoder, "clip", scale) for encoder, scale in values]
    records = [record(run, {"things/top1": value}) for run, value in zip(runs, values.values(), strict=True)]
    finding = main_finding(score_tables(two_encoders(), records[::-1], {"500": 37, "2000": 2000}))
    assert [(line.name, score) for line, score in finding.bars[:2]] == [("CLIP (mini)", 20.0), ("CLIP (big)", 12.0)]
    assert finding.more[0].replace(NBSP, " ") == "From 37 to 2,000 images CLIP (mini) rises from 10.0 % to 20.0 %."


def test_retrieval_names_its_scale_only_where_it_is_another(bare: World) -> None:
    write_runs(bare)
    assert "trained on" not in collect_report(bare.config, bare.root).finding.more[1]
    for run in bare.config.runs():
        if "-2000-" in run:
            (bare.root / f"results/{bare.name}/{run}/evals/retrieval.json").unlink()
    assert "On whole images, trained on 37, " in collect_report(bare.config, bare.root).finding.more[1]


def test_shards_packed_with_other_captions_cost_nothing(bare: World) -> None:
    write_timing(bare, f"pack/{CAPTIONS}/miniature-0000", wall_s=3, cpu_s=2, peak_mb=20)
    write_timing(bare, "pack/annotations.blip2/miniature-0000", wall_s=7000, cpu_s=7000, peak_mb=70_000)
    [cost] = collect_costs(bare.config, ResultFiles(bare.root, bare.name))
    assert (cost.stage, cost.jobs, cost.wall_s) == ("pack", 1, 3)

"""The page is complete and self-contained, and a damaged file affects nothing else."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fineclip.report import write_report
from fineclip.report.page import Report, collect_report, render
from fineclip.report.samples import KeptTile
from fineclip.types import Box, Region, Sample
from tests.report.world import World, build_world, config_of, write_scores

SECTIONS = ["run", "funnel", "pictures", "results", "scale", "losses", "cost", "provenance", "missing"]


class Page(HTMLParser):
    """What a browser would see: every (tag, attributes), ids in order, and the text without styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._is_style = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._is_style = tag == "style"

    def handle_data(self, data: str) -> None:
        if not self._is_style:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def sections(self) -> list[str]:
        return [attributes["id"] for tag, attributes in self.tags if tag == "section"]

    def count(self, tag: str, css: str) -> int:
        return sum(name == tag and css in attributes.get("class", "").split() for name, attributes in self.tags)


def page_of(world: World) -> Page:
    return Page(render(collect_report(world.config, world.root)))


@pytest.fixture(scope="module")
def html(whole: World) -> str:
    return render(collect_report(whole.config, whole.root))


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_every_section_is_there_in_order(page: Page) -> None:
    assert page.sections == SECTIONS
    assert "Nothing: every planned shard, run and benchmark has its result." in page.text


def test_headline_is_worded_from_the_scores(page: Page) -> None:
    assert (
        "FineCLIP names 26.6 % of the things in their boxes, CLIP 11.1 %, the pretrained encoder 10.7 %, chance 5.0 %."
        in page.text
    )
    assert "From 500 to 2,000 images FineCLIP rises from 16.8 % to 26.6 %." in page.text


def test_pictures_boxes_and_captions(page: Page, whole: World) -> None:
    assert page.count("figure", "tile") == 12
    assert page.count("span", "box") == page.count("li", "r1") + sum(page.count("li", f"r{n}") for n in range(2, 7))
    report = collect_report(whole.config, whole.root)
    assert {tile.reason for tile in report.dropped} == {
        reason for stage in (*report.funnel.stages.values(), *report.funnel.scales) for reason in stage.dropped
    }
    notes = {tile.reason: (bool(tile.thumbnail), tile.note) for tile in report.dropped}
    assert notes["undecodable"][0] is False
    assert "image data is truncated" in notes["undecodable"][1]
    assert notes["too-small"][0] is True


def test_funnel_adds_up(whole: World) -> None:
    stages = list(collect_report(whole.config, whole.root).funnel.stages.values())
    assert [stage.stage for stage in stages] == ["source", "filter", "detect", "caption", "pack"]
    assert stages[0].read == 60
    for before, stage in zip((None, *stages), stages, strict=False):
        assert stage.read == stage.kept + sum(stage.dropped.values())
        assert before is None or stage.read == before.kept
    assert stages[1].dropped["too-small"] > 0
    assert stages[-1].regions == stages[-2].regions > 0


def test_costs_are_summed_by_stage(whole: World) -> None:
    costs = {cost.stage: cost for cost in collect_report(whole.config, whole.root).costs}
    assert list(costs) == ["source", "filter", "select", "detect", "caption", "pack", "train", "evaluate"]
    assert costs["train"].jobs == 5
    assert costs["train"].wall_s == pytest.approx(2.0 + 2 * 14 + 2 * 53)
    assert costs["train"].cpu_s == pytest.approx(0.97 * costs["train"].wall_s, rel=1e-3)
    assert costs["detect"].peak_mb == 812.5


def test_the_page_fetches_nothing(html: str, page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in {"script", "iframe", "object", "embed", "base", "form"}
        for name in ("src", "href", "srcset", "data", "poster", "action", "xlink:href", "background"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
    style = re.search(r"<style>(.*?)</style>", html, flags=re.DOTALL)
    assert style
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    policies = [attributes.get("content", "") for tag, attributes in page.tags if tag == "meta"]
    assert any(policy.startswith("default-src 'none'") for policy in policies)
    assert len(html) < 3_000_000


def test_hostile_texts_are_shown_and_not_run(world: World) -> None:
    hostile = '<script>alert("x")</script>'
    report = collect_report(world.config, world.root)
    region = Region(Box(0, 0, 5, 5), 0.5, hostile, hostile)
    tile = KeptTile(Sample("key", b"", 10, 10, (hostile,), None, (region,)), "data:image/jpeg;base64,")
    log = world.root / "logs" / world.name / "train/clip-mini-500-s0.log"
    log.write_text(f"09:00:00 {hostile}\n")
    (world.root / "results" / world.name / "clip-mini-500-s0/train.json").unlink()
    problems = collect_report(world.config, world.root).problems
    html = render(replace(report, kept=(tile,), problems=problems))
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 4


def test_a_failed_run_is_named_with_its_message_and_log(world: World) -> None:
    folder = world.root / "results" / world.name / "fineclip-mini-2000-s0"
    (folder / "train.json").unlink()
    (folder / "state").mkdir()
    (folder / "state/failed.json").write_text('{"identity": "0", "message": "step 41: loss region is nan"}')
    log = world.root / "logs" / world.name / "train/fineclip-mini-2000-s0.log"
    log.write_text("\x1b[32mfirst\x1b[0m\n" + "\n".join(f"line {n}" for n in range(40)) + "\n 10%|#\r 20%|##")
    page = page_of(world)
    assert page.sections == SECTIONS
    assert "could not train: step 41: loss region is nan" in page.text
    assert "line 39 20%|##" in page.text
    assert "line 2 " not in page.text
    assert page.count("span", "failed") == 1
    assert page.count("article", "problem") == 1  # its absent scores are the same misfortune
    assert "FineCLIP 16.8" in page.text


def damage_scores(world: World) -> str:
    path = world.root / "results" / world.name / "clip-mini-500-s0/evals/boxes.json"
    path.write_text('{"benchmark": "boxes", "sco')
    return f"results/{world.name}/clip-mini-500-s0/evals/boxes.json"


def damage_infinite_score(world: World) -> str:
    write_scores(world, "clip-mini-500-s0", "boxes", scores=[{"metric": "things/top1", "value": float("nan"), "n": 3}])
    return f"results/{world.name}/clip-mini-500-s0/evals/boxes.json"


def damage_benchmark(world: World) -> str:
    (world.root / "results" / world.name / "clip-mini-2000-s0/evals/retrieval.json").unlink()
    return "clip-mini-2000-s0 on retrieval"


def damage_manifest(world: World) -> str:
    path = world.root / "data" / world.name / "filter/miniature-0001.json"
    path.write_text(path.read_text().replace('"read": ', '"read": "many", "was": '))
    return f"data/{world.name}/filter/miniature-0001.json"


def damage_metrics(world: World) -> str:
    path = world.root / "results" / world.name / "clip-mini-500-s0/metrics.jsonl"
    path.write_text("nonsense\n" + path.read_text())
    return f"results/{world.name}/clip-mini-500-s0/metrics.jsonl"


def damage_shard(world: World) -> str:
    (world.root / "data" / world.name / "pack/annotations.template/miniature-0000.json").unlink()
    return f"data/{world.name}/pack/annotations.template"


def damage_tar(world: World) -> str:
    path = world.root / "data" / world.name / "pack/annotations.template/miniature-0000.tar"
    path.write_bytes(path.read_bytes()[:1000])
    return f"images of data/{world.name}/pack/annotations.template/miniature-0000.json"


def damage_table(world: World) -> str:
    (world.root / "data" / world.name / "source/miniature-0000.parquet").write_bytes(b"PAR1")
    return f"dropped images of data/{world.name}/source/miniature-0000.json"


def damage_timing(world: World) -> str:
    (world.root / "logs" / world.name / "train/clip-mini-500-s0.tsv").write_text("")
    return f"logs/{world.name}/train/clip-mini-500-s0.tsv"


def damage_scale(world: World) -> str:
    (world.root / "data" / world.name / "select/2000.json").unlink()
    return f"data/{world.name}/select/2000.json"


@pytest.mark.parametrize(
    "damage",
    [
        damage_scores,
        damage_infinite_score,
        damage_benchmark,
        damage_manifest,
        damage_metrics,
        damage_shard,
        damage_tar,
        damage_table,
        damage_timing,
        damage_scale,
    ],
)
def test_damaged_files_are_named_and_affect_nothing_else(world: World, damage: Callable[[World], str]) -> None:
    name = damage(world)
    report = collect_report(world.config, world.root)
    assert [problem.what for problem in report.problems] == [name]
    assert str(world.root) not in report.problems[0].why
    page = Page(render(report))
    assert page.sections == SECTIONS
    assert f"{name} " in page.text
    assert "FineCLIP names 26.6 % of the things in their boxes" in page.text
    assert page.count("figure", "plot") >= 8
    assert page.count("figure", "tile") >= 6


def test_scores_of_an_earlier_training_are_left_out(world: World) -> None:
    run = "fineclip-mini-2000-s0"
    manifest = world.root / "results" / world.name / run / "train.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 2'))
    report = collect_report(world.config, world.root)
    assert "earlier training" in report.problems[0].why
    assert not any(line.method == "fineclip" and line.scale == "2000" for t in report.tables for line in t.lines)


def test_a_benchmark_that_no_run_tried_is_one_entry(world: World) -> None:
    """Its data is absent, so that the plan left it out: every run has an `evals.json` without it."""
    for path in (world.root / "results" / world.name).glob("*/evals/retrieval.json"):
        path.unlink()
    problems = collect_report(world.config, world.root).problems
    assert [problem.what for problem in problems] == ["benchmark retrieval"]
    assert "benchmarks.retrieval.if_missing" in problems[0].why


def test_a_benchmark_on_which_runs_failed_names_each_with_its_log(world: World) -> None:
    """Every job failed on it, wrote the other scores and left no `evals.json`."""
    runs = list(world.config.runs())
    for run in runs:
        folder = world.root / "results" / world.name / run
        (folder / "evals/retrieval.json").unlink()
        (folder / "evals.json").unlink()
        (world.root / "logs" / world.name / f"evaluate/{run}.log").write_text(f"retrieval of {run}: out of memory\n")
    report = collect_report(world.config, world.root)
    assert [problem.what for problem in report.problems] == [f"{run} on retrieval" for run in runs]
    assert [problem.log_tail for problem in report.problems] == [f"retrieval of {run}: out of memory" for run in runs]
    assert [table.protocol.benchmark for table in report.tables] == ["boxes"]
    assert report.finding.bars[0][1] == 26.6


def test_a_page_without_results(tmp_path: Path) -> None:
    page = page_of(World(tmp_path, config_of()))
    assert page.sections == SECTIONS
    assert "There are no scores yet." in page.text
    assert "pretrained-mini has no result" in page.text
    assert "2 of 2 shards are missing" in page.text


def test_several_seeds_give_a_mean_and_a_spread(tmp_path: Path) -> None:
    page = page_of(build_world(tmp_path, config_of(seeds=[0, 1], methods=["fineclip"])))
    assert "26.9 ± 0.4" in page.text
    assert page.count("line", "whisker") > 0
    assert "124 steps, 2 seeds" in page.text


def test_the_file_is_written_whole(world: World) -> None:
    output = world.root / "results" / world.name / "report/index.html"
    write_report(world.config, output, root=world.root)
    assert output.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [path.name for path in output.parent.iterdir()] == ["index.html"]


def test_no_torch_is_imported() -> None:
    code = "import fineclip.report, sys; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_report_holds_what_the_page_needs(whole: World) -> None:
    report = collect_report(whole.config, whole.root)
    assert isinstance(report, Report)
    assert {record.run.id for record in report.records if record.manifest} == set(whole.config.runs())
    assert report.config.filter.min_side_px == 96

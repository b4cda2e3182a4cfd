"""Facts of the plan, dropped samples and provenance, with values computed by hand."""

import doctest
import logging
import re
import subprocess
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from fineclip.config import Config, WeightsConfig, load
from fineclip.report.formatting import metric_groups
from fineclip.report.funnel import collect_funnel
from fineclip.report.page import collect_report, render, write_report
from fineclip.report.provenance import commit_of
from fineclip.report.result_files import ResultFiles
from fineclip.report.samples import describe_bytes, dropped_tile, dropped_tiles
from fineclip.report.score_tables import Line, Protocol, Table
from fineclip.report.sections import flat, origin
from fineclip.shards import ByteRangeReader, SourceRow
from tests.helpers.images import encoded
from tests.report.world import World, config_of

NBSP = "\u00a0"


def changed(**sections: object) -> Config:
    values = config_of(seeds=[3, 5]).model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return load(values | sections)


def facts_of(config: Config, root: Path) -> dict[str, tuple[str, tuple[tuple[str, str], ...]]]:
    """Value and changed keys of each fact of the plan, as the page shows them."""
    section = render(collect_report(config, root)).split('<section id="run">')[1].split("</dl>")[0]
    found = {}
    for name, value in re.findall("<dt>(.*?)</dt>\\s*<dd>(.*?)</dd>", section, re.DOTALL):
        keys = re.findall("<code>(.*?)&nbsp;(.*?)</code>", value)
        found[name] = (value.partition('<span class="keys">')[0], tuple(keys))
    return found


def test_the_plan_as_facts(tmp_path: Path) -> None:
    config = changed(scales={"500": {"images": 500}, "2000": {"images": None}}, variants={
        "short": {"method": "clip", "options": {"train_text": True}, "train": {"epochs": 2}},
    })  # fmt: skip
    config = config.model_copy(update={"plan": config.plan.model_copy(update={"variants": ("short",)})})
    found = facts_of(config, tmp_path)
    assert found["Scales"] == ("500 images and all images", ())
    assert found["Seeds"] == ("3 and 5", ())
    assert found["Variant"][0] == "CLIP short"
    assert dict(found["Variant"][1])["epochs"] == "2"
    assert set(dict(found["Variant"][1])) == {"train_text", "epochs"}
    assert found["Training"] == ("4 epochs in steps of 64 images, learning rate 0.0005", (("warmup_steps", "10"),))
    assert found["Filter"][0] == "shorter side at least 96 px"
    assert found["Encoder"][0] == "mini, mini.safetensors"


def test_a_plan_in_steps_and_scales_that_may_be_short(tmp_path: Path) -> None:
    train = {"batch_size": 32, "epochs": 4, "max_steps": 7, "learning_rate": 0.25, "warmup_steps": 1}
    scales = {"500": {"images": 500, "allow_fewer": True}, "2000": {"images": 29}}
    found = facts_of(changed(train=train, scales=scales), tmp_path)
    assert found["Training"][0] == "7 steps in steps of 32 images, learning rate 0.25"
    assert found["Scales"][0] == "at most 500 images and 29 images"


def test_where_weights_come_from() -> None:
    assert origin(WeightsConfig(shipped="encoder/model.safetensors")) == "shipped with the package"
    assert origin(WeightsConfig(path="here.pt")) == "here.pt"
    revision = "0123456789abcdef0123456789abcdef01234567"
    assert origin(WeightsConfig(hub="some/model", revision=revision)) == "some/model at 01234567"
    assert dict(flat({"a": {"b": 1, "c": [2, 3]}, "d": 0.25})) == {"a.b": "1", "a.c": "2, 3", "d": "0.25"}


def test_a_protocol_in_one_line(whole: World) -> None:
    config = {"kind": "boxes", "source": {"layout": "miniature"}, "prompts": "vild", "image_size": 48}
    table = Table(Protocol("boxes", 3, "", 48), config, {}, ())
    table = replace(table, lines=(Line("chance", "chance", {}),))
    html = render(replace(collect_report(whole.config, whole.root), tables=(table,)))
    assert '<p class="about">images at 48&nbsp;px, layout miniature, prompts vild, version 3</p>' in html
    assert metric_groups(["things/top1", "things/top5", "all/top1"]) == [
        ("things", ["things/top1", "things/top5"]), ("all", ["all/top1"]),
    ]  # fmt: skip


def test_only_runs_with_a_result_are_pinned(world: World) -> None:
    gone = "clip-mini-500-s0"
    (world.root / f"results/{world.name}/{gone}/train.json").unlink()
    html = render(collect_report(world.config, world.root))
    assert re.findall("<h4>(.*)</h4>", html) == [run for run in world.config.runs() if run != gone]


def test_edits_of_tracked_files_are_changes_and_new_files_are_not(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init")
    assert commit_of(tmp_path) == ("", False)
    (tmp_path / "code.py").write_text("a = 1\n")
    git("add", ".")
    git("commit", "-m", "first")
    head = git("rev-parse", "HEAD")
    assert commit_of(tmp_path) == (head, False)
    (tmp_path / "new.py").write_text("")
    assert commit_of(tmp_path) == (head, False)
    (tmp_path / "code.py").write_text("a = 2\n")
    assert commit_of(tmp_path) == (head, True)


def test_a_dropped_sample_as_it_is_shown(tmp_path: Path) -> None:
    content = encoded(120, 80)
    (tmp_path / "a.tar").write_bytes(b"before" + content)
    row = SourceRow(
        key="k", kept=True, source_key="s", file="a.tar", offset=6, size=len(content), captions=["one", "two"]
    )
    with ByteRangeReader() as reader:
        tile = dropped_tile("filter", "too-small", row, reader, tmp_path)
    assert (tile.stage, tile.reason, tile.caption) == ("filter", "too-small", "one")
    assert tile.note == "120 \N{MULTIPLICATION SIGN} 80 px"
    assert tile.thumbnail.startswith("data:image/jpeg;base64,")
    assert describe_bytes(content[:-30], "why").startswith("120 \N{MULTIPLICATION SIGN} 80 px")


def test_examples_come_in_the_order_of_the_stages(whole: World) -> None:
    """Samples are drawn for a scale from the filter tables, so those reasons come between filter and detect."""
    files = ResultFiles(whole.root, whole.name)
    funnel = collect_funnel(whole.config, files)
    stages = [tile.stage for tile in dropped_tiles(funnel, files)]
    assert list(dict.fromkeys(stages)) == ["filter", "select", "detect"]
    assert stages == sorted(stages, key=["filter", "select", "detect"].index)


def test_the_log_counts_runs_and_problems(world: World, caplog: pytest.LogCaptureFixture) -> None:
    (world.root / f"results/{world.name}/clip-mini-500-s0/train.json").unlink()
    with caplog.at_level(logging.INFO, "fineclip"):
        write_report(world.config, world.root / "page.html", root=world.root)
    size = len((world.root / "page.html").read_text(encoding="utf-8")) / 1e6
    assert "4 of 5 runs" in caplog.text
    assert "2 tables" in caplog.text
    assert f"{size:.1f} MB" in caplog.text


def test_the_keys_that_differ_are_those_alone(whole: World) -> None:
    changes, every_key = re.findall("<pre>(.*?)</pre>", render(collect_report(whole.config, whole.root)), re.DOTALL)
    assert "max_aspect&#34;: 3.0" in every_key
    assert "max_aspect" not in changes
    assert "min_side_px&#34;: 96" in changes


@pytest.mark.parametrize("module", ["line_chart", "samples", "score_tables", "sections"])
def test_examples(module: str) -> None:
    found = doctest.testmod(import_module(f"fineclip.report.{module}"))
    assert (found.failed, found.attempted > 0) == (0, True)

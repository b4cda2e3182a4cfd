"""The verb `check`: exit code, files, table, page, and the findings of a log."""

import json
import logging
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from fineclip.check.audit import Audit
from fineclip.check.captions import script_of
from fineclip.check.findings import Example, Findings, Picture
from fineclip.check.page import html_page, terminal_table
from fineclip.cli import main
from fineclip.shards import read_manifest
from fineclip.types import Box, LabeledBox
from tests.helpers.audit import folder, jpeg

log = logging.getLogger("fineclip.readers.example")


def written(root: Path, *arguments: str) -> tuple[int, Path]:
    """Exit code of the verb for the images of a folder, and the manifest that it may have written."""
    config, manifest = root / "config.yaml", root / "out/check.json"
    config.write_text(yaml.safe_dump(folder(root / "in") if not (root / "in").exists() else saved(root)))
    return main(["check", str(config), "--manifest", str(manifest), *arguments]), manifest


def saved(root: Path) -> dict[str, object]:
    values: dict[str, object] = yaml.safe_load((root / "config.yaml").read_text())
    return values


def test_warnings_do_not_stop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path)
    (tmp_path / "in/1.txt").unlink()
    code, manifest = written(tmp_path, "--log", str(tmp_path / "check.log"))
    assert code == 0
    made = read_manifest(manifest)
    assert (made.stage, made.read, set(made.outputs)) == ("check", 6, {"check.html", "check.findings.json"})
    found = json.loads(manifest.with_suffix(".findings.json").read_text())
    assert [(one["severity"], one["count"], one["of"]) for one in found if one["text"].startswith("no-text")] == [
        ("warning", 1, 6)
    ]
    assert "no-text" in (tmp_path / "check.log").read_text()


def test_errors_stop_and_leave_the_page(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "out/check.json").unlink()
    (tmp_path / "in/captions.csv").write_text("image,caption\n0.jpg,a,b\n")
    values = saved(tmp_path)
    values["source"] = {"kind": "folder", "root": str(tmp_path / "in"), "captions": "captions.csv"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    code, manifest = written(tmp_path)
    assert code == 2
    assert not manifest.exists()
    assert "captions.csv: line 2" in manifest.with_suffix(".html").read_text()


@pytest.mark.parametrize(("arguments", "read"), [(["--images", "2"], 2), (["--all"], 6)])
def test_number_of_samples(tmp_path: Path, arguments: list[str], read: int) -> None:
    _, manifest = written(tmp_path, *arguments)
    assert read_manifest(manifest).read == read


def test_messages_of_readers_become_findings(caplog: pytest.LogCaptureFixture) -> None:
    findings = Findings()
    with findings.from_log("source"):
        log.warning("%s: %d of %d names match no file", "a.csv", 2, 9)
        log.warning("%s: %d of %d names match no file", "b.csv", 3, 9)
        log.info("a note")
    log.warning("afterwards")
    assert [(one.severity, one.text, one.count) for one in findings.sorted()] == [
        ("warning", "a.csv: 2 of 9 names match no file", 5),
        ("note", "a note", None),
    ]
    assert caplog.messages == ["afterwards"]


def test_errors_come_first_in_the_table() -> None:
    result = Audit()
    result.findings.add("source", "a note", "note", count=7)
    result.findings.add("filter", "a warning", count=3, of=10, example=Example("1.jpg"))
    result.findings.add("detect.x", "an error", "error")
    lines = terminal_table(result).splitlines()
    assert [line.split()[0] for line in lines] == ["severity", "--------", "error", "warning", "note"]
    assert "3 of 10" in lines[3] and lines[3].endswith("1.jpg")


def test_texts_of_users_do_not_control_the_terminal() -> None:
    result = Audit()
    result.findings.add("source", "a\x1b[31mred\u202etext", example=Example("b\0c\nd"))
    table = terminal_table(result)
    assert all(line.isprintable() for line in table.splitlines()) and "a\ufffd[31mred\ufffdtext" in table


class _Images(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_shows_examples_and_escapes_texts(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(0))
    (tmp_path / "b.jpg").write_bytes(b"no image")
    result = Audit()
    for name in ("a.jpg", "b.jpg"):
        picture = Picture(
            str(tmp_path / name), 0, (tmp_path / name).stat().st_size, (LabeledBox(Box(9, 9, 1, 1), "x"),)
        )
        result.findings.add("source", f"<script>{name}", example=Example("<b>text</b>", picture))
    page, parser = html_page(result, dataset="mine"), _Images()
    parser.feed(page)
    assert len(parser.sources) == 1 and parser.sources[0].startswith("data:image/jpeg;base64,")
    assert "<script" not in page and "<b>" not in page


def test_script_of_mixed_texts() -> None:
    assert script_of("dogs 狗") == "LATIN"
    assert script_of("狗狗狗狗 dog") == "CJK"

"""Commands, examples, links and tables of the documentation are correct."""

import re
import shlex
from pathlib import Path

import pytest

from fineclip.cli.main import parser
from fineclip.miniature.scenes import draw_scene, jpeg
from fineclip.version import __version__

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = ("README.md", "checkpoints.md")  # pages whose Python needs nothing but a photo.jpg


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", RUN)
def test_python_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(jpeg(draw_scene(3, 0)))
    [page] = [page for page in PAGES if page.name == name]
    found = blocks(page, "python")
    assert found
    for block in found:
        names: dict[str, object] = {}
        exec(compile(block, name, "exec"), names)
        region = names.get("region", names.get("region_RD"))
        assert region.shape[1] == names["encoder"].width  # type: ignore[attr-defined]


def test_every_command_is_one() -> None:
    lines = [
        (page.name, line)
        for page in PAGES
        for block in blocks(page, "sh")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("fineclip ")
    ]
    assert {page for page, _ in lines} >= {"checkpoints.md"}
    for _, line in lines:
        parser().parse_args(shlex.split(line, comments=True)[1:])


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_table_of_packages_is_true() -> None:
    """Each file that docs/packages.md names for a package imports it."""
    text = (ROOT / "docs/packages.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", text, re.MULTILINE)
    assert {name for name, _ in rows} >= {"snakemake", "torch", "pandas", "webdataset", "ultralytics", "transformers"}
    for name, files in rows:
        module = {"open_clip_torch": "open_clip", "pillow": "PIL"}.get(name, name)
        for file in re.findall(r"`([^`]+)`", files):
            found = re.search(rf"^\s*(from|import) {module}\b", (ROOT / file).read_text(), re.MULTILINE)
            assert found, f"{file} does not import {module}"


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert set(re.findall(r'"([\w/]+\.md)"', text)) == pages


def test_the_changelog_has_the_version_of_the_package() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

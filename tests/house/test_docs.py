"""What the documents show can be typed as it stands."""

import re
import shlex
from pathlib import Path

import pytest

from fineclip.cli.main import parser
from fineclip.miniature.scenes import draw_scene, jpeg

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

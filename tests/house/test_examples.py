"""The examples in docstrings run and print what they show."""

import doctest
import importlib
from pathlib import Path

import pytest

from fineclip.miniature.scenes import draw_scene, jpeg

ROOT = Path(__file__).parents[2]
FILES = [path for path in sorted((ROOT / "fineclip").rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_of(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They run in a folder with a `photo.jpg`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(jpeg(draw_scene(3, 0)))
    parts = path.relative_to(ROOT).with_suffix("").parts
    module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0

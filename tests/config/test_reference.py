"""The generated JSON schema and reference page are up to date and complete."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fineclip.cli import main
from fineclip.config import Config
from fineclip.config.base import sections_of
from fineclip.config.reference import editor_schema, reference_page

ROOT = Path(__file__).parents[2]
SCHEMA, REFERENCE = ROOT / "workflow/config.schema.json", ROOT / "docs/configuration.md"


@pytest.mark.parametrize(
    ("path", "generate"),
    [(SCHEMA, editor_schema), (REFERENCE, reference_page)],
    ids=["schema", "reference"],
)
def test_generated_files_are_up_to_date(path: Path, generate: Callable[[], str]) -> None:
    assert path.read_text(encoding="utf-8") == generate(), f"run `make config` to write {path.name} again"


def test_the_reference_has_every_key_with_unit_default_and_origin() -> None:
    page = reference_page()
    for section in sections_of(Config):
        for name, info in section.model_fields.items():
            assert f"`{info.alias or name}`" in page
    row = next(line for line in page.splitlines() if line.startswith("| `min_words` |"))
    assert "integer \u2265 0 (words)" in row and "| `2` |" in row and row.endswith("| our choice |")


def test_links_of_the_reference_lead_to_its_headings() -> None:
    page = reference_page()
    headings = [line.lstrip("# ") for line in page.splitlines() if line.startswith("#")]
    anchors = {re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = set(re.findall(r"\]\(#([^)]+)\)", page))
    assert len(anchors) == len(headings)
    assert len(links) > 10 and links <= anchors


def test_the_verb_checks_files_and_writes_schema_and_reference(tmp_path: Path) -> None:
    schema, reference = tmp_path / "schema.json", tmp_path / "reference.md"
    written = ["--schema", str(schema), "--reference", str(reference)]
    assert main(["config", str(ROOT / "config.yaml"), *written]) == 0
    assert (schema.read_bytes(), reference.read_bytes()) == (SCHEMA.read_bytes(), REFERENCE.read_bytes())


def test_the_verb_refuses_an_invalid_overlay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overlay, schema = tmp_path / "mine.yaml", tmp_path / "schema.json"
    overlay.write_text("train: {epochs: 0}\n")
    assert main(["config", str(ROOT / "config.yaml"), str(overlay), "--schema", str(schema)]) == 2
    assert "mine.yaml: train.epochs" in capsys.readouterr().err
    assert not schema.exists()


def test_a_docstring_describes_every_key_and_nothing_else() -> None:
    for section in sections_of(Config):
        described = re.findall(r"^        (\w+): ", (section.__doc__ or "").partition("Attributes:")[2], re.MULTILINE)
        own = [name for name in section.model_fields if name in section.__annotations__]
        assert described == own, section.__name__

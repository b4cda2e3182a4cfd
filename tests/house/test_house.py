"""Promises that the files of the project make to one another."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text().splitlines()


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_requirement_is_pinned_and_no_host_is_named() -> None:
    assert all(re.match(r"[a-z0-9._-]+==[^ ]+( ; .+)?$", line) for line in LOCK)


def test_the_conda_specs_are_those_of_the_lock() -> None:
    assert run(sys.executable, "envs/from_lock.py", "--check").returncode == 0


@pytest.mark.parametrize("arguments", [["--help"], ["filter", "--help"], ["config", "config.yaml"]])
def test_the_command_line_starts_without_torch(arguments: list[str]) -> None:
    code = "import sys; from fineclip.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\nheavy = {'torch', 'pandas', 'transformers', 'ultralytics', 'open_clip'} & set(sys.modules)\nsys.exit(' '.join(heavy) or 0)"
    done = run(sys.executable, "-c", code, *arguments)
    assert done.returncode == 0, done.stderr


def test_ultralytics_is_imported_in_its_adapter_alone() -> None:
    allowed = {"fineclip/models/detector.py", "fineclip/miniature/train_detector.py"}
    found = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "fineclip").rglob("*.py")
        if re.search(r"^\s*(from|import) ultralytics", path.read_text(), re.MULTILINE)
    }
    assert found <= allowed


def test_an_unknown_key_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    broken = tmp_path / "config.yaml"
    broken.write_text((ROOT / "config.yaml").read_text().replace("\nfilter:", "\nfliter:"))
    done = run(sys.executable, "-m", "fineclip", "config", str(broken))
    assert done.returncode == 2 and "did you mean filter?" in done.stderr and "Traceback" not in done.stderr

"""Files of the project agree with each other."""

import re
import subprocess
import sys
import tomllib
from glob import glob
from itertools import chain
from pathlib import Path

import pytest
import yaml

from fineclip.config import MethodsConfig
from fineclip.version import __version__

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text().splitlines()
BINARY = {".gz", ".npz", ".png", ".pt", ".safetensors"}
HOSTS = re.compile(r"pypi\.org|pythonhosted\.org|npmjs\.org|debian\.org|anaconda\.org|download\.pytorch\.org")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_requirement_is_pinned_and_no_host_is_named() -> None:
    assert all(re.match(r"[a-z0-9._-]+==[^ ]+( ; .+)?$", line) for line in LOCK)


def test_conda_specs_and_dockerfile_match_the_lock() -> None:
    assert run(sys.executable, "envs/from_lock.py", "--check").returncode == 0


def test_every_version_of_the_dockerfile_is_locked() -> None:
    pins = re.findall(r'"([^"]+==[^"]+)"', (ROOT / "Dockerfile").read_text())
    assert {name.partition("==")[0] for name in pins} >= {"uv", "snakemake", "torch", "ultralytics", "transformers"}
    assert set(pins) <= set(LOCK)


def test_citation_names_the_papers_of_all_methods() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert all(set(author) == {"name"} for author in citation["authors"])  # an entity, not a person
    titles = [paper["title"].partition(":")[0].lower() for paper in citation["references"]]
    assert {*titles, "clip"} >= MethodsConfig.model_fields.keys()
    assert all(len(paper["authors"]) > 1 and paper["year"] for paper in citation["references"])


def test_pre_commit_runs_locked_tools_of_the_environment() -> None:
    [local] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    for hook in local["hooks"]:
        folder, _, tool = hook["entry"].split()[0].rpartition("/")
        assert folder == ".venv/bin" and any(line.startswith(f"{tool}==") for line in LOCK)
        assert tool in (ROOT / "Makefile").read_text().partition("lint:")[2].partition("\n\n")[0]


def test_the_github_workflow_runs_ci_on_supported_pythons() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    [job] = jobs.values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    assert {f"Programming Language :: Python :: {version}" for version in job["strategy"]["matrix"]["python"]} <= {
        *declared
    }


def test_every_data_file_of_the_package_is_installed() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    patterns = tools["setuptools"]["package-data"]["fineclip"]
    found = (glob(pattern, root_dir=ROOT / "fineclip", recursive=True) for pattern in patterns)  # noqa: PTH207 (as setuptools does)
    installed = set(chain.from_iterable(found))
    tracked = run("git", "-C", "fineclip", "ls-files").stdout.split()
    data = [name for name in tracked if not name.endswith(".py")]
    assert len(data) > 10 and installed >= set(data)


def test_no_file_names_the_host_of_an_index() -> None:
    files = run("git", "ls-files", "-z").stdout.split("\0")
    texts = [path for name in files if name and (path := ROOT / name).suffix not in BINARY]
    assert texts
    for path in texts:
        assert not HOSTS.search(path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("arguments", [["--help"], ["filter", "--help"], ["config", "config.yaml"]])
def test_the_command_line_starts_without_torch(arguments: list[str]) -> None:
    code = "import sys; from fineclip.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\nheavy = {'torch', 'pandas', 'transformers', 'ultralytics', 'open_clip'} & set(sys.modules)\nsys.exit(' '.join(heavy) or 0)"
    done = run(sys.executable, "-c", code, *arguments)
    assert done.returncode == 0, done.stderr


def test_ultralytics_is_imported_in_its_adapter_alone() -> None:
    allowed = {"fineclip/models/detector.py", "tools/shipped_models/train_detector.py"}
    found = {
        str(path.relative_to(ROOT))
        for folder in ("fineclip", "tools")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"^\s*(from|import) ultralytics", path.read_text(), re.MULTILINE)
    }
    assert found <= allowed


def test_an_unknown_key_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    broken = tmp_path / "config.yaml"
    broken.write_text((ROOT / "config.yaml").read_text().replace("\nfilter:", "\nfliter:"))
    done = run(sys.executable, "-m", "fineclip", "config", str(broken))
    assert done.returncode == 2 and "did you mean filter?" in done.stderr and "Traceback" not in done.stderr

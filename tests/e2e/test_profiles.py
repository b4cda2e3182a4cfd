"""Profiles give a training what it needs; the plan of CC3M's 576 tars takes seconds and no tar."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.helpers.dag import ROOT, edit_config, planned, small_world, snakemake

PROFILES = ROOT / "workflow/profiles"


def profile(name: str) -> dict:
    return yaml.safe_load((PROFILES / name / "config.yaml").read_text())


def test_default_holds_nothing_that_outranks_a_named_profile() -> None:
    keys = set(profile("default"))
    assert keys == {"rerun-incomplete", "nolock", "keep-going", "show-failed-logs", "rerun-triggers"}


@pytest.mark.parametrize("name", ["slurm", "workstation"])
def test_a_profile_names_rules_of_the_workflow(name: str) -> None:
    rules = {
        rule
        for path in (ROOT / "workflow/rules").glob("*.smk")
        for rule in re.findall(r"^rule (\w+):", path.read_text(), re.M)
    }
    values = profile(name)
    assert {*values.get("set-threads", {}), *values.get("set-resources", {})} <= rules


@pytest.mark.parametrize(("name", "threads", "gpus", "memory"), [("workstation", 8, 1, 48000), ("slurm", 16, 1, 96000)])
def test_effective_resources_of_a_training(tmp_path: Path, name: str, threads: int, gpus: int, memory: int) -> None:
    small_world(tmp_path, images=24)
    values = profile(name)
    values.pop("executor", None)  # the plan is what is looked at, and the plugin is not a dependency
    for key in [key for key in values if key.startswith("slurm-")]:
        del values[key]
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile/config.yaml").write_text(yaml.safe_dump(values))
    done = snakemake(tmp_path, "--dry-run", "--profile", "profile", "--cores", "32", "train")
    assert done.returncode == 0, done.stderr
    job = (done.stdout + done.stderr).split("rule train_run:")[1].split("\n\n")[0]
    assert f"threads: {threads}" in job and f"gpu={gpus}" in job and f"mem_mb={memory}" in job


def test_gpus_devices_and_means_reach_the_verbs(tmp_path: Path) -> None:
    small_world(tmp_path, images=24)
    edit_config(tmp_path, {"runtime": {"devices": [1, 3], "num_workers": 2}})
    values = profile("workstation") | {"resources": {"gpu": 2}}
    values["set-resources"]["train_run"]["gpu"] = 2
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile/config.yaml").write_text(yaml.safe_dump(values))
    done = snakemake(tmp_path, "--profile", "profile", "--cores", "4", "--dry-run", "--printshellcmds", "all")
    assert done.returncode == 0, done.stderr
    commands = {text.split(maxsplit=1)[0]: text for text in done.stdout.split("python -m fineclip ")[1:]}
    for verb in ("detect", "caption", "evaluate"):
        assert "--devices 1,3" in commands[verb] and "--gpus 1" in commands[verb]
    assert "--gpus 2" in commands["train"] and "--threads 4" in commands["train"]
    assert """--runtime '{"devices":[1,3],"num_workers":2}'""" in commands["train"]
    without = snakemake(tmp_path, "--dry-run", "--printshellcmds", "all")
    assert "--gpus 0" in without.stdout and "--gpus 1" not in without.stdout


def test_make_slurm_profile_puts_it_where_snakemake_looks(tmp_path: Path) -> None:
    subprocess.run(["make", "slurm-profile", f"SLURM_PROFILES={tmp_path}"], cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "slurm/config.yaml").read_text() == (PROFILES / "slurm/config.yaml").read_text()


def test_cc3m_is_planned_from_empty_files_in_seconds(tmp_path: Path) -> None:
    tars = tmp_path / "data/cc3m"
    tars.mkdir(parents=True)
    for number in range(576):
        (tars / f"cc3m-train-{number:04d}.tar").touch()
    jobs = planned(tmp_path, "--configfile", str(ROOT / "workflow/presets/datasets/cc2.5m.yaml"))
    assert jobs["source_shard"] == jobs["pack_shard"] == 288 and jobs["train_run"] == 12

    (tars / "cc3m-train-0003.tar").unlink()
    half = snakemake(tmp_path, "--dry-run", "--configfile", str(ROOT / "workflow/presets/datasets/cc2.5m.yaml"))
    assert half.returncode == 2 and "575" in half.stderr and "576" in half.stderr and "Traceback" not in half.stderr


def test_real_presets_stop_at_once_without_a_network_and_say_what_to_fetch(tmp_path: Path) -> None:
    small_world(tmp_path, images=12)
    (tmp_path / "data").mkdir()
    (tmp_path / "input").rename(tmp_path / "data/coco")
    done = snakemake(tmp_path, "weights", "--configfile", str(ROOT / "workflow/presets/datasets/coco.yaml"))
    said = done.stdout + done.stderr
    assert done.returncode != 0
    for word in ("EVA02_CLIP_B_psz16_s8B.pt", "QuanSun/EVA-CLIP", "300 MB", "MIT", "checkpoints/"):
        assert word in said, said[-3000:]

"""`fineclip evaluate` and `fineclip export` as people type them."""

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import fineclip
from fineclip.cli import main
from fineclip.models.shipped import shipped
from fineclip.shards import sha256_of
from tests.helpers.coco import write_coco
from tests.helpers.encoders import encoder_config

ROOT = Path(__file__).parents[2]
CONTRACT = {"benchmark", "version", "scores", "inputs", "config", "chance", "protocol", "evaluate_version"}


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """The command line lays its own handlers over those that are there."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.captureWarnings(capture=False)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a small configuration, a small data set in COCO's layout, and the shipped weights."""
    monkeypatch.chdir(tmp_path)
    write_coco(tmp_path / "coco", train=0, val=6)
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    for benchmark in values["benchmarks"].values():
        benchmark["source"]["images"] = 8
    values["benchmarks"] |= {
        "coco.boxes": {"kind": "boxes", "source": {"layout": "coco_panoptic", "root": "coco"}},
        "coco.retrieval": {"kind": "retrieval", "source": {"layout": "coco_captions", "root": "coco"}},
        "absent": {"kind": "retrieval", "source": {"layout": "karpathy", "root": "flickr30k"}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    shutil.copy(shipped("encoder/model.safetensors"), tmp_path / "epoch_10.safetensors")
    shutil.copy(shipped("encoder/bpe.txt.gz"), tmp_path)
    return tmp_path


def run(*arguments: str) -> int:
    return main([str(argument) for argument in arguments])


def table(text: str) -> dict[tuple[str, str], list[str]]:
    header, *lines = [line.split() for line in text.splitlines()]
    assert header == ["benchmark", "metric", "score", "chance", "n"]
    return {(line[0], line[1]): line[2:] for line in lines}


def test_a_file_on_every_benchmark_that_is_there(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name for path in here.iterdir()}
    assert run("evaluate", "--checkpoint", "epoch_10.safetensors", "--encoder", "mini", "--output", "scores") == 0
    printed = capsys.readouterr()
    rows = table(printed.out)
    assert {name for name, _ in rows} == {"boxes", "retrieval", "coco.boxes", "coco.retrieval"}
    assert "benchmark absent is left out: flickr30k does not exist" in printed.err
    assert {path.name for path in here.iterdir()} == before | {"scores"}  # no index is kept
    for name in ("boxes", "retrieval", "coco.boxes", "coco.retrieval"):
        found = json.loads((here / f"scores/{name}.json").read_text())
        assert set(found) == CONTRACT | {"encoder"}
        assert found["benchmark"] == name
        assert found["inputs"]["epoch_10.safetensors"] == sha256_of(here / "epoch_10.safetensors")
        assert found["encoder"] == {"model": "shipped:encoder/mini.json", "head": "mean", "image_size": 96}
        for score in found["scores"]:
            value, chance, n = rows[name, score["metric"]]
            assert (value, n) == (f"{score['value']:.2f}", f"{score['n']:,}")
            assert chance == f"{found['chance'][score['metric']]:.2f}"
    assert "coco/annotations/captions_val2017.json" in found["inputs"]


def test_scores_are_those_of_the_workflow(here: Path) -> None:
    """The run form of the verb, as the rule calls it, on the same weights and data."""
    run("export", "mini", "--layout", "open_clip", "--output", "run")
    config = {"kind": "retrieval", "source": {"layout": "miniature", "images": 8}}
    section = yaml.safe_load((here / "config.yaml").read_text())["encoders"]["mini"]
    (here / "run/config.yaml").write_text(yaml.safe_dump({"encoder": section}))
    names = ["model.safetensors", "open_clip_config.json", "bpe.txt.gz", "config.yaml"]
    outputs = {name: sha256_of(here / "run" / name) for name in names}
    manifest = {"stage": "train", "version": 1, "config": {}, "inputs": {}, "outputs": outputs}
    (here / "run/train.json").write_text(json.dumps(manifest))
    assert run("index", "--manifest", "index/retrieval.json", "--config", json.dumps(config)) == 0
    of_run = ["--run", "run/train.json", "--index", "index/retrieval.json", "--manifest", "run/evals.json"]
    benchmarks = json.dumps({"benchmarks": {"retrieval": config}})
    assert run("evaluate", *of_run, "--device", "cpu", "--config", benchmarks) == 0
    of_file = ["--checkpoint", "run", "--benchmark", "retrieval", "--output", "one.json", "--index", "index"]
    assert run("evaluate", *of_file, "--device", "cpu") == 0
    theirs, ours = (json.loads((here / name).read_text()) for name in ("run/evals/retrieval.json", "one.json"))
    for key in CONTRACT - {"inputs"}:
        assert theirs[key] == ours[key]
    written = (here / "run/evals/retrieval.json").stat().st_mtime_ns
    for options, is_kept in (([], True), (["--force"], False)):
        assert run("evaluate", *of_run, "--device", "cpu", "--config", benchmarks, *options) == 0
        assert ((here / "run/evals/retrieval.json").stat().st_mtime_ns == written) is is_kept
    assert json.loads((here / "run/evals/retrieval.json").read_text()) == theirs


def test_indexes_are_kept_where_that_is_asked_for(here: Path) -> None:
    command = ["evaluate", "--checkpoint", "mini", "--benchmark", "coco.boxes", "--index", "kept", "--output", "a.json"]
    assert run(*command) == 0
    made = (here / "kept/coco.boxes.parquet").stat().st_mtime_ns
    first = (here / "a.json").read_bytes()
    assert run(*command) == 0
    assert (here / "kept/coco.boxes.parquet").stat().st_mtime_ns == made
    assert (here / "a.json").read_bytes() == first
    assert "shipped:encoder/model.safetensors" in json.loads(first)["inputs"]


def test_the_authors_file_by_an_entry_of_the_catalog(here: Path) -> None:
    """What FineCLIP's trainer leaves, of a tower of the authors' kind, exported by us and scored again."""
    config = encoder_config(here, "eva")
    vocabulary = yaml.safe_load((here / "config.yaml").read_text())["encoders"]["mini"]["tokenizer"]
    architecture = json.loads(Path(config.model).read_text())
    architecture["text_cfg"] |= {"vocab_size": 728, "context_length": 20}
    Path(config.model).write_text(json.dumps(architecture))
    values = yaml.safe_load((here / "config.yaml").read_text())
    values["encoders"]["eva.tiny"] = {
        "model": config.model,
        "weights": {"path": "nowhere"},
        "tokenizer": vocabulary,
        "image_size": 32,
        "crop_size": 32,
    }
    (here / "config.yaml").write_text(yaml.safe_dump(values))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = fineclip_encoder(config.model).state_dict()
    torch.save({"state_dict": dict(weights)}, here / "ours.pt")
    assert (
        run(
            "export",
            "ours.pt",
            "--encoder",
            "eva.tiny",
            "--config",
            "config.yaml",
            "--layout",
            "eva_clip",
            "--output",
            "theirs.pt",
        )
        == 0
    )
    for name in ("ours", "theirs"):
        command = ["evaluate", "--checkpoint", f"{name}.pt", "--encoder", "eva.tiny", "--benchmark", "boxes"]
        assert run(*command, "--output", f"{name}.json") == 0
    ours, theirs = (json.loads((here / f"{name}.json").read_text())["scores"] for name in ("ours", "theirs"))
    assert ours == theirs


def fineclip_encoder(model: str) -> Any:
    from fineclip.config import EncoderConfig, WeightsConfig
    from fineclip.models.encoder import build_encoder

    return build_encoder(EncoderConfig(model=model, weights=WeightsConfig(path="x"), image_size=32, crop_size=32))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--checkpoint", "gone.pt", "--encoder", "mini"], "gone.pt: no such file or folder"),
        (["--checkpoint", "epoch_10.safetensors"], "the model of these weights is not known"),
        (
            ["--checkpoint", "epoch_10.safetensors", "--encoder", "EVA02-B-17"],
            "no entry of `encoders` (mini), and model",
        ),
        (
            ["--checkpoint", "mini", "--benchmark", "lvis"],
            "benchmark 'lvis': unknown name; choose from absent, boxes,",
        ),
        (["--checkpoint", "mini", "--benchmark", "absent"], "benchmarks.absent: flickr30k does not exist"),
        (["--checkpoint", "mini", "--output", "x.json"], "--output x.json: is one file, for 4 benchmarks"),
        (["--checkpoint", "mini", "--config", "gone.yaml"], "gone.yaml: cannot be read"),
        (
            ["--run", "train.json", "--index", "a.json"],
            "--run goes with --manifest",
        ),
        (["--run", "train.json", "--encoder", "mini"], "--encoder goes with --checkpoint"),
        (["--run", "train.json", "--output", "b.json"], "--output goes with --checkpoint"),
        (["--run", "train.json", "--benchmark", "boxes"], "--benchmark goes with --checkpoint"),
        (
            ["--run", "r", "--index", "a", "--manifest", "b", "--config", "config.yaml"],
            "--config: with --run, expected the section `benchmarks` as JSON",
        ),
    ],
)
def test_a_mistake_is_one_message(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    before = {path.name for path in here.iterdir()}
    assert run("evaluate", *arguments) == 2
    assert says in capsys.readouterr().err
    assert {path.name for path in here.iterdir()} == before


def test_neither_run_nor_checkpoint_is_a_mistake_too(here: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "fineclip", "evaluate"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "one of the arguments --run --checkpoint is required" in done.stderr


def test_export_and_load(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run("export", "epoch_10.safetensors", "--encoder", "mini", "--layout", "open_clip", "--output", "folder") == 0
    )
    assert fineclip.load("folder").width == 128
    assert run("export", "mini", "--layout", "backbone", "--output", "backbone.safetensors") == 0
    again = ["export", "mini", "--layout", "backbone", "--output", "backbone.safetensors"]
    assert run(*again) == 2
    assert "already exists. Choose another path, or use --force" in capsys.readouterr().err
    assert run(*again, "--force") == 0
    assert run("export", "mini", "--layout", "eva_clip", "--output", "official.pt") == 2
    assert "can be exported as open_clip or as backbone" in capsys.readouterr().err
    assert run("export", "mini", "--layout", "tf", "--output", "x") == 2
    assert "unknown name; choose from open_clip, eva_clip, backbone" in capsys.readouterr().err

"""A run from manifests to a folder of results."""

import json
import os
import shutil
from contextlib import chdir, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import yaml
from safetensors.torch import save_file

from fineclip.config import LoaderConfig, RuntimeConfig, Section, WeightsConfig, parse
from fineclip.errors import ConfigError, TrainingError
from fineclip.identity import identity
from fineclip.methods.fineclip import FineCLIP
from fineclip.models.checkpoints import find_encoder
from fineclip.shards import ConceptRow, Job, TableWriter, invalidate, read_manifest
from fineclip.stages.weights import fetch_weights
from fineclip.train.checkpoint import CheckpointManager
from fineclip.train.distributed import DistributedContext
from fineclip.train.run import BaselineConfig, RunConfig, _state_identity, export_baseline, train_run
from tests.helpers.packs import write_select, write_world
from tests.helpers.processes import run_processes
from tests.helpers.tiny import ARCHITECTURE, tiny_encoder
from tests.helpers.training import TRAIN, lines_of

SIZES = {"a": 6, "b": 3}
CLIP_VOCABULARY = 49408


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with an encoder's weights, a selection and its packed shards."""
    monkeypatch.chdir(tmp_path)
    text = ARCHITECTURE["text_cfg"] | {"vocab_size": CLIP_VOCABULARY}
    Path("tiny.json").write_text(json.dumps(ARCHITECTURE | {"text_cfg": text}), encoding="utf-8")
    weights = tiny_encoder(dtype=torch.float32).state_dict()
    width = weights["token_embedding.weight"].shape[1]
    weights["token_embedding.weight"] = torch.randn(CLIP_VOCABULARY, width, generator=torch.Generator().manual_seed(0))
    save_file({name: value.contiguous() for name, value in weights.items()}, "tiny.safetensors")
    fetch_weights("encoders", "tiny", Path("weights/tiny.json"), WeightsConfig(path="tiny.safetensors"))
    write_world(Path("data"), SIZES)
    return tmp_path


def config_of(*, method: str = "fineclip", options: dict[str, Any] | None = None, **train: Any) -> RunConfig:
    values = {
        "method": method,
        "method_version": 1,
        "encoder": {"model": "tiny.json", "weights": {"path": "tiny.safetensors"}, "image_size": 16, "crop_size": 8},
        "options": options or {},
        "train": TRAIN | train,
    }
    return parse(RunConfig, values, where="train")


def run(config: RunConfig, *, select: Path = Path("data/select.json"), concepts: Path | None = None) -> Path:
    packed = [Path(f"data/pack/{shard}.json") for shard in SIZES]
    manifest = Path("results/set/run/train.json")
    runtime = RuntimeConfig(device="cpu")
    train_run(select, packed, Path("weights/tiny.json"), manifest, config, concepts=concepts, runtime=runtime)
    return manifest.parent


def files_of(folder: Path) -> dict[str, bytes]:
    """Files that must be identical when the run is repeated."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "speed.jsonl"}


def test_files_of_a_run(place: Path) -> None:
    folder = run(config_of())
    names = ["config.yaml", "metrics.jsonl", "model.safetensors", "open_clip_config.json"]
    assert sorted(path.name for path in folder.iterdir()) == [
        ".train.json",
        *names,
        "speed.jsonl",
        "tensorboard",
        "train.json",
    ]
    manifest = read_manifest(folder / "train.json")
    assert sorted(manifest.outputs) == names
    assert set(manifest.inputs) == {"data/select.json", "data/pack/a.json", "data/pack/b.json", "weights/tiny.json"}
    assert (manifest.stage, manifest.read, manifest.kept, manifest.regions) == ("train", 9, 9, 9)
    described = yaml.safe_load((folder / "config.yaml").read_text())
    assert {name: described[name] for name in ("dataset", "run", "method")} == {
        "dataset": "set",
        "run": "run",
        "method": "fineclip",
    }
    assert described["options"]["weights"] == {"global": 1.0, "region": 1.0, "distill": 1.0}
    assert described["train"]["weight_decay"] == 0.1
    trained = find_encoder(folder).load()
    assert trained.logit_scale.item() != tiny_encoder().logit_scale.item()
    assert len(lines_of(folder / "metrics.jsonl")) == 4


def test_finished_run_is_not_repeated_until_something_changes(place: Path) -> None:
    folder = run(config_of())
    before = (folder / "model.safetensors").stat().st_mtime_ns
    run(config_of())
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    (folder / "train.json").unlink()
    (folder / "state").mkdir()  # as a kill right before the end leaves it
    run(config_of())
    assert not (folder / "state").exists()
    assert (folder / "train.json").is_file()
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    content = files_of(folder)
    run(config_of(seed=1))
    assert files_of(folder)["model.safetensors"] != content["model.safetensors"]
    run(config_of())
    assert files_of(folder) == content


def test_killed_run_resumes_to_the_same_files(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run(config_of())
    expected = files_of(folder)
    shutil.rmtree(folder)
    own = FineCLIP.on_step_end

    class KilledError(BaseException):
        pass

    for step in (0, 2, 3):

        def on_step_end(self: FineCLIP, now: int, total: int, step: int = step) -> None:
            own(self, now, total)
            if now == step:
                raise KilledError

        monkeypatch.setattr(FineCLIP, "on_step_end", on_step_end)
        with pytest.raises(KilledError):
            run(config_of())
    monkeypatch.setattr(FineCLIP, "on_step_end", own)
    assert files_of(run(config_of())) == expected


def test_forced_run_is_reproducible(place: Path) -> None:
    folder = run(config_of(method="clip"))
    content = files_of(folder)
    invalidate(folder / "train.json")
    assert files_of(run(config_of(method="clip"))) == content


def test_unselected_shards_are_not_inputs(place: Path) -> None:
    select = write_select(Path("data/few.json"), {"b": ["b-000000", "b-000002"]})
    manifest = read_manifest(run(config_of(), select=select) / "train.json")
    assert set(manifest.inputs) == {"data/few.json", "data/pack/b.json", "weights/tiny.json"}
    assert (manifest.read, manifest.kept) == (2, 2)


def test_lost_and_dropped_samples_are_counted(place: Path) -> None:
    select = write_select(Path("data/more.json"), {"a": ["a-000000", "a-000001", "a-000002", "a-000099"]})
    manifest = read_manifest(
        run(config_of(max_missing_fraction=0.5, require_region=True), select=select) / "train.json"
    )
    assert (manifest.read, manifest.kept, manifest.dropped) == (4, 2, {"no-region": 1, "not-packed": 1})


def test_failed_run_stops_until_the_configuration_changes(place: Path) -> None:
    with pytest.raises(TrainingError, match="no longer finite at step"):
        run(config_of(learning_rate=1e30))
    with pytest.raises(TrainingError, match=r"failed\.json"):
        run(config_of(learning_rate=1e30))
    assert (run(config_of()) / "train.json").is_file()


def test_second_process_is_locked_out(place: Path) -> None:
    with (
        CheckpointManager(Path("results/set/run/state"), "any").locked(),
        pytest.raises(TrainingError, match="trains here"),
    ):
        run(config_of())


def test_baseline_is_a_run(place: Path) -> None:
    manifest = Path("results/set/pretrained-tiny/train.json")
    config = parse(BaselineConfig, {"encoder": config_of().encoder.model_dump()}, where="encoders")
    export_baseline(Path("weights/tiny.json"), manifest, config)
    described = yaml.safe_load((manifest.parent / "config.yaml").read_text())
    assert described["method"] is None
    made = read_manifest(manifest)
    assert (made.stage, made.read, "metrics.jsonl" in made.outputs) == ("train", 0, False)
    published = find_encoder(manifest.parent).load()
    assert torch.equal(published.logit_scale, tiny_encoder(dtype=torch.float32).logit_scale)
    before = (manifest.parent / "model.safetensors").stat().st_mtime_ns
    export_baseline(Path("weights/tiny.json"), manifest, config)
    assert (manifest.parent / "model.safetensors").stat().st_mtime_ns == before


def test_identity_has_values_that_differ_from_defaults() -> None:
    config = config_of(options={"weights": {"global": 0.125, "region": 1.0}})
    found = identity(config)
    assert found["options"] == {"weights": {"global": 0.125}}
    assert found["train"] == TRAIN
    assert parse(RunConfig, found, where="again") == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"options": {"crop_scael": 2}}, r"methods.fineclip: crop_scael: unknown key, did you mean crop_scale\?"),
        ({"method": "fancyclip"}, "'fancyclip' is not a method; methods are clip, "),
        ({"method_version": 99}, "planned for version 99 of fineclip, but the code has version 1"),
    ],
)
def test_wrong_configuration_is_refused(values: dict[str, Any], message: str) -> None:
    plain = config_of().model_dump(by_alias=True)
    with pytest.raises(ConfigError, match=message):
        parse(RunConfig, plain | values, where="train")


def test_vocabulary_requires_an_encoder_with_one(place: Path) -> None:
    config = config_of()
    encoder = config.encoder.model_copy(update={"tokenizer": WeightsConfig(path="tiny.txt.gz")})
    with pytest.raises(ConfigError, match="give both, or neither"):
        run(config.model_copy(update={"encoder": encoder}))


def test_a_run_config_is_a_section() -> None:
    assert isinstance(config_of().options, Section)


def concepts_of(*names: str) -> Path:
    manifest = Path("data/concepts/own/all.json")
    with TableWriter(Job(manifest, "concepts", 1, {}, {}), ConceptRow) as table:
        for name in names:
            table.write(ConceptRow(key=name, kept=name != "rare", reason="rare" if name == "rare" else None, count=1))
    return manifest


@pytest.mark.parametrize("targets", ["labels", "pseudo"])
def test_method_uses_kept_concepts(place: Path, targets: str) -> None:
    config = config_of(method="regionclip", options={"targets": targets, "prompts": "photo"})
    folder = run(config, concepts=concepts_of("thing", "other", "rare"))
    assert "data/concepts/own/all.json" in read_manifest(folder / "train.json").inputs
    lines = lines_of(folder / "metrics.jsonl")
    assert len(lines) == 4 and all(line["regions"] > 0 for line in lines)
    before = (folder / "model.safetensors").read_bytes()
    run(config, concepts=concepts_of("thing", "another"))
    assert (folder / "model.safetensors").read_bytes() != before


def test_regions_without_concept_are_dropped(place: Path) -> None:
    folder = run(config_of(method="regionclip"), concepts=concepts_of("rare", "other"))
    assert all(line["regions"] == line["concept"] == 0 for line in lines_of(folder / "metrics.jsonl"))


def test_concepts_only_for_methods_that_need_them(place: Path) -> None:
    with pytest.raises(ConfigError, match="regionclip needs concepts: set --concepts FILE"):
        run(config_of(method="regionclip"))
    with pytest.raises(ConfigError, match="fineclip does not use concepts: omit --concepts"):
        run(config_of(), concepts=concepts_of("thing"))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Trainings that `train_run` starts; the loop makes no step."""
    trainings: list[Any] = []

    def train(training: Any) -> None:
        trainings.append(training)
        (training.folder / "metrics.jsonl").touch()

    monkeypatch.setattr("fineclip.train.run.train", train)
    return trainings


def test_shards_keep_the_order_of_the_selection(place: Path, started: list[Any]) -> None:
    select = write_select(Path("data/backwards.json"), {"b": ["b-000001", "b-000000"], "a": ["a-000003"]})
    run(config_of(), select=select)
    shards = started[0].samples.shards
    assert [shard.tar.name for shard in shards] == ["b.tar", "a.tar"]
    assert [list(shard.keys) for shard in shards] == [[b"b-000001", b"b-000000"], [b"a-000003"]]


def test_configuration_reaches_the_training(place: Path, started: list[Any]) -> None:
    config = config_of(options={"crop_scale": 2.0, "relaxed": {"max_regions": 1}}, seed=7, weight_decay=0.25)
    config = config.model_copy(update={"loader": LoaderConfig(image_backend="pillow")})
    runtime = RuntimeConfig(device="cpu", keep_checkpoints=5, crop_micro_batch_size=3, num_workers=2)
    packed = [Path(f"data/pack/{shard}.json") for shard in SIZES]
    manifest = Path("results/set/run/train.json")
    before = torch.get_num_threads()
    try:
        train_run(
            Path("data/select.json"), packed, Path("weights/tiny.json"), manifest, config, runtime=runtime, threads=3
        )
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    (training,) = started
    assert training.config == config.train and training.config.seed == training.samples.seed == 7
    assert training.runtime == runtime
    assert training.checkpoints.keep == 5
    assert training.folder == manifest.parent
    assert training.method.config == config.options
    assert training.samples.transform.config == config.options
    assert training.samples.transform.max_regions == 1
    inputs = training.collate.data_spec
    assert (inputs.image_size, inputs.crop_size, inputs.loader.image_backend) == (16, 8, "pillow")
    assert training.samples.transform.data_spec == inputs


@pytest.mark.parametrize(
    ("device", "deterministic", "calls"), [("cuda", True, [True]), ("cuda", False, []), ("cpu", True, [])]
)
def test_deterministic_kernels_only_on_a_gpu(
    place: Path,
    started: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    deterministic: bool,
    calls: list[bool],
) -> None:
    """No GPU is used: the encoder stays where it is and the loop makes no step."""
    asked: list[bool] = []
    processes = DistributedContext(0, 1, torch.device(device))
    monkeypatch.setattr("fineclip.train.run.init_distributed", lambda _: nullcontext(processes))
    monkeypatch.setattr("fineclip.models.encoder.RegionEncoder.to", lambda self, _: self)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda *, mode: asked.append(mode))
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    run(config_of(deterministic=deterministic))
    assert (len(started), asked) == (1, calls)
    assert (os.environ.get("CUBLAS_WORKSPACE_CONFIG") == ":4096:8") == bool(calls)


def test_lock_and_marker_stop_all_ranks(place: Path) -> None:
    folder = Path("results/set/run/state")
    with CheckpointManager(folder, "any").locked():
        messages = run_processes(refusal, range(2), [place] * 2)
        assert all(message.startswith(f"{folder}: process {os.getpid()} on") for message in messages)
    with pytest.raises(TrainingError, match="no longer finite at step"):
        run(config_of(learning_rate=1e30))
    messages = run_processes(refusal, range(2), [place] * 2)
    assert all("no longer finite at step" in message and "failed.json" in message for message in messages)


def refusal(rank: int, folder: Path) -> str:
    with chdir(folder), pytest.raises(TrainingError) as raised:
        run(config_of(learning_rate=1e30))
    return str(raised.value)


def test_two_ranks_write_one_run(place: Path) -> None:
    """Only the main process writes, and a finished run is skipped on both ranks."""
    written = run_processes(run_of_a_rank, range(2), [place] * 2)
    assert written[0] == written[1] > 0
    assert read_manifest(Path("results/set/run/train.json")).kept == 9
    assert not Path("results/set/run/state").exists()


def run_of_a_rank(rank: int, folder: Path) -> int:
    with chdir(folder):
        run(config_of(max_steps=2))
        dist.barrier()
        made = Path("results/set/run/model.safetensors").stat().st_mtime_ns
        run(config_of(max_steps=2))
        assert Path("results/set/run/model.safetensors").stat().st_mtime_ns == made
        return made


def test_checkpoints_belong_to_version_configuration_and_inputs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [Path("data/select.json"), Path("weights/tiny.json")]
    own = _state_identity(config_of(), inputs)
    assert _state_identity(config_of(), inputs) == own
    others = {_state_identity(config_of(seed=1), inputs), _state_identity(config_of(), inputs[:1])}
    monkeypatch.setitem(_state_identity.__globals__, "VERSION", 99)
    others.add(_state_identity(config_of(), inputs))
    assert len(others - {own}) == 3

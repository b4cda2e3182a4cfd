"""An interrupted training resumes to the same result, and a failed one is marked."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fineclip.errors import ConfigError, DataError, ShardError, TrainingError
from fineclip.train.distributed import DistributedContext
from fineclip.train.grad_cache import MicroBatchSizes
from fineclip.train.memory import MemoryCosts, RankBatchSize, estimate_memory
from fineclip.train.optim import learning_rate
from fineclip.train.train import train
from fineclip.version import __version__
from tests.helpers.packs import sample, write_pack, write_select, write_world
from tests.helpers.processes import run_processes
from tests.helpers.training import CONFIG, lines_of, stop_before, training_of, weights_of

World = tuple[Path, list[Path]]
Undisturbed = tuple[dict[str, torch.Tensor], Path]
SIZES = {"a": 6, "b": 4, "c": 6}  # 4 steps an epoch, 12 in all


class Killed(BaseException):
    """Stands for kill -9: no handler below runs."""


def kill() -> None:
    raise Killed


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_world(tmp_path_factory.mktemp("world"), SIZES)


@pytest.fixture(scope="module")
def undisturbed(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], Path]:
    folder = tmp_path_factory.mktemp("undisturbed")
    training = training_of(world, folder)
    train(training)
    return weights_of(training), folder


def test_metrics_are_reproducible(undisturbed: Undisturbed) -> None:
    lines = lines_of(undisturbed[1] / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 4, 6, 8, 10, 12]
    assert [line["epoch"] for line in lines] == [0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    for line in lines:
        assert list(line) == [
            *("step", "epoch", "learning_rate", "logit_scale", "images", "regions"),
            *("total", "global", "region", "distill"),
        ]
        assert line["total"] == pytest.approx(line["global"] + line["region"] + line["distill"])
        assert line["images"] == 4
        assert line["learning_rate"] == learning_rate(line["step"] - 1, total=12, peak=1e-2, warmup=2)
    speeds = lines_of(undisturbed[1] / "speed.jsonl")
    assert [line["step"] for line in speeds] == [line["step"] for line in lines]
    assert all(line["images_per_second"] > 0 and 0 <= line["data_wait_share"] <= 1 for line in speeds)


def test_loss_decreases(world: World, tmp_path: Path) -> None:
    train(training_of(world, tmp_path, epochs=12, batch_size=16, log_every_steps=1))
    totals = [line["total"] for line in lines_of(tmp_path / "metrics.jsonl")]
    assert totals[-1] < 0.8 * totals[0]


@pytest.mark.parametrize(("step", "saved"), [(0, 1), (4, 5)])
def test_resume_after_signal_is_bit_identical(
    world: World, undisturbed: Undisturbed, tmp_path: Path, step: int, saved: int
) -> None:
    first = training_of(world, tmp_path)
    stop_before(first, step, terminate)
    with pytest.raises(SystemExit) as ended:
        train(first)
    assert ended.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert first.checkpoints.load_latest() is not None
    assert first.checkpoints.load_latest()[0] == saved
    assert_same_result(training_of(world, tmp_path), undisturbed)


def test_a_stop_before_the_first_step_saves_nothing(world: World, tmp_path: Path) -> None:
    training = training_of(world, tmp_path)
    own = training.samples.transform

    def terminated(*arguments: Any) -> object:
        terminate()
        return own(*arguments)

    training.samples.transform = terminated
    with pytest.raises(SystemExit) as ended:
        train(training)
    assert ended.value.code == 128 + signal.SIGTERM
    assert training.checkpoints.load_latest() is None


def test_resume_after_time_limit(
    world: World, undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, now = training_of(world, tmp_path, runtime={"time_limit_min": 2}), [1000.0]
    monkeypatch.setattr("fineclip.train.preemption.time.monotonic", lambda: now[0])
    stop_before(first, 4, lambda: now.append(now.pop() + 121))
    with pytest.raises(SystemExit) as ended:
        train(first)
    assert ended.value.code == 128 + signal.SIGTERM
    assert first.checkpoints.load_latest()[0] == 5
    monkeypatch.undo()
    assert_same_result(training_of(world, tmp_path), undisturbed)


@pytest.mark.parametrize("step", [1, 7])
def test_resume_after_kill_is_bit_identical(world: World, undisturbed: Undisturbed, tmp_path: Path, step: int) -> None:
    first = training_of(world, tmp_path)
    stop_before(first, step, kill)
    with pytest.raises(Killed):
        train(first)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1')  # torn by the kill
    assert_same_result(training_of(world, tmp_path), undisturbed)


def test_damaged_checkpoint_is_skipped(world: World, undisturbed: Undisturbed, tmp_path: Path) -> None:
    first = training_of(world, tmp_path)
    stop_before(first, 10, kill)
    with pytest.raises(Killed):
        train(first)
    newest = max((tmp_path / "state").glob("*.pt"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    assert first.checkpoints.load_latest()[0] == 6
    assert_same_result(training_of(world, tmp_path), undisturbed)


def assert_same_result(training: object, undisturbed: Undisturbed) -> None:
    train(training)
    weights, folder = undisturbed
    now = weights_of(training)
    assert all(torch.equal(now[name], value) for name, value in weights.items())
    assert (training.folder / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()


def test_workers_change_no_result(world: World, undisturbed: Undisturbed, tmp_path: Path) -> None:
    assert_same_result(training_of(world, tmp_path, workers=1), undisturbed)


def test_three_ranks_resume_bit_identically_and_equal_one(
    world: World, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    folders = [tmp_path] * 3
    results = run_processes(whole_and_resumed, range(3), [3] * 3, [world] * 3, folders)
    for whole, resumed in results:
        assert all(torch.equal(resumed[name], value) for name, value in whole.items())
        assert all(torch.equal(results[0][0][name], value) for name, value in whole.items())
    metrics = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "resumed")]
    assert metrics[0] == metrics[1]
    alone = lines_of(undisturbed[1] / "metrics.jsonl")
    for line, expected in zip(lines_of(tmp_path / "whole/metrics.jsonl"), alone, strict=True):
        assert line == pytest.approx(expected, rel=1e-2)


def whole_and_resumed(rank: int, world_size: int, world: World, folder: Path) -> tuple[object, object]:
    """Weights of an uninterrupted training, and of one that a signal to rank 1 stopped."""
    whole = training_of(world, folder / "whole", rank=rank, world_size=world_size)
    train(whole)
    first = training_of(world, folder / "resumed", rank=rank, world_size=world_size)
    if rank == 1:
        stop_before(first, 4, terminate)
    with pytest.raises(SystemExit):
        train(first)
    second = training_of(world, folder / "resumed", rank=rank, world_size=world_size)
    train(second)
    return weights_of(whole), weights_of(second)


def test_nan_loss_marks_the_run_as_failed(world: World, tmp_path: Path) -> None:
    training = training_of(world, tmp_path)
    stop_before(training, 1, lambda: training.method.encoder.logit_scale.data.fill_(float("nan")))
    with pytest.raises(TrainingError, match="no longer finite at step 3 of 12: total nan"):
        train(training)
    with pytest.raises(TrainingError, match=r"(?s)no longer finite at step 3 of 12.*failed\.json"):
        training.checkpoints.raise_if_failed_before()


def test_undecodable_sample_marks_the_run_as_failed(tmp_path: Path) -> None:
    manifest = write_pack(tmp_path / "pack", "a", [sample("a-000000", image=b"GIF89a"), sample("a-000001")])
    select = write_select(tmp_path / "select.json", {"a": ["a-000000", "a-000001"]})
    training = training_of((select, [manifest]), tmp_path / "run")
    with pytest.raises(DataError, match="a-000000"):
        train(training)
    with pytest.raises(TrainingError, match="a-000000"):
        training.checkpoints.raise_if_failed_before()


def test_a_missing_shard_does_not_mark_the_run_as_failed(tmp_path: Path) -> None:
    """It can be restored, and the next attempt then succeeds."""
    select, [manifest] = write_world(tmp_path / "world", {"a": 4})
    training = training_of((select, [manifest]), tmp_path / "run", max_steps=1)
    tar = manifest.with_suffix(".tar")
    tar.rename(tmp_path / "a.tar")
    with pytest.raises(ShardError, match=r"a\.tar"):
        train(training)
    training.checkpoints.raise_if_failed_before()
    (tmp_path / "a.tar").rename(tar)
    train(training_of((select, [manifest]), tmp_path / "run", max_steps=1))


def test_failure_of_one_rank_stops_all(world: World, tmp_path: Path) -> None:
    messages = run_processes(fail_on_rank_1, range(2), [world] * 2, [tmp_path] * 2)
    assert "another process of this training has failed" in messages[0]
    assert "broken" in messages[1]


def fail_on_rank_1(rank: int, world: World, folder: Path) -> str:
    training = training_of(world, folder, rank=rank, world_size=2)
    if rank == 1:

        def fail(*_: object) -> None:
            raise DataError("broken")

        training.samples.transform = fail
    try:
        train(training)
    except (DataError, TrainingError) as error:
        return str(error)
    return ""


def test_warmup_longer_than_training_is_logged(world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(training_of(world, tmp_path, warmup_steps=100, max_steps=2))
    assert "warmup_steps: 100 is not less than the 2 steps" in caplog.text


def test_bf16_keeps_weights_and_losses_in_float32(world: World, tmp_path: Path) -> None:
    training = training_of(world, tmp_path, precision="bf16", max_steps=2, max_grad_norm=1.0)
    train(training)
    assert {value.dtype for value in training.method.parameters()} == {torch.float32}
    plain = training_of(world, tmp_path / "plain", max_steps=2, max_grad_norm=1.0)
    train(plain)
    first = [lines_of(path / "metrics.jsonl")[0] for path in (tmp_path, tmp_path / "plain")]
    assert first[0]["total"] == pytest.approx(first[1]["total"], rel=0.02)
    assert first[0]["total"] != first[1]["total"]


def test_gradient_norm_is_clipped(world: World, tmp_path: Path) -> None:
    training = training_of(world, tmp_path, max_steps=1, max_grad_norm=1e-3)
    train(training)
    gradients = [parameter.grad for parameter in training.method.parameters() if parameter.grad is not None]
    assert torch.nn.utils.get_total_norm(gradients).item() == pytest.approx(1e-3, rel=1e-3)
    assert CONFIG.max_grad_norm is None


CUT: Mapping[str, Any] = {"crop_micro_batch_size": 2, "image_micro_batch_size": 3}


def test_micro_batches_change_no_result(world: World, tmp_path: Path, undisturbed: Undisturbed) -> None:
    train(training_of(world, tmp_path, runtime=CUT))
    for line, expected in zip(
        lines_of(tmp_path / "metrics.jsonl"), lines_of(undisturbed[1] / "metrics.jsonl"), strict=True
    ):
        assert line == pytest.approx(expected, rel=1e-2)


def test_memory_limit_sets_micro_batches_and_is_logged(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        plenty = training_of(world, tmp_path / "plenty")
        rows = plenty.rank_batch_size
        costs = estimate_memory(plenty.method, plenty.encoder_calls, rows, dtype=None, is_distributed=False)
        limit = costs.total(images=2, crops=3) / 1e9
        training = training_of(world, tmp_path, runtime={"memory_gb": limit}, max_steps=3)
        sizes = train(training).micro_batches
    assert costs.total(sizes.images or rows.images, sizes.crops or rows.regions) <= limit * 1e9
    assert sizes.splits
    assert f"(limit {limit:.3g} GB)" in caplog.text
    assert f"micro-batch per process: {sizes.images} images, {sizes.crops} crops" in caplog.text
    assert "peak memory" in caplog.text
    with pytest.raises(ConfigError, match=r"runtime.memory_gb: 1e-05 GB .*one image and one crop"):
        train(training_of(world, tmp_path / "none", runtime={"memory_gb": 0.00001}))


def test_resume_keeps_micro_batches_of_the_checkpoint(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = training_of(world, tmp_path / "whole", runtime=CUT)
    train(whole)
    first = training_of(world, tmp_path, runtime=CUT)
    stop_before(first, 4, terminate)
    with pytest.raises(SystemExit):
        train(first)
    second = training_of(world, tmp_path)
    assert train(second).micro_batches == MicroBatchSizes(crops=2, images=3)
    assert all(torch.equal(weights_of(second)[name], value) for name, value in weights_of(whole).items())
    assert "differ from those of the checkpoint" not in caplog.text


def test_resume_with_less_memory_changes_micro_batches(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = training_of(world, tmp_path)
    stop_before(first, 4, terminate)
    with pytest.raises(SystemExit):
        train(first)
    rows = first.rank_batch_size
    costs = estimate_memory(first.method, first.encoder_calls, rows, dtype=None, is_distributed=False)
    limit = costs.total(images=2, crops=3) / 1e9
    second = training_of(world, tmp_path, runtime={"memory_gb": limit})
    assert train(second).micro_batches.splits
    assert "differ from those of the checkpoint" in caplog.text


def test_changed_micro_batches_are_logged(world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = training_of(world, tmp_path, runtime=CUT)
    stop_before(first, 4, terminate)
    with pytest.raises(SystemExit):
        train(first)
    train(training_of(world, tmp_path, runtime={"crop_micro_batch_size": 1}))
    assert "differ from those of the checkpoint" in caplog.text


def test_fp16_resumes_with_its_loss_scale(world: World, tmp_path: Path) -> None:
    whole = training_of(world, tmp_path / "whole", precision="fp16")
    state = train(whole)
    assert state.model.scaler is state.scaler and state.scaler.is_enabled()
    first = training_of(world, tmp_path, precision="fp16")
    stop_before(first, 5, terminate)
    with pytest.raises(SystemExit):
        train(first)
    found = first.checkpoints.load_latest()
    assert found is not None
    assert found[1]["scaler"]["scale"] > 0
    second = training_of(world, tmp_path, precision="fp16")
    train(second)
    assert all(torch.equal(weights_of(second)[name], value) for name, value in weights_of(whole).items())


def test_content_of_a_checkpoint(world: World, tmp_path: Path) -> None:
    first = training_of(world, tmp_path)
    stop_before(first, 5, terminate)
    with pytest.raises(SystemExit):
        train(first)
    found = first.checkpoints.load_latest()
    assert found is not None
    step, content = found
    assert step == 6
    assert content["position"] == {"epoch": 1, "step": 2}
    assert content["config"]["batch_size"] == 4
    assert content["code"] == __version__
    assert set(content) == {
        *("method", "optimizer", "scaler", "monitor", "micro_batches", "position", "config", "code"),
    }


def test_divergence_marks_the_run_as_failed_with_its_samples(world: World, tmp_path: Path) -> None:
    training = training_of(world, tmp_path, epochs=12, divergence_factor=1.5, learning_rate=1e-9)
    stop_before(training, 1, lambda: training.method.encoder.logit_scale.data.fill_(4.6))
    with pytest.raises(TrainingError, match=r"diverges.*Batch: [abc]-\d+, "):
        train(training)
    with pytest.raises(TrainingError, match=r"failed\.json"):
        training.checkpoints.raise_if_failed_before()


def test_tensorboard_has_the_values_of_the_files(world: World, tmp_path: Path) -> None:
    first = training_of(world, tmp_path, runtime={"tensorboard": True})
    stop_before(first, 7, kill)
    with pytest.raises(Killed):
        train(first)
    train(training_of(world, tmp_path, runtime={"tensorboard": True}))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    lines = lines_of(tmp_path / "metrics.jsonl")
    shown = {event.step: event.value for event in events.Scalars("loss/total")}
    assert shown == pytest.approx({line["step"]: line["total"] for line in lines})
    assert {"learning_rate", "logit_scale", "loss/distill", "images_per_second", "regions_per_second"} <= set(
        events.Tags()["scalars"]
    )


# Every key of `train`: a value that must change the weights after a few steps, or the test that shows its effect.
CHANGED: Mapping[str, Any] = {
    "seed": 1,
    "batch_size": 5,
    "epochs": 1,
    "max_steps": 2,
    "learning_rate": 2e-2,
    "warmup_steps": 1,
    "weight_decay": 0.9,
    "betas": (0.5, 0.6),
    "eps": 1e-2,
    "max_grad_norm": 1e-4,
    "precision": "bf16",
    "max_regions": 1,
    "require_region": True,
    "shuffle_shards": 1,
}
TESTED_ELSEWHERE = {
    "divergence_factor": "test_divergence_marks_the_run_as_failed_with_its_samples",
    "max_missing_fraction": "test_run.test_lost_and_left_out_samples_are_counted",
    "deterministic": "test_run.test_deterministic_kernels_are_asked_for_on_a_gpu_alone",
    "checkpoint_every_steps": "test_intervals_of_log_lines_and_checkpoints",
    "log_every_steps": "test_intervals_of_log_lines_and_checkpoints",
}


@pytest.fixture(scope="module")
def few_steps(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    training = training_of(world, tmp_path_factory.mktemp("few"), max_steps=5)
    train(training)
    return weights_of(training)


def test_every_key_of_train_has_a_test() -> None:
    assert {*CHANGED, *TESTED_ELSEWHERE} == set(type(CONFIG).model_fields)


@pytest.mark.parametrize("name", CHANGED)
def test_every_key_changes_the_weights(
    world: World, few_steps: dict[str, torch.Tensor], tmp_path: Path, name: str
) -> None:
    training = training_of(world, tmp_path, **{"max_steps": 5, name: CHANGED[name]})
    train(training)
    found = weights_of(training)
    assert any(not torch.equal(found[key], value) for key, value in few_steps.items())


def test_intervals_of_log_lines_and_checkpoints(
    world: World, few_steps: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    training = training_of(world, tmp_path, max_steps=5, log_every_steps=3, checkpoint_every_steps=2)
    saved, save = [], training.checkpoints.save
    object.__setattr__(training.checkpoints, "save", lambda step, content: (saved.append(step), save(step, content)))
    train(training)
    assert saved == [2, 4]
    assert [line["step"] for line in lines_of(tmp_path / "metrics.jsonl")] == [1, 3, 5]
    assert all(torch.equal(weights_of(training)[key], value) for key, value in few_steps.items())


def seeds_of(training: object) -> list[tuple[int, int]]:
    """Seeds of torch and of the batch at each step; filled while the training runs."""
    seen: list[tuple[int, int]] = []
    own = training.method.encode

    def encode(batch: object) -> object:
        seen.append((torch.initial_seed(), batch.seed))
        return own(batch)

    object.__setattr__(training.method, "encode", encode)
    return seen


def test_random_draws_depend_on_seed_step_and_rank(world: World, tmp_path: Path) -> None:
    alone = training_of(world, tmp_path / "alone")
    whole = seeds_of(alone)
    train(alone)
    assert len(whole) == len(set(whole)) == 12
    assert not {torch_seed for torch_seed, _ in whole} & {batch_seed for _, batch_seed in whole}
    first = training_of(world, tmp_path / "torn")
    stop_before(first, 4, terminate)
    with pytest.raises(SystemExit):
        train(first)
    second = training_of(world, tmp_path / "torn")
    resumed = seeds_of(second)
    train(second)
    assert resumed == whole[5:]
    other = training_of(world, tmp_path / "other", seed=1, max_steps=3)
    others = seeds_of(other)
    train(other)
    assert not {each for pair in others for each in pair} & {each for pair in whole for each in pair}
    everywhere = run_processes(seeds_of_a_rank, range(2), [world] * 2, [tmp_path / "two"] * 2)
    assert everywhere[0] == whole[:3]  # the first process draws as one alone does
    assert [batch_seed for _, batch_seed in everywhere[1]] == [batch_seed for _, batch_seed in whole[:3]]
    assert not {torch_seed for torch_seed, _ in everywhere[1]} & {torch_seed for torch_seed, _ in whole}


def seeds_of_a_rank(rank: int, world: World, folder: Path) -> list[tuple[int, int]]:
    training = training_of(world, folder, rank=rank, world_size=2, max_steps=3)
    seen = seeds_of(training)
    train(training)
    return seen


def test_unsynchronized_gradients_are_detected_at_start_and_after_resume(world: World, tmp_path: Path) -> None:
    for complaints in run_processes(unsynchronized, range(2), [world] * 2, [tmp_path] * 2):
        assert len(complaints) == 2
        assert all("gradients differ between ranks" in complaint for complaint in complaints)


class Unsynchronized(DistributedContext):
    """Ranks that do not average gradients."""

    def wrap(self, module: torch.nn.Module) -> torch.nn.Module:
        return module


def unsynchronized(rank: int, world: World, folder: Path) -> list[str]:
    complaints = []
    for name, resumes in (("fresh", False), ("resumed", True)):
        if resumes:
            first = training_of(world, folder / name, rank=rank, world_size=2)
            stop_before(first, 4, terminate)
            with pytest.raises(SystemExit):
                train(first)
        training = training_of(world, folder / name, rank=rank, world_size=2)
        object.__setattr__(training, "context", Unsynchronized(rank, 2, torch.device("cpu")))
        try:
            train(training)
        except TrainingError as error:
            complaints.append(str(error))
    return complaints


def test_resume_restores_the_first_loss(world: World, tmp_path: Path) -> None:
    """The loss grows right after the resume, so that only the restored first loss shows it."""
    still: dict[str, Any] = {"epochs": 12, "divergence_factor": 1.5, "learning_rate": 1e-9}
    first = training_of(world, tmp_path, **still)
    stop_before(first, 4, terminate)
    with pytest.raises(SystemExit):
        train(first)
    first_loss = lines_of(tmp_path / "metrics.jsonl")[0]["total"]
    step, content = first.checkpoints.load_latest()
    assert content["monitor"]["first"] == pytest.approx(first_loss)
    assert len(content["monitor"]["recent"]) == step == 5
    content["method"]["encoder.logit_scale"].fill_(4.6)
    first.checkpoints.save(step, content)
    with pytest.raises(TrainingError, match=f"diverges.*first loss {first_loss:g} "):
        train(training_of(world, tmp_path, **still))


def test_runtime_options_reach_the_encoder(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    training = training_of(world, tmp_path, runtime={"activation_checkpointing": True, "compile": True}, max_steps=1)
    trunk = training.method.encoder.trunk
    monkeypatch.setattr(type(trunk), "compile", lambda self: calls.append("compiled"))
    assert train(training).micro_batches == MicroBatchSizes(64, pad_crops=True)
    assert (calls, trunk.checkpointing) == (["compiled"], True)
    named = training_of(world, tmp_path / "named", runtime={"compile": True, "crop_micro_batch_size": 3}, max_steps=1)
    assert train(named).micro_batches == MicroBatchSizes(3, pad_crops=True)
    plain = training_of(world, tmp_path / "plain", max_steps=1)
    assert train(plain).micro_batches == MicroBatchSizes()
    assert (calls, plain.method.encoder.trunk.checkpointing) == (["compiled"] * 2, False)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", None), ("bf16", torch.bfloat16)])
def test_memory_is_estimated_for_precision_and_rank_batch_size(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, dtype: torch.dtype | None
) -> None:
    asked: list[tuple[RankBatchSize, dict[str, object]]] = []

    def costs(_: object, __: object, rows: RankBatchSize, **options: object) -> MemoryCosts:
        asked.append((rows, options))
        return MemoryCosts(0, 0, 0, 0)

    monkeypatch.setattr("fineclip.train.memory.estimate_memory", costs)
    training = training_of(world, tmp_path, runtime={"memory_gb": 1}, max_steps=1, precision=precision)
    train(training)
    assert asked == [(RankBatchSize(4, 8, 4, 8), {"dtype": dtype, "is_distributed": False})]
    assert training_of(world, tmp_path / "three", world_size=3, batch_size=5).rank_batch_size == RankBatchSize(
        2, 4, 5, 10
    )


def test_the_time_limit_is_in_minutes(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, now = training_of(world, tmp_path, runtime={"time_limit_min": 2}), [1000.0]
    monkeypatch.setattr("fineclip.train.preemption.time.monotonic", lambda: now[0])
    stop_before(first, 1, lambda: now.append(now.pop() + 119))  # not over yet
    stop_before(first, 4, lambda: now.append(now.pop() + 2))
    with pytest.raises(SystemExit):
        train(first)
    assert first.checkpoints.load_latest()[0] == 5

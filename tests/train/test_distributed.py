"""Agreement of ranks, and the device of each rank."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import nn

from fineclip.errors import ConfigError, TrainingError
from fineclip.train.distributed import DistributedContext, StepSignal, init_distributed
from tests.helpers.processes import run_processes

CPU = torch.device("cpu")


def message_of(action: Callable[[], object]) -> str:
    try:
        return f"returned {action()}"
    except (ConfigError, TrainingError) as error:
        return f"{type(error).__name__} {error}"


def test_result_and_error_of_the_main_process_reach_all_ranks() -> None:
    assert run_processes(act_on_main, range(2)) == [["returned 7", "ConfigError no such file", "returned None"]] * 2


def act_on_main(rank: int) -> list[str]:
    processes, calls = DistributedContext(rank, 2, CPU), []

    def fails() -> None:
        raise ConfigError("no such file")

    found = [
        message_of(lambda: processes.run_on_main(lambda: 7 + rank)),
        message_of(lambda: processes.run_on_main(fails)),
        message_of(lambda: processes.run_on_main(lambda: calls.append(rank))),
    ]
    assert calls == ([0] if rank == 0 else [])
    return found


def test_error_on_a_single_rank() -> None:
    def fails() -> None:
        raise TrainingError("full")

    with pytest.raises(TrainingError, match="full"):
        DistributedContext(0, 1, CPU).run_on_main(fails)


def test_counts_and_maximum_of_signals() -> None:
    outcomes = run_processes(exchanged, range(3))
    assert (
        outcomes == [[((1, 2, 3), (10, 20, 30), StepSignal.CONTINUE), ((1, 2, 3), (10, 20, 30), StepSignal.ABORT)]] * 3
    )


def exchanged(rank: int) -> list[tuple[tuple[int, ...], tuple[int, ...], StepSignal]]:
    processes, found = DistributedContext(rank, 3, CPU), []
    for signals in ((StepSignal.CONTINUE,) * 3, (StepSignal.STOP, StepSignal.ABORT, StepSignal.CONTINUE)):
        counts, signal = processes.all_gather_counts(1 + rank, 10 * (1 + rank), signals[rank])
        found.append((tuple(counts.images), tuple(counts.regions), signal))
    return found


def test_means_over_ranks_by_name() -> None:
    assert run_processes(averaged, range(2)) == [{"total": 2.5, "part": -1.0}] * 2


def averaged(rank: int) -> dict[str, float]:
    values = {"total": torch.tensor(2.0 + rank), "part": torch.tensor(-1.0)}
    return DistributedContext(rank, 2, CPU).all_reduce_mean(values).values()


def test_gradient_checksum_depends_on_the_parameter() -> None:
    everywhere = run_processes(complaints, range(2))
    assert everywhere[0] == everywhere[1]
    found = everywhere[0]
    assert {case for case, complaint in found.items() if complaint == "returned None"} == EQUAL
    assert all("gradients differ" in complaint for case, complaint in found.items() if case not in EQUAL)


EQUAL = {"equal", "not finite"}  # a loss that is not finite has a message of its own


def complaints(rank: int) -> dict[str, str]:
    """Messages for gradients of two ranks."""
    cases = {
        "equal": ([1.0, 2.0], [1.0, 2.0]),
        "not finite": ([math.nan, 2.0], [math.nan, 2.0]),
        "another value": ([1.0, 2.0], [1.0, 2.5]),
        "swapped": ([1.0, 2.0], [2.0, 1.0]),
        "absent": ([1.0, 0.0], [1.0, None]),
    }
    found = {}
    for case, both in cases.items():
        module = nn.ParameterList([nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))])
        for parameter, value in zip(module, both[rank], strict=True):
            parameter.grad = None if value is None else torch.tensor([value])
        found[case] = message_of(lambda module=module: DistributedContext(rank, 2, CPU).require_equal_gradients(module))
    return found


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Simulate four GPUs and record which ones are set."""
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return chosen


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_single_rank_uses_gpu_0(cuda: list[int], device: str) -> None:
    with init_distributed(device) as processes:
        assert (processes.rank, processes.world_size, processes.device) == (0, 1, torch.device("cuda", 0))
    assert cuda == [0]


def test_cpu_if_configured_or_without_gpu(cuda: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    with init_distributed("cpu") as processes:
        assert processes.device == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with init_distributed("auto") as processes:
        assert processes.device == CPU
    assert cuda == []


def test_gpu_is_chosen_by_local_rank(cuda: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    launched = {"RANK": "6", "LOCAL_RANK": "2", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}
    for name, value in (launched | {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, timeout: started.append(backend))
    monkeypatch.setattr(dist, "get_rank", lambda: 6)
    monkeypatch.setattr(dist, "get_world_size", lambda: 8)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: started.append("ended"))
    with init_distributed("auto") as processes:
        assert (processes.rank, processes.world_size, processes.device) == (6, 8, torch.device("cuda", 2))
    assert (cuda, started) == ([2], ["cpu:gloo,cuda:nccl", "ended"])
    monkeypatch.setenv("LOCAL_RANK", "4")
    with pytest.raises(TrainingError, match=r"runtime\.device.* 4 .*finds 4 GPUs"), init_distributed("cuda"):
        pass

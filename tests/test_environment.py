"""Empty variables count as unset, and a wrong one is named; several processes are what a launcher says completely."""

from collections.abc import Mapping

import pytest

from fineclip.cli.launch import SINGLE_NODE, nodes_of
from fineclip.environment import Ranks, launched_ranks, number_of, require_threads, text_of
from fineclip.errors import ConfigError

TORCHRUN = {
    "WORLD_SIZE": "4",
    "RANK": "3",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}
SLURM = {
    "SLURM_JOB_ID": "20123",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "gpu[003-004]",
}


def test_texts_and_numbers() -> None:
    assert text_of("A", {}) is text_of("A", {"A": ""}) is text_of("A", {"A": " \n"}) is None
    assert text_of("A", {"A": " x "}) == "x"
    assert number_of("A", {}) is number_of("A", {"A": ""}) is None
    assert (number_of("A", {"A": " 12 "}), number_of("A", {"A": "0"})) == (12, 0)


@pytest.mark.parametrize("value", ["two", "1.5", "-1", "1 2", "0x1", "\u0663", "9" * 30])
def test_what_is_no_number_is_named(value: str) -> None:
    with pytest.raises(ConfigError, match=r"variable MY_SIZE is .*expected an integer of at least 0.* unset MY_SIZE"):
        number_of("MY_SIZE", {"MY_SIZE": value})
    with pytest.raises(ConfigError, match="at least 3"):
        number_of("MY_SIZE", {"MY_SIZE": "2"}, at_least=3)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WORLD_SIZE": "", "RANK": ""},
        {"WORLD_SIZE": "1"},
        {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"},
        {"RANK": "0"},
        {"LOCAL_WORLD_SIZE": "8"},
    ],
)
def test_a_single_process(environment: Mapping[str, str]) -> None:
    assert launched_ranks(environment) is None


def test_processes_of_a_launcher() -> None:
    assert launched_ranks(TORCHRUN) == Ranks(3, 4, 1, 2)
    assert launched_ranks(TORCHRUN | {"LOCAL_RANK": "", "LOCAL_WORLD_SIZE": ""}) == Ranks(3, 4, 0, 1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        *(({name: ""}, f"{name} is not set, but WORLD_SIZE is 4") for name in ("RANK", "MASTER_ADDR", "MASTER_PORT")),
        *(({name: "x"}, f"{name} is 'x'") for name in TORCHRUN if name != "MASTER_ADDR"),
        *(({**dict.fromkeys(TORCHRUN, ""), name: "x"}, f"{name} is 'x'") for name in TORCHRUN if name != "MASTER_ADDR"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"RANK": "4"}, "RANK is 4, but WORLD_SIZE is 4"),
        ({"WORLD_SIZE": ""}, "RANK is 3, but WORLD_SIZE is not set"),
        ({"WORLD_SIZE": "1"}, "RANK is 3, but WORLD_SIZE is 1"),
    ],
)
def test_an_incomplete_or_contradictory_launch_is_refused(change: Mapping[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        launched_ranks(TORCHRUN | change)


@pytest.mark.parametrize("value", ["", "  "])
def test_threads_that_are_not_set(value: str) -> None:
    assert require_threads({"OMP_NUM_THREADS": value}) is None


def test_threads() -> None:
    assert require_threads({"OMP_NUM_THREADS": "4"}) == "4"
    assert require_threads({"OMP_NUM_THREADS": "4,2"}) == "4,2"  # of nested levels, as OpenMP allows
    for wrong in ("many", "0", "4,", "-2"):
        with pytest.raises(ConfigError, match="OMP_NUM_THREADS"):
            require_threads({"OMP_NUM_THREADS": wrong})


def test_nodes_of_slurm() -> None:
    assert nodes_of(dict.fromkeys(SLURM, "")) == SINGLE_NODE
    assert nodes_of({"SLURM_STEP_NUM_NODES": "1", "SLURM_JOB_ID": "x"}) == SINGLE_NODE  # not read on one node
    for name in ("SLURM_JOB_ID", "SLURM_NODEID", "SLURM_STEP_NODELIST"):
        with pytest.raises(ConfigError, match=f"{name} is not set, but SLURM_STEP_NUM_NODES is 2"):
            nodes_of(SLURM | {name: ""})
    for name in set(SLURM) - {"SLURM_STEP_NODELIST"}:
        with pytest.raises(ConfigError, match=f"{name} is 'x'"):
            nodes_of(SLURM | {name: "x"})

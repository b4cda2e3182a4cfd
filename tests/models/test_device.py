"""Devices by name: those of this machine, and one sentence for the others."""

import pytest
import torch

import fineclip
from fineclip.errors import ConfigError
from fineclip.models.device import resolve_device
from fineclip.train.distributed import init_distributed


@pytest.fixture
def gpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A machine with this number of GPUs, as far as torch says."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return int(request.param)


@pytest.mark.parametrize("gpus", [0], indirect=True)
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7", "mps"])
def test_a_device_that_the_machine_lacks(gpus: int, name: str) -> None:
    for use in (resolve_device, lambda device: fineclip.load("mini", device=device)):
        with pytest.raises(ConfigError, match=f"torch finds no {name.partition(':')[0]} device") as error:
            use(name)
        assert len(str(error.value).splitlines()) == 1
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("gpus", [2], indirect=True)
def test_gpus_are_numbered_from_0(gpus: int) -> None:
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="device cuda:2: torch finds 2 GPUs"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "", "xpu", "meta"])
def test_an_unknown_device(name: str) -> None:
    with pytest.raises(ConfigError, match="expected auto, cpu, cuda, mps, or a GPU by its number"):
        resolve_device(name)


@pytest.mark.parametrize("gpus", [0], indirect=True)
def test_a_training_on_a_device_that_the_machine_lacks(gpus: int) -> None:
    with pytest.raises(ConfigError, match="torch finds no mps device"), init_distributed("mps"):
        pass

"""Environment variables that the package reads. An empty one counts as unset; a wrong one is an error that names it.

`CUDA_VISIBLE_DEVICES` is the exception: CUDA takes an empty one as no GPU, and so does the package.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from fineclip.errors import ConfigError


def text_of(name: str, environment: Mapping[str, str]) -> str | None:
    """Return the value of a variable without surrounding white space; None if it is unset or empty."""
    return environment.get(name, "").strip() or None


def number_of(name: str, environment: Mapping[str, str], *, at_least: int = 0) -> int | None:
    """Return the value of a variable that holds an integer.

    Args:
        name: Name of the variable.
        environment: Variables by name.
        at_least: Smallest allowed value.

    Returns:
        The integer; None if the variable is unset or empty.

    Raises:
        ConfigError: It is not an integer, or is too small.
    """
    text = text_of(name, environment)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) or int(text) < at_least:
        raise ConfigError(
            f"the environment variable {name} is {text!r}, expected an integer of at least {at_least}."
            f" Correct it, or unset it: unset {name}"
        )
    return int(text)


def require(name: str, environment: Mapping[str, str], *, because: str) -> str:
    """Return the value of a variable that must be set.

    Args:
        name: Name of the variable.
        environment: Variables by name.
        because: Why it must be set.

    Returns:
        Its value, not empty.

    Raises:
        ConfigError: It is unset or empty.
    """
    text = text_of(name, environment)
    if text is None:
        raise ConfigError(f"the environment variable {name} is not set, but {because}.")
    return text


# Numbers that a launcher sets, with the smallest value of each.
LAUNCHED = {"WORLD_SIZE": 1, "RANK": 0, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": 1}


class Ranks(NamedTuple):
    """Place of a process among the processes of a training.

    Attributes:
        rank: Number of the process, from 0.
        world_size: Number of processes, at least 2.
        local_rank: Number of the process on its machine.
        local_world_size: Number of processes on its machine.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int


def launched_ranks(environment: Mapping[str, str]) -> Ranks | None:
    """Return the place of this process if a launcher, such as torchrun, started several; None for a single process.

    Args:
        environment: Variables of the launcher.

    Returns:
        The place, or None if `WORLD_SIZE` is unset, empty or 1.

    Raises:
        ConfigError: A variable is not a number, contradicts another, or is missing beside `WORLD_SIZE`.
    """
    world_size, rank, local_rank, local_world_size, _ = (
        number_of(name, environment, at_least=least) for name, least in LAUNCHED.items()
    )
    if (rank or 0) >= (world_size or 1):
        raise ConfigError(
            f"the environment variable RANK is {rank}, but WORLD_SIZE is {world_size or 'not set'}: a rank is less than the"
            " number of processes. Start the training with torchrun or --processes, or unset both."
        )
    if world_size in (None, 1):
        return None
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        because = f"WORLD_SIZE is {world_size}. Start the training with torchrun or --processes, or unset WORLD_SIZE"
        require(name, environment, because=because)
    return Ranks(rank or 0, world_size or 1, local_rank or 0, local_world_size or 1)


def require_threads(environment: Mapping[str, str]) -> str | None:
    """Return `OMP_NUM_THREADS`: a number, or, as OpenMP allows, one for each level of nesting.

    Args:
        environment: Variables by name.

    Returns:
        Its value; None if it is unset or empty.

    Raises:
        ConfigError: It is not a number.
    """
    text = text_of("OMP_NUM_THREADS", environment)
    for part in (text or "").split(",") if text else ():
        number_of("OMP_NUM_THREADS", {"OMP_NUM_THREADS": part or "''"}, at_least=1)
    return text

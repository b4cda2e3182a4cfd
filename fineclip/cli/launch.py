"""One training in several processes: torchrun starts them, one for each GPU that the job holds.

The verb `train` calls `launch`, which waits in its place; the processes are the same verb with the same words, and find in
their environment who they are. A SIGTERM of this process goes on to them all, and they have `GRACE_S` seconds to end the
step at hand and save. If this process is killed, the kernel kills them at the same moment, so that a GPU that is given back
is free. None is started again from here: the checkpoint is what a repetition of the whole command takes up.

On several nodes of SLURM the verb is started once on each by `srun`; the processes meet at the first.
"""

import ctypes
import logging
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fineclip.errors import ConfigError, TrainingError

log = logging.getLogger(__name__)

GRACE_S = 300
LAUNCHER = "FINECLIP_LAUNCHER"  # its process id
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Nodes:
    """The machines of a training.

    Attributes:
        own: number of this one, counted from 0.
        first: host where all meet.
        port: of the meeting; other jobs have another.
    """

    count: int
    own: int
    first: str
    port: int


ALONE = Nodes(1, 0, "localhost", 0)


def nodes_of(environment: Mapping[str, str]) -> Nodes:
    """The machines on which `srun` started this command.

    Raises:
        ConfigError: it was started more than once on a machine.
    """
    count = int(environment.get("SLURM_STEP_NUM_NODES", "1"))
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", count))
    if tasks != count:
        raise ConfigError(
            f"srun started {tasks} tasks on {count} nodes. Start one on each, by srun --ntasks-per-node=1:"
            " the verb starts a process for each GPU itself."
        )
    if count == 1:
        return ALONE
    port = 10000 + int(environment["SLURM_JOB_ID"]) % 20000  # below the ports that systems give out
    return Nodes(count, int(environment["SLURM_NODEID"]), first_host(environment["SLURM_STEP_NODELIST"]), port)


def first_host(nodes: str) -> str:
    """Of a list as SLURM writes it: `gpu[003-004,7],x1` begins with gpu003."""
    found = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\])?([^,\[]*)", nodes)
    if found is None:
        raise ConfigError(f"SLURM_STEP_NODELIST: {nodes!r} names no host")
    return "".join(part or "" for part in found.groups())


def is_launched(environment: Mapping[str, str]) -> bool:
    """Whether this is one of the processes that torchrun started."""
    return "WORLD_SIZE" in environment


def rank_of(environment: Mapping[str, str]) -> int:
    """Number of this process among all, counted from 0."""
    return int(environment.get("RANK", "0")) if is_launched(environment) else 0


def threads_of_each(threads: int, environment: Mapping[str, str]) -> int:
    """CPU threads of each process, of those that the job has on this machine."""
    return max(1, threads // int(environment.get("LOCAL_WORLD_SIZE", "1")))


def launch(words: Sequence[str], processes: int, nodes: Nodes, *, threads: int) -> int:
    """Run the same command line in several processes, and wait for them.

    Args:
        words: of the command line, without the program.
        processes: on this machine.
        nodes: the machines, each of which launches as many.
        threads: CPU threads of the job on this machine, which they share.

    Returns:
        The exit code: 0, that of the first process that failed, or 128 + the signal that ended them.

    Raises:
        TrainingError: a process was killed.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    where = f" here, node {nodes.own + 1} of {nodes.count}" if nodes.count > 1 else ""
    log.info("starts processes: %d%s", processes, where)
    os.environ[LAUNCHER] = str(os.getpid())
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(GRACE_S))
    # DDP warns in every process of a choice that `Processes.wrap` explains; errors are still said
    os.environ["TORCH_CPP_LOG_LEVEL"] = os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR")
    if os.environ.get("OMP_NUM_THREADS") == str(threads):  # what this job was given, for all of them
        os.environ["OMP_NUM_THREADS"] = str(max(1, threads // processes))
    wanted = torchrun.parse_args([*_options(processes, nodes), "--module", "fineclip"])  # type: ignore[no-untyped-call]
    wanted.training_script_args = list(words)  # behind its parser, which takes our options for abbreviations of its own
    try:
        torchrun.run(wanted)  # type: ignore[no-untyped-call]
    except SignalException as asked:
        log.info("asked to stop by %s; run again to go on", asked.sigval.name)
        return 128 + asked.sigval
    except ChildFailedError as error:
        return _exit_code(error)
    return 0


def die_with_launcher() -> None:
    """Let the kernel kill this process when the one that launched it ends, however it ends."""
    launcher = os.environ.get(LAUNCHER)
    if launcher is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(launcher):  # it ended before it was asked for
        os.kill(os.getpid(), signal.SIGKILL)


def _options(processes: int, nodes: Nodes) -> list[str]:
    """Of torchrun."""
    common = [f"--nproc-per-node={processes}", "--max-restarts=0"]
    if nodes.count == 1:
        return [*common, "--standalone"]
    return [
        *common,
        f"--nnodes={nodes.count}",
        "--rdzv-backend=c10d",
        f"--rdzv-id={nodes.port}",
        f"--rdzv-endpoint={nodes.first}:{nodes.port}",
        f"--rdzv-conf=is_host={int(nodes.own == 0)}",  # not left to a comparison of host names
    ]


def _exit_code(error: Any) -> int:
    """Of the process that failed first; its own message says why, unless it was killed."""
    rank, failure = error.get_first_failure()
    if failure.exitcode >= 0:
        return int(failure.exitcode)
    name = signal.Signals(-failure.exitcode).name
    raise TrainingError(f"process {rank} of this training was ended by {name}. Run again to go on from its checkpoint.")

"""Launch a training in several processes with torch.distributed, one per GPU of the job.

The verb `train` calls `launch` and waits. The processes run the same command line; environment variables give their rank. A
SIGTERM is forwarded to all of them, and they have `GRACE_S` seconds to finish a step and save. If this process is killed, the
kernel kills them immediately, so that its GPUs are free. Processes are not restarted: running the command again resumes from
the checkpoint.

On several SLURM nodes `srun` starts the verb once per node; the first node is the rendezvous.
"""

import ctypes
import logging
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fineclip.environment import number_of, require, require_threads, text_of
from fineclip.errors import ConfigError, TrainingError

log = logging.getLogger(__name__)

GRACE_S = 300
LAUNCHER = "FINECLIP_LAUNCHER"  # process id of the launcher
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Nodes:
    """Nodes of a training.

    Attributes:
        count: Number of nodes.
        own: Number of this node, from 0.
        first: Host of the rendezvous.
        port: Port of the rendezvous; differs between jobs.
    """

    count: int
    own: int
    first: str
    port: int


SINGLE_NODE = Nodes(1, 0, "localhost", 0)


def nodes_of(environment: Mapping[str, str]) -> Nodes:
    """Return the nodes on which `srun` started this command.

    Args:
        environment: Variables of SLURM.

    Returns:
        `SINGLE_NODE` without `srun`.

    Raises:
        ConfigError: It was started more than once on a node, or a variable is missing or not a number.
    """
    count = number_of("SLURM_STEP_NUM_NODES", environment, at_least=1) or 1
    tasks = number_of("SLURM_STEP_NUM_TASKS", environment, at_least=1) or count
    if tasks != count:
        raise ConfigError(
            f"srun started {tasks} tasks on {count} nodes. Use srun --ntasks-per-node=1: the verb starts one process per GPU"
            " itself."
        )
    if count == 1:
        return SINGLE_NODE
    because = f"SLURM_STEP_NUM_NODES is {count}. Start the training with srun"
    for name in ("SLURM_JOB_ID", "SLURM_NODEID", "SLURM_STEP_NODELIST"):
        require(name, environment, because=because)
    job, own = number_of("SLURM_JOB_ID", environment) or 0, number_of("SLURM_NODEID", environment) or 0
    port = 10000 + job % 20000  # below ephemeral ports
    return Nodes(count, own, first_host(environment["SLURM_STEP_NODELIST"]), port)


def first_host(nodes: str) -> str:
    """Return the first host of a SLURM node list.

    Args:
        nodes: For example `gpu[003-004,7],x1`, whose first host is gpu003.

    Returns:
        Name of the host.

    Raises:
        ConfigError: The list names no host.
    """
    found = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\])?([^,\[]*)", nodes)
    if found is None:
        raise ConfigError(f"SLURM_STEP_NODELIST: {nodes!r} has no host")
    return "".join(part or "" for part in found.groups())


def launch(words: Sequence[str], processes: int, nodes: Nodes, *, threads: int) -> int:
    """Run the command line in several processes and wait for them.

    Args:
        words: Command line without the program.
        processes: Number of processes on this node.
        nodes: Nodes; each launches the same number.
        threads: CPU threads of the job on this node, shared by its processes.

    Returns:
        Exit code: 0, that of the first process that failed, or 128 + the signal that ended them.

    Raises:
        TrainingError: A process was killed.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher import api

    log.info("launching processes: %d, on node %d of %d", processes, nodes.own + 1, nodes.count)
    os.environ[LAUNCHER] = str(os.getpid())
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(
        number_of("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", os.environ) or GRACE_S
    )
    # DDP warns in every process about find_unused_parameters (see DistributedContext.wrap); errors are still logged
    os.environ["TORCH_CPP_LOG_LEVEL"] = text_of("TORCH_CPP_LOG_LEVEL", os.environ) or "ERROR"
    if require_threads(os.environ) == str(threads):  # set for the whole job
        os.environ["OMP_NUM_THREADS"] = str(max(1, threads // processes))
    config = api.LaunchConfig(
        min_nodes=nodes.count,
        max_nodes=nodes.count,
        nproc_per_node=processes,
        max_restarts=0,
        run_id=str(nodes.port),
        rdzv_backend="c10d",
        rdzv_endpoint=f"{nodes.first}:{nodes.port}",
        rdzv_configs={"is_host": nodes.own == 0},  # host names are not compared
    )
    try:
        api.elastic_launch(config, sys.executable)("-u", "-m", "fineclip", *words)
    except SignalException as asked:
        log.info("stopped by %s; rerun to resume", asked.sigval.name)
        return 128 + asked.sigval
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 0:
            return failure.exitcode
        name = signal.Signals(-failure.exitcode).name  # it left no error message
        raise TrainingError(
            f"rank {rank} of this training was killed by {name}. Run again to resume from the checkpoint."
        ) from None
    return 0


def die_with_launcher() -> None:
    """Make the kernel kill this process when its launcher ends."""
    launcher = number_of(LAUNCHER, os.environ)
    if launcher is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:  # it ended before the call above
        os.kill(os.getpid(), signal.SIGKILL)

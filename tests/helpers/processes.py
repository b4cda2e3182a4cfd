"""Run a function on several gloo processes of this machine and get back what each returned."""

import multiprocessing
import pickle
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

PRELOADED = [
    "torch",
    "torch.distributed",
    "torchvision",
    "open_clip",
    "fineclip.train.train",
]  # once, not by every process


def run_processes(function: Callable[..., Any], *per_rank: Sequence[Any], timeout_s: float = 60) -> list[Any]:
    """Call `function(*(values[rank] for values in per_rank))` on each of several processes.

    Args:
        function: defined at the top level of a module, so that it can be pickled.
        *per_rank: one sequence for each argument, with its value on every process.
        timeout_s: seconds, for all processes together.

    Returns:
        The results in rank order.

    Raises:
        RuntimeError: a process failed (with its traceback) or did not end in time.
    """
    world_size = len(per_rank[0])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with TemporaryDirectory() as name:
        folder = Path(name)
        processes = []
        for rank in range(world_size):
            job = pickle.dumps((function, tuple(values[rank] for values in per_rank)))
            processes.append(
                context.Process(target=_work, args=(job, rank, world_size, folder, timeout_s), daemon=True)
            )
        for process in processes:
            process.start()
        _wait(processes, timeout_s)
        results = [folder / f"{rank}.pickle" for rank in range(world_size)]
        if not all(path.is_file() for path in results):
            codes = [process.exitcode for process in processes]
            raise RuntimeError(f"processes ended with codes {codes} after at most {timeout_s} s, without a result each")
        outcomes = [pickle.loads(path.read_bytes()) for path in results]
    failures = [f"process {rank}:\n{value}" for rank, (ok, value) in enumerate(outcomes) if not ok]
    if failures:
        raise RuntimeError("\n".join(failures))
    return [value for _, value in outcomes]


def _wait(processes: Sequence[BaseProcess], timeout_s: float) -> None:
    end = monotonic() + timeout_s
    for process in processes:
        process.join(max(0.0, end - monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _work(job: bytes, rank: int, world_size: int, folder: Path, timeout_s: float) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder / 'meeting'}",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout_s),
        )
        function, arguments = pickle.loads(job)
        outcome = (True, function(*arguments))
    except BaseException:  # noqa: BLE001 (the test that started us raises it again)
        outcome = (False, traceback.format_exc())
    partial = folder / f"{rank}.part"
    partial.write_bytes(pickle.dumps(outcome))
    partial.rename(folder / f"{rank}.pickle")
    if dist.is_initialized():
        dist.destroy_process_group()

"""kill -9 at any moment, then the same command: the results are those of a run that nothing disturbed."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers.dag import command, environment, results_of, run_all, small_world

pytestmark = pytest.mark.slow

KILLS = 5


def test_killed_at_random_moments_it_goes_on_to_the_same_results(finished_world: Path, tmp_path: Path) -> None:
    small_world(tmp_path)
    moments = random.Random(0)
    for _ in range(KILLS):
        process = subprocess.Popen(
            command(),
            cwd=tmp_path,
            env=environment(),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(moments.uniform(4, 16))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    run_all(tmp_path)
    assert results_of(tmp_path) == results_of(finished_world)
    leftovers = [path for top in ("data", "results") for path in (tmp_path / top).rglob("*.tmp")]
    assert leftovers == []

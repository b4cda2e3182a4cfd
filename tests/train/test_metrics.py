"""What a training writes of its speed."""

import json
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch

from fineclip.train.distributed import DistributedContext
from fineclip.train.metrics import MetricsLogger


def test_speeds_are_of_what_was_seen_since_the_last_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    main = DistributedContext(0, 1, torch.device("cpu"))
    journal = MetricsLogger(tmp_path, main, done=0, steps=4, peak_flops=1e3)
    assert journal.shows_mfu
    with closing(journal):
        with journal.waiting():
            now[0] += 1
        now[0] += 3
        journal.update(images=8, regions=20, flops=600.0)
        journal.log({"step": 1}, {"total": 1.0})
        now[0] += 2
        journal.update(images=8, regions=0, flops=None)
        journal.log({"step": 2}, {"total": 1.0})
    first, second = map(json.loads, (tmp_path / "speed.jsonl").read_text().splitlines())
    assert (first["images_per_second"], first["regions_per_second"]) == (2, 5)
    assert (first["data_wait_share"], first["mfu"]) == (0.25, 0.15)
    assert (second["images_per_second"], second["regions_per_second"]) == (4, 0)
    assert "mfu" not in second
    assert first["peak_memory_mb"] > 0


def test_another_process_writes_nothing(tmp_path: Path) -> None:
    other = DistributedContext(1, 2, torch.device("cpu"))
    with closing(MetricsLogger(tmp_path, other, done=0, steps=4, tensorboard=True)) as journal:
        journal.update(images=8, regions=20, flops=None)
        journal.log({"step": 1}, {"total": 1.0})
        assert not journal.shows_mfu
    assert list(tmp_path.iterdir()) == []

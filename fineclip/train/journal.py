"""What a training says and writes as it goes: progress, `metrics.jsonl` and `speed.jsonl`, a JSON object a line.

Metrics hold only what a repetition would repeat, speeds all that differs from one machine and hour to the next. The first
process writes; the others keep silent.
"""

import json
import logging
import math
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from tqdm import tqdm

from fineclip.shards import write_text

log = logging.getLogger(__name__)

SENTENCES = 10  # reports of progress where the output is no terminal


class Journal:
    """Of one training, or of what is left of it.

    Args:
        folder: where the files go. Lines of steps after `done`, which a killed process may have left, are taken out.
        done: steps that earlier attempts made.
        steps: steps in all.
        writes: whether this is the process that writes.
    """

    def __init__(self, folder: Path, *, done: int, steps: int, writes: bool, device: torch.device) -> None:
        self._steps, self._writes, self._device = steps, writes, device
        names = ("metrics.jsonl", "speed.jsonl") if writes else ()
        self._files = {name: _continued(folder / name, done) for name in names}
        is_terminal = writes and sys.stderr.isatty()
        self._bar = tqdm(total=steps, initial=done, unit="step", disable=not is_terminal)
        self._says_sentences, self._tenth = writes and not is_terminal, -1
        self._since, self._waited, self._images = time.perf_counter(), 0.0, 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The loop stands still for its data while the block runs."""
        begin = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begin

    def saw(self, images: int) -> None:
        """A step with so many images was made."""
        self._images += images
        self._bar.update()

    def record(self, metrics: Mapping[str, Any], losses: Mapping[str, float]) -> None:
        """The lines of a step; `metrics` has its number, counted from 1, under `step`."""
        if not self._writes:
            return
        step = int(metrics["step"])
        speeds = self._speeds()
        _append(self._files["metrics.jsonl"], {**metrics, **losses})
        _append(self._files["speed.jsonl"], {"step": step, **speeds})
        shown = {name: f"{value:.3f}" for name, value in losses.items()}
        self._bar.set_postfix(shown)
        if self._says_sentences and self._is_tenth(step):
            terms = ", ".join(f"{name} {value}" for name, value in shown.items())
            log.info("step %d of %d: %s; %.1f images/s", step, self._steps, terms, speeds["images_per_second"])

    def _is_tenth(self, step: int) -> bool:
        """Whether another tenth of the steps was passed since the last sentence."""
        before, self._tenth = self._tenth, step * SENTENCES // self._steps
        return self._tenth > before

    def _speeds(self) -> dict[str, float]:
        """Since the last look."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9)
        speeds = {
            "images_per_second": round(self._images / seconds, 2),
            "data_wait_share": round(self._waited / seconds, 4),
            "peak_memory_mb": round(peak_memory_mb(self._device)),
        }
        self._since, self._waited, self._images = now, 0.0, 0
        return speeds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._bar.close()
        for file in self._files.values():
            file.close()


def peak_memory_mb(device: torch.device) -> float:
    """Of the GPU if there is one, else of this process, in units of 10^6 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _continued(path: Path, steps_done: int) -> Any:
    """The file, open at its end, without lines of later steps and whatever is no line."""
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if path.is_file() else ():
        try:
            if not line.endswith("\n") or json.loads(line)["step"] > steps_done:
                break
        except (ValueError, KeyError, TypeError):
            break
        kept.append(line)
    write_text(path, "".join(kept))
    return path.open("a", encoding="utf-8")


def _append(file: Any, line: Mapping[str, Any]) -> None:
    """One line, on disk at once. JSON has no infinities: they are written as text."""
    finite = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
    file.write(json.dumps(finite) + "\n")
    file.flush()

"""What a training says and writes as it goes: progress, `metrics.jsonl` and `speed.jsonl`, a JSON object a line.

Metrics hold only what a repetition would repeat, speeds all that differs from one machine and hour to the next. The first
process writes; the others keep silent. `tensorboard/` shows both to TensorBoard, where that is wanted.
"""

import json
import logging
import math
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from tqdm import tqdm

from fineclip.shards import write_text

log = logging.getLogger(__name__)

SENTENCES = 10  # reports of progress where the output is no terminal


@dataclass
class Seen:
    """Since the last look. `flops` is None once it is not known of a step."""

    images: int = 0
    regions: int = 0
    flops: float | None = 0.0


class Journal:
    """Of one training, or of what is left of it.

    Args:
        folder: where the files go. Lines of steps after `done`, which a killed process may have left, are taken out.
        done: steps that earlier attempts made.
        steps: steps in all.
        writes: whether this is the process that writes.
        peak_flops: what the device can do in a second in the precision of the training; None: nobody knows.
        tensorboard: whether TensorBoard gets what the files get.
    """

    def __init__(
        self,
        folder: Path,
        *,
        done: int,
        steps: int,
        writes: bool,
        device: torch.device,
        peak_flops: float | None = None,
        tensorboard: bool = False,
    ) -> None:
        self._steps, self._writes, self._device, self._peak_flops = steps, writes, device, peak_flops
        self._board = _board(folder / "tensorboard", done) if writes and tensorboard else None
        names = ("metrics.jsonl", "speed.jsonl") if writes else ()
        self._files = {name: _continued(folder / name, done) for name in names}
        is_terminal = writes and sys.stderr.isatty()
        self._bar = tqdm(total=steps, initial=done, unit="step", disable=not is_terminal)
        self._says_sentences, self._tenth = writes and not is_terminal, -1
        self._since, self._waited, self._seen = time.perf_counter(), 0.0, Seen()

    @property
    def shows_mfu(self) -> bool:
        """Whether the arithmetic of a step is of use."""
        return self._peak_flops is not None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The loop stands still for its data while the block runs."""
        begin = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begin

    def saw(self, images: int, regions: int, flops: float | None) -> None:
        """A step with so many images and regions over all processes was made, for so much arithmetic of this one."""
        self._seen.images += images
        self._seen.regions += regions
        self._seen.flops = None if flops is None or self._seen.flops is None else self._seen.flops + flops
        self._bar.update()

    def record(self, metrics: Mapping[str, Any], losses: Mapping[str, float]) -> None:
        """The lines of a step; `metrics` has its number, counted from 1, under `step`."""
        if not self._writes:
            return
        step = int(metrics["step"])
        speeds = self._speeds()
        _append(self._files["metrics.jsonl"], {**metrics, **losses})
        _append(self._files["speed.jsonl"], {"step": step, **speeds})
        for name, value in {**metrics, **{f"loss/{name}": value for name, value in losses.items()}, **speeds}.items():
            if self._board is not None and name != "step":
                self._board.add_scalar(name, value, step)
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
            "images_per_second": round(self._seen.images / seconds, 2),
            "regions_per_second": round(self._seen.regions / seconds, 2),
            "data_wait_share": round(self._waited / seconds, 4),
            "peak_memory_mb": round(peak_memory_mb(self._device)),
        }
        if self._peak_flops and self._seen.flops is not None:
            speeds["mfu"] = round(self._seen.flops / seconds / self._peak_flops, 4)
        self._since, self._waited, self._seen = now, 0.0, Seen()
        return speeds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._bar.close()
        if self._writes:
            log.info("at most %.3g GB of memory were in use", peak_memory_mb(self._device) / 1000)
        if self._board is not None:
            self._board.close()
        for file in self._files.values():
            file.close()


def peak_memory_mb(device: torch.device) -> float:
    """Of the GPU if there is one, else of this process, in units of 10^6 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _board(folder: Path, done: int) -> Any:
    """A writer for TensorBoard; what an earlier attempt wrote of later steps is not shown."""
    from torch.utils.tensorboard.writer import SummaryWriter

    if not done:
        shutil.rmtree(folder, ignore_errors=True)
    return SummaryWriter(str(folder), purge_step=done + 1)


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

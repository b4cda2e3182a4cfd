"""Metrics of a training: log lines, `metrics.jsonl`, `speed.jsonl`, TensorBoard, and detection of divergence.

`metrics.jsonl` has values that a repetition reproduces, `speed.jsonl` those that depend on machine and time; both have one
JSON object per line. Only the main process writes.
"""

import json
import logging
import math
import resource
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from fineclip.errors import TrainingError
from fineclip.methods.base import Method
from fineclip.methods.transforms import DataSpec
from fineclip.models.flops import Gradient, image_flops, text_flops
from fineclip.shards import write_text
from fineclip.system_errors import refusals_at
from fineclip.train.distributed import AsyncScalars, DistributedContext
from fineclip.types import Batch, Losses

log = logging.getLogger(__name__)

PROGRESS_LINES = 10  # log lines of progress if stderr is not a terminal
WINDOW = 10  # losses whose mean is compared with the first: one bad batch is not a divergence
MIN_FIRST_LOSS = 0.1  # lower limit of the first loss in that comparison: a first loss near 0 is not informative
MAX_KEYS = 8  # samples named in a message


@dataclass
class ThroughputWindow:
    """Sums since the last log line, at `since`. `flops` is NaN if it is unknown for a step."""

    since: float
    waited: float = 0.0
    images: int = 0
    regions: int = 0
    flops: float = 0.0


class MetricsLogger:
    """Write metrics and speed of a training, and show its progress.

    Args:
        folder: Folder of the run. Lines of steps after `done`, left by a killed process, are removed.
        context: Rank, and device whose memory is reported.
        done: Steps of earlier attempts.
        steps: Steps of the training.
        peak_flops: FLOPs per second of the device in the precision of the training; None if unknown.
        tensorboard: Whether to write TensorBoard events too.
    """

    def __init__(
        self,
        folder: Path,
        context: DistributedContext,
        *,
        done: int,
        steps: int,
        peak_flops: float | None = None,
        tensorboard: bool = False,
    ) -> None:
        self._steps, self._writes, self._device = steps, context.is_main_process, context.device
        self._peak_flops, writes = peak_flops, self._writes
        self._folder, names = folder, ("metrics.jsonl", "speed.jsonl") if writes else ()
        with refusals_at(folder, "metrics cannot be written"):
            self._board = _board(folder / "tensorboard", done) if writes and tensorboard else None
            self._files = {name: _open_truncated_after(folder / name, done) for name in names}
        is_terminal = writes and sys.stderr.isatty()
        self._bar = tqdm(total=steps, initial=done, unit="step", disable=not is_terminal)
        self._logs_progress, self._tenth = writes and not is_terminal, -1
        self._window = ThroughputWindow(time.perf_counter())

    @property
    def shows_mfu(self) -> bool:
        """Whether FLOPs of a step are used."""
        return self._peak_flops is not None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block as waiting for data."""
        begin = time.perf_counter()
        yield
        self._window.waited += time.perf_counter() - begin

    def update(self, images: int, regions: int, flops: float | None) -> None:
        """Count a finished step.

        Args:
            images: Images of all ranks.
            regions: Regions of all ranks.
            flops: FLOPs of this rank; None if unknown.
        """
        self._window.images += images
        self._window.regions += regions
        self._window.flops += math.nan if flops is None else flops
        self._bar.update()

    def log(self, metrics: Mapping[str, Any], losses: Mapping[str, float]) -> None:
        """Write one line per file.

        Args:
            metrics: Reproducible values; `step` is the number of the step, from 1.
            losses: Total and terms.
        """
        if not self._writes:
            return
        step = int(metrics["step"])
        speeds = self._speeds()
        with refusals_at(self._folder, "metrics cannot be written"):
            _append(self._files["metrics.jsonl"], {**metrics, **losses})
            _append(self._files["speed.jsonl"], {"step": step, **speeds})
            for name, value in {
                **metrics,
                **{f"loss/{name}": value for name, value in losses.items()},
                **speeds,
            }.items():
                if self._board is not None and name != "step":
                    self._board.add_scalar(name, value, step)
        shown = {name: f"{value:.3f}" for name, value in losses.items()}
        self._bar.set_postfix(shown)
        before, self._tenth = self._tenth, step * PROGRESS_LINES // self._steps
        if self._logs_progress and self._tenth > before:
            terms = ", ".join(f"{name} {value}" for name, value in shown.items())
            log.info("step %d/%d: %s; %.1f images/s", step, self._steps, terms, speeds["images_per_second"])

    def _speeds(self) -> dict[str, float]:
        """Return speeds since the last log line, and reset the window."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        window, self._window = self._window, ThroughputWindow(time.perf_counter())
        seconds = max(self._window.since - window.since, 1e-9)
        speeds = {
            "images_per_second": round(window.images / seconds, 2),
            "regions_per_second": round(window.regions / seconds, 2),
            "data_wait_share": round(window.waited / seconds, 4),
            "peak_memory_mb": round(peak_memory_mb(self._device)),
        }
        if self._peak_flops and not math.isnan(window.flops):
            speeds["mfu"] = round(window.flops / seconds / self._peak_flops, 4)
        return speeds

    def close(self) -> None:
        """Close all files, and log the peak memory."""
        self._bar.close()
        if self._writes:
            log.info("peak memory %.3g GB", peak_memory_mb(self._device) / 1000)
        with refusals_at(self._folder, "metrics cannot be written"):
            if self._board is not None:
                self._board.close()
            for file in self._files.values():
                file.close()


@dataclass(frozen=True)
class PendingLoss:
    """Losses of one step whose mean over ranks has been started."""

    step: int
    keys: Sequence[str]
    scalars: AsyncScalars


@dataclass
class LossMonitor:
    """Detect losses that are not finite or diverge. A step is checked after the next one, to avoid a synchronization.

    All ranks see the same means, so that all stop or none.

    Attributes:
        context: Rank and world size.
        divergence_factor: Limit of the mean of the last losses relative to the first; None: no limit.
        name: Folder of the run, for messages.
        steps: Steps of the training.
        first: First loss; None before it is checked.
        recent: Last losses that were checked.
    """

    context: DistributedContext
    divergence_factor: float | None
    name: str
    steps: int
    first: float | None = None
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _pending: PendingLoss | None = None

    def push(self, step: int, losses: Losses, keys: Sequence[str]) -> None:
        """Start the mean over ranks of the losses of a step.

        Args:
            step: Number of the step, from 0.
            losses: Of this rank.
            keys: Samples of this rank.
        """
        scalars = self.context.all_reduce_mean({"total": losses.total, **losses.terms})
        self._pending = PendingLoss(step, keys, scalars)

    def check(self) -> dict[str, float]:
        """Check the pending losses and return them; empty if they were checked before.

        Returns:
            Total and terms by name.

        Raises:
            TrainingError: The total is not finite, or has grown too much.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return {}
        values = pending.scalars.values()
        total = values["total"]
        if not math.isfinite(total):
            raise TrainingError(self._message(pending, values, "the loss is no longer finite"))
        self.first = total if self.first is None else self.first
        self.recent.append(total)
        mean = sum(self.recent) / len(self.recent)
        limit = (self.divergence_factor or math.inf) * max(self.first, MIN_FIRST_LOSS)
        if len(self.recent) == WINDOW and mean > limit:
            problem = (
                f"the loss diverges: mean of {WINDOW} steps {mean:g}, first loss {self.first:g}"
                f" (train.divergence_factor: {self.divergence_factor:g})"
            )
            raise TrainingError(self._message(pending, values, problem))
        return values

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"first": self.first, "recent": list(self.recent)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.first = state["first"]
        self.recent = deque(state["recent"], maxlen=WINDOW)

    def _message(self, pending: PendingLoss, values: Mapping[str, float], problem: str) -> str:
        terms = ", ".join(f"{name} {value:g}" for name, value in values.items())
        keys = self._all_keys(pending.keys)
        others = f" and {len(keys) - MAX_KEYS} others" if len(keys) > MAX_KEYS else ""
        return (
            f"{self.name}: {problem} at step {pending.step + 1} of {self.steps}: {terms}."
            f" Batch: {', '.join(keys[:MAX_KEYS])}{others}."
            " Lower train.learning_rate, set train.max_grad_norm, increase train.warmup_steps, or set"
            " train.precision: fp32."
        )

    def _all_keys(self, own: Sequence[str]) -> list[str]:
        """Gather the samples of all ranks. All ranks call it at the same step."""
        if self.context.world_size == 1:
            return list(own)
        gathered: list[Sequence[str]] = [()] * self.context.world_size
        dist.all_gather_object(gathered, list(own))
        return [key for keys in gathered for key in keys]


def step_flops(method: Method[Any], batch: Batch, data_spec: DataSpec) -> float:
    """Return the FLOPs of forward and backward pass on the rows of this rank, from `Method.encoder_calls`.

    Recomputation by checkpointing and micro-batches is not counted. Only shapes of the batch are read.

    Args:
        method: The method.
        batch: Rows of this rank.
        data_spec: Sizes of images and crops.

    Returns:
        FLOPs, where a multiplication with its addition counts 2.
    """
    encoder, total, groups = method.encoder, 0.0, method.own_groups(batch)
    for call in method.encoder_calls(data_spec):
        rows: Tensor | None = getattr(batch, call.rows)
        if rows is None or not len(rows):
            continue
        gradient: Gradient = "kept" if call.gradient else "none"
        if call.rows in {"images", "crops"}:
            count = groups.count(call.images) if call.rows == "images" else len(rows)
            total += count * image_flops(encoder, call.px, call.px, path=call.path, gradient=gradient)
        elif not rows.is_floating_point():  # embeddings computed beforehand cost nothing
            total += len(rows) * text_flops(encoder, rows.shape[1], gradient=gradient)
    return total


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory of the GPU, or of this process without one, in 10^6 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _board(folder: Path, done: int) -> Any:
    """Return a TensorBoard writer that hides events of steps after `done`."""
    from torch.utils.tensorboard.writer import SummaryWriter

    if not done:
        shutil.rmtree(folder, ignore_errors=True)
    return SummaryWriter(str(folder), purge_step=done + 1)


def _open_truncated_after(path: Path, steps_done: int) -> Any:
    """Open a file of JSON lines for appending, without lines of later steps and incomplete lines."""
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
    """Append and flush one line. Infinities and NaN are written as text, because JSON has none."""
    finite = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
    file.write(json.dumps(finite) + "\n")
    file.flush()

"""The training loop, one for every method: step, log, checkpoint, resume.

A training stands at a number of steps done; that number alone decides which samples come next and what is drawn of
them, so a checkpoint holds weights and optimiser and nothing else. On a CPU a resumed training ends in the same bits as an
uninterrupted one at the same number of processes and threads; on a GPU it does under `train.deterministic`.
"""

import hashlib
import logging
import math
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW

from fineclip.config import TrainConfig
from fineclip.errors import DataError, FineclipError, TrainingError
from fineclip.methods import Method
from fineclip.methods.items import Group
from fineclip.train.distributed import Processes, Wish
from fineclip.train.journal import Journal
from fineclip.train.loader import Collate, HostBatch, PackedSamples, batches, placed
from fineclip.train.optim import learning_rate, make_optimizer, set_learning_rate
from fineclip.train.order import BatchSampler, Order
from fineclip.train.signals import Requests, heeded
from fineclip.train.state import StateFolder
from fineclip.types import Batch, Counts, Losses

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """What a training is made of.

    Attributes:
        folder: of the run; metrics and speeds go there.
        workers: processes that read and decode, for each training process.
    """

    method: Method[Any]
    config: TrainConfig
    samples: PackedSamples
    collate: Collate
    folder: Path
    state: StateFolder
    processes: Processes
    workers: int = 0

    @cached_property
    def order(self) -> Order:
        """Which samples each step sees."""
        sizes = tuple(map(len, self.samples.shards))
        config = self.config
        return Order(sizes, config.batch_size, seed=config.seed, shuffle_shards=config.shuffle_shards)

    @cached_property
    def steps(self) -> int:
        """In all."""
        planned = self.order.steps_per_epoch * self.config.epochs
        return planned if self.config.max_steps is None else min(planned, self.config.max_steps)

    @cached_property
    def groups(self) -> Sequence[Group]:
        """Which images of a step stay together on one process.

        Raises:
            ConfigError: the method has no use for a step of so few images.
        """
        return self.method.groups(self.order.images_per_step, self.collate.inputs)

    def batches(self, done: int) -> Iterator[HostBatch]:
        """This process's share of every step that is left."""
        own, groups = self.processes, self.groups
        sampler = BatchSampler(self.order, done, self.steps, own.rank, own.world_size, groups)
        return batches(self.samples, self.collate, sampler, workers=self.workers, pin=own.device.type == "cuda")

    def is_due(self, step: int, every: int) -> bool:
        """Whether something that is done every so many steps is done after step number `step`, and after the last."""
        return (step + 1) % every == 0 or step + 1 == self.steps


def train(training: Training) -> None:
    """Train to the last step, from where an earlier attempt was stopped.

    Raises:
        ConfigError: a step has too few images for the method.
        TrainingError: the loss is not finite, processes disagree, or another process failed.
        DataError, ShardError: a sample cannot be read.
        SystemExit: a signal asked to stop; a checkpoint is saved.
    """
    processes, config = training.processes, training.config
    method = training.method.to(processes.device)
    optimizer = make_optimizer(method.parameter_groups(), config)
    done = _resume(training, optimizer)
    _announce(training, done)
    module, stream = processes.wrap(method), training.batches(done)
    journal = Journal(
        training.folder, done=done, steps=training.steps, writes=processes.is_first, device=processes.device
    )
    losses: Losses | None = None
    with heeded() as requests, journal:
        for step in range(done, training.steps):
            with journal.waiting():
                batch, wish = _next_batch(training, stream, requests, step=step)
            if wish is Wish.STOP:
                if losses is not None:
                    _judged(training, losses, step=step - 1)
                    _save(training, optimizer, step)
                log.info("asked to stop after step %d of %d; run again to go on", step, training.steps)
                raise SystemExit(128 + (requests.received or signal.SIGTERM))
            losses = _update(training, module, optimizer, batch, step=step)
            journal.saw(sum(batch.counts.images))
            if step == done:
                processes.require_equal_gradients(method)
            must_log = step == 0 or training.is_due(step, config.log_every_steps)
            must_save = training.is_due(step, config.checkpoint_every_steps) and step + 1 < training.steps
            values = _judged(training, losses, step=step) if must_log or must_save else {}
            if must_log:
                journal.record(_metrics(training, batch.counts, optimizer, step=step), values)
            if must_save:
                _save(training, optimizer, step + 1)


def _next_batch(
    training: Training, stream: Iterator[HostBatch], requests: Requests, *, step: int
) -> tuple[Batch, Wish]:
    """This process's rows of the next step, with the counts of every process, and what all of them want."""
    processes = training.processes
    host: HostBatch | None = None
    failure: FineclipError | None = None
    try:
        host = next(stream)
    except FineclipError as error:
        failure = error
    own = Wish.FAIL if failure else Wish.STOP if requests.received else Wish.GO_ON
    counts, wish = processes.exchange(len(host.keys) if host else 0, host.regions if host else 0, own)
    if isinstance(failure, DataError):
        training.state.give_up(str(failure))
    if failure is not None:
        raise failure
    if wish is Wish.FAIL or host is None:
        raise TrainingError("another process of this training has failed: its own message says why")
    return placed(host, counts, processes.device, seed=_draws(training.config.seed, step, "all")), wish


def _update(training: Training, module: nn.Module, optimizer: AdamW, batch: Batch, *, step: int) -> Losses:
    """One step of the optimiser. What is drawn on the way is a function of seed, step and process."""
    config, processes, method = training.config, training.processes, training.method
    torch.manual_seed(_draws(config.seed, step, processes.rank))
    set_learning_rate(
        optimizer, learning_rate(step, of=training.steps, peak=config.learning_rate, warmup=config.warmup_steps)
    )
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(processes.device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
        losses: Losses = module(batch)
    losses.total.backward()  # type: ignore[no-untyped-call]
    if config.clip_gradient_norm is not None:
        nn.utils.clip_grad_norm_(method.parameters(), config.clip_gradient_norm)
    optimizer.step()
    method.after_step(step, training.steps)
    return losses


def _draws(seed: int, step: int, who: int | str) -> int:
    """Of one process, by its rank, or of all together."""
    digest = hashlib.sha256(f"{seed}/{step}/{who}".encode()).digest()
    return int.from_bytes(digest[:7], "little")


def _judged(training: Training, losses: Losses, *, step: int) -> dict[str, float]:
    """Total and terms over the whole batch; looked at when it is logged or saved, so that no other step waits for it.

    Raises:
        TrainingError: the total is not finite. All processes raise, because all see the same average.
    """
    values = training.processes.average({"total": losses.total, **losses.terms})
    if math.isfinite(values["total"]):
        return values
    terms = ", ".join(f"{name} {value:g}" for name, value in values.items())
    message = (
        f"{training.folder}: the loss is no longer finite at step {step + 1} of {training.steps}: {terms}."
        " Lower train.learning_rate, set train.clip_gradient_norm, lengthen train.warmup_steps,"
        " or set train.precision: fp32."
    )
    if training.processes.is_first:
        training.state.give_up(message)
    raise TrainingError(message)


def _metrics(training: Training, counts: Counts, optimizer: AdamW, *, step: int) -> dict[str, Any]:
    """What `metrics.jsonl` says of a step beside its losses: all of it the same in every repetition."""
    return {
        "step": step + 1,
        "epoch": round((step + 1) / training.order.steps_per_epoch, 4),
        "learning_rate": optimizer.param_groups[0]["lr"],
        "logit_scale": training.method.encoder.logit_scale.exp().item(),
        "images": sum(counts.images),
        "regions": sum(counts.regions),
    }


def _save(training: Training, optimizer: AdamW, done: int) -> None:
    content = {"method": training.method.state_dict(), "optimizer": optimizer.state_dict()}
    training.processes.first_does(lambda: training.state.save(done, content))


def _resume(training: Training, optimizer: AdamW) -> int:
    """Steps that earlier attempts made; method and optimiser are set to where they stood.

    Raises:
        TrainingError: the processes do not find the same checkpoint.
    """
    found = training.state.load()
    done = 0 if found is None else found[0]
    agreed = training.processes.first_does(lambda: done)
    if agreed != done:
        raise TrainingError(
            f"{training.state.folder}: the first process finds a checkpoint of step {agreed}, this one of step {done}."
            " All processes must see the same folder."
        )
    if found is not None:
        training.method.load_state_dict(found[1]["method"])
        optimizer.load_state_dict(found[1]["optimizer"])
    return done


def _announce(training: Training, done: int) -> None:
    config, order = training.config, training.order
    if not training.processes.is_first:
        return
    log.info(
        "%s on %d samples, %d a step, %d steps; processes: %d, on %s",
        f"training goes on after step {done}" if done else "training",
        order.samples,
        order.images_per_step,
        training.steps,
        training.processes.world_size,
        training.processes.device,
    )
    if config.warmup_steps >= training.steps:
        log.warning(
            "train.warmup_steps: %d is not less than the %d steps of this training: the learning rate never reaches its peak",
            config.warmup_steps,
            training.steps,
        )

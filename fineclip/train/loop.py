"""The training loop, one for every method: step, log, checkpoint, resume.

A training stands at a number of steps done; that number alone decides which samples come next and what is drawn of
them, so a checkpoint holds weights and optimiser and nothing else. On a CPU a resumed training ends in the same bits as an
uninterrupted one at the same number of processes and threads; on a GPU it does under `train.deterministic`.
"""

import hashlib
import logging
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW

from fineclip.errors import DataError, FineclipError, TrainingError
from fineclip.methods.cost import step_flops
from fineclip.models.flops import peak_flops
from fineclip.train.data import CPUBatch, to_device
from fineclip.train.distributed import Wish
from fineclip.train.journal import Journal
from fineclip.train.optim import learning_rate, set_learning_rate
from fineclip.train.resume import resume, save
from fineclip.train.signals import Requests, heeded
from fineclip.train.training import Learner, Training, learner_of
from fineclip.train.watch import Watch
from fineclip.types import Batch, Counts, Losses

log = logging.getLogger(__name__)


def train(training: Training) -> None:
    """Train to the last step, from where an earlier attempt was stopped.

    Raises:
        ConfigError: a step has too few images for the method, or does not fit into the memory.
        TrainingError: the loss is not finite or diverges, processes disagree, or another process failed.
        DataError, ShardError: a sample cannot be read.
        SystemExit: a signal asked to stop; a checkpoint is saved.
    """
    processes, config = training.processes, training.config
    training.method.to(processes.device)
    learner = learner_of(training)
    done = resume(training, learner)
    if training.runtime.compile:  # after the chunks were chosen: what is measured for that comes in other shapes
        training.method.encoder.trunk.compile()
    _announce(training, learner, done)
    module, stream = processes.wrap(training.method), training.batches(done)
    minutes = training.runtime.stop_after_min
    with heeded(limit_s=minutes and minutes * 60) as requests, _journal(training, done) as journal:
        for step in range(done, training.steps):
            with journal.waiting():
                batch, wish = _next_batch(training, stream, requests, step=step)
            if wish is Wish.STOP:
                if step > done:
                    _judged(training, learner.watch)
                    save(training, learner, step)
                log.info("asked to stop after step %d of %d; run again to go on", step, training.steps)
                raise SystemExit(128 + (requests.received or signal.SIGTERM))
            losses = _update(training, module, learner, batch, step=step)
            flops = step_flops(training.method, batch) if journal.shows_mfu else None
            journal.saw(sum(batch.counts.images), sum(batch.counts.regions), flops)
            if step == done:
                processes.require_equal_gradients(training.method)
            must_log = step == 0 or training.is_due(step, config.log_every_steps)
            must_save = training.is_due(step, config.checkpoint_every_steps) and step + 1 < training.steps
            _begin(training, learner.watch, losses, batch.keys, step=step)
            values = _judged(training, learner.watch) if must_log or must_save else {}
            if must_log:
                journal.record(_metrics(training, batch.counts, learner.optimizer, step=step), values)
            if must_save:
                save(training, learner, step + 1)


def _journal(training: Training, done: int) -> Journal:
    processes, runtime = training.processes, training.runtime
    is_gpu = processes.device.type == "cuda"
    name = torch.cuda.get_device_name(processes.device) if is_gpu else ""
    return Journal(
        training.folder,
        done=done,
        steps=training.steps,
        writes=processes.is_first,
        device=processes.device,
        peak_flops=peak_flops(name, training.config.precision) if is_gpu else None,
        tensorboard=runtime.tensorboard,
    )


def _next_batch(training: Training, stream: Iterator[CPUBatch], requests: Requests, *, step: int) -> tuple[Batch, Wish]:
    """This process's rows of the next step, with the counts of every process, and what all of them want."""
    processes = training.processes
    host: CPUBatch | None = None
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
    return to_device(host, counts, processes.device, seed=_draws(training.config.seed, step, "all")), wish


def _update(training: Training, module: nn.Module, learner: Learner, batch: Batch, *, step: int) -> Losses:
    """One step of the optimiser. What is drawn on the way is a function of seed, step and process."""
    config, method = training.config, training.method
    torch.manual_seed(_draws(config.seed, step, training.processes.rank))
    rate = learning_rate(step, of=training.steps, peak=config.learning_rate, warmup=config.warmup_steps)
    set_learning_rate(learner.optimizer, rate)
    learner.optimizer.zero_grad(set_to_none=True)
    method.chunks.loss_scale = learner.precision.loss_scale
    with learner.precision.autocast():
        losses: Losses = module(batch)
    learner.precision.update(losses.total, learner.optimizer, method, clip=config.clip_gradient_norm)
    method.after_step(step, training.steps)
    return losses


def _draws(seed: int, step: int, who: int | str) -> int:
    """Of one process, by its rank, or of all together."""
    digest = hashlib.sha256(f"{seed}/{step}/{who}".encode()).digest()
    return int.from_bytes(digest[:7], "little")


def _begin(training: Training, watch: Watch, losses: Losses, keys: Sequence[str], *, step: int) -> None:
    """Send the losses of a step off, and look at those of the step before."""
    with _given_up(training):
        watch.begin(step, losses, keys)


def _judged(training: Training, watch: Watch) -> dict[str, float]:
    """Total and terms of the step at hand over the whole batch; waits for the device."""
    with _given_up(training):
        return watch.judged() or {}


@contextmanager
def _given_up(training: Training) -> Iterator[None]:
    """A training that is none any more leaves its marker, so that the next attempt does not come here again."""
    try:
        yield
    except TrainingError as error:
        if training.processes.is_first:
            training.state.give_up(str(error))
        raise


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


def _announce(training: Training, learner: Learner, done: int) -> None:
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
    chunks, scaler = training.method.chunks, learner.precision.scaler
    if chunks.apart:
        images, crops = ("all" if each is None else each for each in (chunks.images, chunks.crops))
        log.info("a process encodes %s images and %s crops at a time", images, crops)
    if scaler.is_enabled():
        log.info("the loss is scaled by %g", scaler.get_scale())
    if config.warmup_steps >= training.steps:
        log.warning(
            "train.warmup_steps: %d is not less than the %d steps of this training: the learning rate never reaches its peak",
            config.warmup_steps,
            training.steps,
        )

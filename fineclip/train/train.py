"""Training: state, loop and step, for every method.

The number of finished steps is the only position: samples and random draws of a step are functions of it and the seed, so a
checkpoint holds only weights and optimizer state. On a CPU a resumed training ends in the same bits as an
uninterrupted one with the same number of ranks and threads; on a GPU it does so under `train.deterministic`.
"""

import hashlib
import logging
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import AdamW

from fineclip.config import RuntimeConfig, TrainConfig
from fineclip.errors import ConfigError, DataError, FineclipError, TrainingError
from fineclip.methods import Method
from fineclip.methods.base import EncoderCall
from fineclip.methods.transforms import ImageGroup
from fineclip.models.flops import peak_flops
from fineclip.train.checkpoint import CheckpointManager
from fineclip.train.data import Collate, CPUBatch, PackedDataset, build_batches, to_device
from fineclip.train.distributed import DistributedContext, StepSignal
from fineclip.train.grad_cache import GradCache, MicroBatchSizes
from fineclip.train.memory import RankBatchSize, choose_micro_batches
from fineclip.train.metrics import LossMonitor, MetricsLogger, step_flops
from fineclip.train.optim import (
    AUTOCAST_DTYPES,
    autocast,
    backward_and_step,
    build_optimizer,
    build_scaler,
    learning_rate,
    set_learning_rate,
)
from fineclip.train.preemption import StopRequest, handle_stop_signals
from fineclip.train.sampler import BatchSampler, EpochOrder, split_by_rank
from fineclip.types import Batch, Losses
from fineclip.version import __version__

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingRun:
    """Inputs of a training.

    Attributes:
        method: The method to train.
        config: Section `train`.
        samples: Packed samples with the transform of the method.
        collate: Examples to batches.
        folder: Folder of the run, for metrics.
        checkpoints: Files for resuming.
        context: Rank, world size and device.
        runtime: Resources; they change results by rounding only.
    """

    method: Method[Any]
    config: TrainConfig
    samples: PackedDataset
    collate: Collate
    folder: Path
    checkpoints: CheckpointManager
    context: DistributedContext
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    @cached_property
    def order(self) -> EpochOrder:
        """Samples of each step."""
        sizes, config = tuple(map(len, self.samples.shards)), self.config
        return EpochOrder(sizes, config.batch_size, seed=config.seed, shuffle_shards=config.shuffle_shards)

    @cached_property
    def steps(self) -> int:
        """Number of steps."""
        planned = self.order.steps_per_epoch * self.config.epochs
        return planned if self.config.max_steps is None else min(planned, self.config.max_steps)

    @cached_property
    def encoder_calls(self) -> list[EncoderCall]:
        """Uses of an encoder in one step."""
        return self.method.encoder_calls(self.collate.data_spec)

    @cached_property
    def image_groups(self) -> list[ImageGroup]:
        """Groups of images of a step that one rank must hold together, with the pixels that are encoded for them.

        Returns:
            One group per entry of `Method.image_groups`; `cost` is in px.

        Raises:
            ConfigError: The method needs a larger batch.
        """
        px = {call.images: call.px for call in self.encoder_calls if call.rows == "images" and call.gradient}
        return [ImageGroup(size, px[size] ** 2) for size in self.method.image_groups(self.order.images_per_step)]

    @property
    def rank_batch_size(self) -> RankBatchSize:
        """Maximum rows of a rank in a step."""
        images, ranks, regions = self.order.images_per_step, self.context.world_size, self.config.max_regions
        visits = self.order.batch(0)
        own = max(len(split_by_rank(visits, self.image_groups, rank=rank, world_size=ranks)) for rank in range(ranks))
        return RankBatchSize(own, own * regions, images, images * regions)

    def batches(self, start: int) -> Iterator[CPUBatch]:
        """Yield this rank's part of the batches of steps `start`, `start + 1`, ..."""
        rank, world_size = self.context.rank, self.context.world_size
        sampler = BatchSampler(self.order, start, self.steps, rank, world_size, self.image_groups)
        pin = self.context.device.type == "cuda"
        return build_batches(self.samples, self.collate, sampler, workers=self.runtime.num_workers, pin_memory=pin)

    def is_due(self, step: int, every: int) -> bool:
        """Return whether an action of every `every` steps, and of the last one, is due after step number `step`."""
        return (step + 1) % every == 0 or step + 1 == self.steps


@dataclass
class TrainState:
    """Everything that changes during training.

    Attributes:
        method: The method that is trained.
        model: `DDP(GradCache(method))`, or without DDP on a single rank.
        micro_batches: Sizes of micro-batches.
        step: Number of finished steps.
    """

    method: Method[Any]
    model: nn.Module
    optimizer: AdamW
    scaler: GradScaler
    monitor: LossMonitor
    micro_batches: MicroBatchSizes
    step: int

    @property
    def parts(self) -> dict[str, Any]:
        """Objects with a `state_dict`, by their names in a checkpoint."""
        return {"method": self.method, "optimizer": self.optimizer, "scaler": self.scaler, "monitor": self.monitor}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on."""
        sizes = {"crops": self.micro_batches.crops, "images": self.micro_batches.images}
        return {name: part.state_dict() for name, part in self.parts.items()} | {"micro_batches": sizes}


def train(run: TrainingRun) -> TrainState:
    """Train `run.method` to the last step, starting from the latest checkpoint.

    Args:
        run: Inputs of the training; its method is changed in place.

    Returns:
        State after the last step.

    Raises:
        ConfigError: A step has too few images for the method, or does not fit into memory.
        TrainingError: The loss is not finite or diverges, ranks disagree, or another rank failed.
        DataError, ShardError: A sample cannot be read.
        SystemExit: A stop was requested; a checkpoint has been saved.
    """
    require_enough_images(run)
    config, state = run.config, resume(run)
    first_step, batches_of_rank = state.step, run.batches(state.step)
    _log_setup(run, state)
    limit_s = run.runtime.time_limit_min and 60 * run.runtime.time_limit_min
    with handle_stop_signals(limit_s=limit_s) as stop, closing(_metrics_logger(run, state)) as logger:
        for step in range(first_step, run.steps):
            with logger.waiting():
                batch, step_signal = next_batch(run, batches_of_rank, stop, step=step)
            if step_signal is StepSignal.STOP:
                if step > first_step:
                    check_loss(run, state)
                    save(run, state)
                log.info("stop requested at step %d/%d; rerun to resume", step, run.steps)
                raise SystemExit(128 + (stop.received or signal.SIGTERM))
            losses = train_step(run, state, batch)
            if step == first_step:
                run.context.require_equal_gradients(run.method)
            flops = step_flops(run.method, batch, run.collate.data_spec) if logger.shows_mfu else None
            logger.update(sum(batch.counts.images), sum(batch.counts.regions), flops)
            must_log = step == 0 or run.is_due(step, config.log_every_steps)
            must_save = run.is_due(step, config.checkpoint_every_steps) and step + 1 < run.steps
            check_loss(run, state)  # of the step before, so that the host does not wait for the device
            state.monitor.push(step, losses, batch.keys)
            values = check_loss(run, state) if must_log or must_save else {}
            if must_log:
                logger.log(_metrics(run, state, batch), values)
            if must_save:
                save(run, state)
    return state


def require_enough_images(run: TrainingRun) -> None:
    """Check that a step has the images that the method needs.

    Args:
        run: Inputs of the training.

    Raises:
        ConfigError: There are fewer samples, or the batch is smaller.
    """
    images, least = run.order.images_per_step, run.method.config.min_batch_size
    if images < least:
        raise ConfigError(
            f"train.batch_size: a step has {images} of {run.order.samples} samples, but the method needs at least {least}:"
            f" {run.method.config.min_batch_reason}. Raise it, or select more samples."
        )


def train_step(run: TrainingRun, state: TrainState, batch: Batch) -> Losses:
    """Run forward pass, backward pass and optimizer step on one batch. Random draws depend on seed, step and rank.

    Args:
        run: Configuration and context.
        state: Changed in place.
        batch: Rows of this rank.

    Returns:
        Losses of this rank.
    """
    config, context, step = run.config, run.context, state.step
    torch.manual_seed(step_seed(config.seed, step, context.rank))
    rate = learning_rate(step, total=run.steps, peak=config.learning_rate, warmup=config.warmup_steps)
    set_learning_rate(state.optimizer, rate)
    state.optimizer.zero_grad(set_to_none=True)
    with autocast(AUTOCAST_DTYPES[config.precision], context.device):
        losses: Losses = state.model(batch)
    backward_and_step(losses.total, state.optimizer, state.scaler, state.method, max_norm=config.max_grad_norm)
    state.method.on_step_end(step, run.steps)
    state.step += 1
    return losses


def next_batch(
    run: TrainingRun, batches_of_rank: Iterator[CPUBatch], stop: StopRequest, *, step: int
) -> tuple[Batch, StepSignal]:
    """Return this rank's part of the next batch on its device, with the counts of all ranks, and their common decision.

    Args:
        run: Configuration and context.
        batches_of_rank: From `TrainingRun.batches`.
        stop: Request to stop this process.
        step: Number of the step, from 0.

    Returns:
        Batch on the device of this rank, and the maximum of the decisions of all ranks.

    Raises:
        DataError, ShardError: A sample of this rank cannot be read.
        TrainingError: Another rank failed.
    """
    context = run.context
    host: CPUBatch | None = None
    failure: FineclipError | None = None
    try:
        host = next(batches_of_rank)
    except FineclipError as error:
        failure = error
    own = StepSignal.ABORT if failure else StepSignal.STOP if stop.received else StepSignal.CONTINUE
    counts, common = context.all_gather_counts(len(host.keys) if host else 0, host.regions if host else 0, own)
    if isinstance(failure, DataError):
        run.checkpoints.mark_failed(str(failure))
    if failure is not None:
        raise failure
    if common is StepSignal.ABORT or host is None:
        raise TrainingError("another process of this training has failed; see its own error message")
    return to_device(host, counts, context.device, seed=step_seed(run.config.seed, step, "all")), common


def step_seed(seed: int, step: int, rank: int | str) -> int:
    """Return the seed of one step on one rank, or on all ranks together.

    Args:
        seed: Seed of the run.
        step: Number of the step, from 0.
        rank: Rank, or "all".

    Returns:
        Integer of 56 bits.
    """
    digest = hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()
    return int.from_bytes(digest[:7], "little")


def check_loss(run: TrainingRun, state: TrainState) -> dict[str, float]:
    """Return the pending losses over all ranks, waiting for the device; mark the run as failed if they are bad.

    Args:
        run: Configuration and context.
        state: Its monitor has the pending losses.

    Returns:
        Total and terms by name; empty if they were checked before.

    Raises:
        TrainingError: They are not finite or diverge.
    """
    try:
        return state.monitor.check()
    except TrainingError as error:
        if run.context.is_main_process:
            run.checkpoints.mark_failed(str(error))
        raise


def save(run: TrainingRun, state: TrainState) -> None:
    """Write a checkpoint on the main process while the other ranks wait."""
    position = run.order.position(state.step)._asdict()
    described = {"position": position, "config": run.config.model_dump(mode="json"), "code": __version__}
    run.context.run_on_main(lambda: run.checkpoints.save(state.step, state.state_dict() | described))


def resume(run: TrainingRun) -> TrainState:
    """Build the state of the latest checkpoint, or of step 0 if there is none.

    Args:
        run: Inputs of the training.

    Returns:
        State with `step` finished steps.

    Raises:
        ConfigError: A step does not fit into memory.
        TrainingError: Ranks find different checkpoints.
    """
    method, config, context, runtime = run.method, run.config, run.context, run.runtime
    method.to(context.device)
    method.encoder.trunk.checkpointing = runtime.activation_checkpointing
    optimizer, scaler = build_optimizer(method.parameter_groups(), config), build_scaler(config, context.device)
    monitor = LossMonitor(context, config.divergence_factor, str(run.folder), run.steps)
    step, content = run.checkpoints.load_latest() or (0, None)
    if (expected := context.run_on_main(lambda: step)) != step:
        raise TrainingError(
            f"{run.checkpoints.folder}: the main process finds a checkpoint of step {expected}, rank {context.rank} one of step"
            f" {step}. All processes must see the same folder."
        )
    state, previous = TrainState(method, method, optimizer, scaler, monitor, MicroBatchSizes(), step), None
    if content is not None:
        for name, part in state.parts.items():
            part.load_state_dict(content[name])
        previous = MicroBatchSizes(**content["micro_batches"])
    dtype, is_distributed, rows = AUTOCAST_DTYPES[config.precision], context.world_size > 1, run.rank_batch_size
    state.micro_batches = context.run_on_main(
        lambda: choose_micro_batches(
            method, run.encoder_calls, rows, runtime, dtype=dtype, is_distributed=is_distributed, previous=previous
        )
    )
    if runtime.compile:  # after memory was measured, which uses other shapes
        method.encoder.trunk.compile()
    state.model = context.wrap(GradCache(method, state.micro_batches, scaler))
    return state


def _metrics(run: TrainingRun, state: TrainState, batch: Batch) -> dict[str, Any]:
    """Return the values of `metrics.jsonl` beside losses. All of them are reproducible."""
    return {
        "step": state.step,
        "epoch": round(state.step / run.order.steps_per_epoch, 4),
        "learning_rate": state.optimizer.param_groups[0]["lr"],
        "logit_scale": state.method.encoder.logit_scale.exp().item(),
        "images": sum(batch.counts.images),
        "regions": sum(batch.counts.regions),
    }


def _metrics_logger(run: TrainingRun, state: TrainState) -> MetricsLogger:
    device, tensorboard = run.context.device, run.runtime.tensorboard
    peak = peak_flops(torch.cuda.get_device_name(device), run.config.precision) if device.type == "cuda" else None
    return MetricsLogger(
        run.folder, run.context, done=state.step, steps=run.steps, peak_flops=peak, tensorboard=tensorboard
    )


def _log_setup(run: TrainingRun, state: TrainState) -> None:
    config, order, context = run.config, run.order, run.context
    if not context.is_main_process:
        return
    log.info(
        "%s: %d samples, %d per step, %d steps, world size %d, device %s",
        f"resuming after step {state.step}" if state.step else "training",
        *(order.samples, order.images_per_step, run.steps, context.world_size, context.device),
    )
    if state.micro_batches.splits:
        sizes = (state.micro_batches.images or "all", state.micro_batches.crops or "all")
        log.info("micro-batch per process: %s images, %s crops", *sizes)
    if state.scaler.is_enabled():
        log.info("loss scale %g", state.scaler.get_scale())
    if config.warmup_steps >= run.steps:
        log.warning(
            "train.warmup_steps: %d is not less than the %d steps of this training: the learning rate never reaches its peak",
            *(config.warmup_steps, run.steps),
        )

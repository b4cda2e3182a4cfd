"""What a training is made of: what it reads, what learns, and what changes from step to step."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch.optim import AdamW

from fineclip.config import RuntimeConfig, TrainConfig
from fineclip.methods import Method
from fineclip.methods.chunks import Chunks
from fineclip.methods.items import Group
from fineclip.train.data import Collate, CPUBatch, PackedDataset, build_batches
from fineclip.train.distributed import Processes
from fineclip.train.memory import Share, chosen_chunks, costs_of, limit_of
from fineclip.train.optim import Precision, make_optimizer
from fineclip.train.sampler import BatchSampler, EpochOrder, split_by_rank
from fineclip.train.state import StateFolder
from fineclip.train.watch import Watch

log = logging.getLogger(__name__)

COMPILED_CROPS = 64  # crops at a time where the encoder is compiled and nothing else says how many


@dataclass(frozen=True)
class Training:
    """What a training is made of.

    Attributes:
        folder: of the run; metrics and speeds go there.
        runtime: means, which change no result beyond rounding.
    """

    method: Method[Any]
    config: TrainConfig
    samples: PackedDataset
    collate: Collate
    folder: Path
    state: StateFolder
    processes: Processes
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    @cached_property
    def order(self) -> EpochOrder:
        """Which samples each step sees."""
        sizes = tuple(map(len, self.samples.shards))
        config = self.config
        return EpochOrder(sizes, config.batch_size, seed=config.seed, shuffle_shards=config.shuffle_shards)

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

    def batches(self, done: int) -> Iterator[CPUBatch]:
        """This process's share of every step that is left."""
        own, groups = self.processes, self.groups
        sampler = BatchSampler(self.order, done, self.steps, own.rank, own.world_size, groups)
        return build_batches(
            self.samples,
            self.collate,
            sampler,
            workers=self.runtime.loader_workers,
            pin_memory=own.device.type == "cuda",
        )

    @property
    def share(self) -> Share:
        """The most rows that a process may see of a step."""
        images, processes = self.order.images_per_step, self.processes.world_size
        visits = self.order.batch(0)
        own = max(len(split_by_rank(visits, self.groups, rank=rank, world_size=processes)) for rank in range(processes))
        return Share(own, own * self.config.max_regions, images, images * self.config.max_regions)

    def is_due(self, step: int, every: int) -> bool:
        """Whether something that is done every so many steps is done after step number `step`, and after the last."""
        return (step + 1) % every == 0 or step + 1 == self.steps


@dataclass(frozen=True)
class Learner:
    """What changes from step to step beside the method."""

    optimizer: AdamW
    precision: Precision
    watch: Watch


def learner_of(training: Training) -> Learner:
    """With everything at its beginning."""
    config, processes, method = training.config, training.processes, training.method
    method.encoder.trunk.checkpointing = training.runtime.checkpointing
    return Learner(
        make_optimizer(method.parameter_groups(), config),
        Precision.of(config, processes.device),
        Watch(processes, config.max_growth, str(training.folder), training.steps),
    )


def chunks_for(training: Training, precision: Precision, *, before: Chunks | None = None) -> Chunks:
    """How many rows to encode at a time: what the configuration says, else what was chosen `before` if it fits, else what does.

    Raises:
        ConfigError: nothing does.
    """
    runtime = training.runtime
    found = training.processes.first_does(lambda: _fitting(training, precision, before))
    crops, images = runtime.crop_chunk or found.crops, runtime.image_chunk or found.images
    if before is not None and (crops, images) != (before.crops, before.images):
        log.warning("chunks are not those of the checkpoint: the training ends in other bits than an uninterrupted one")
    if runtime.compile and crops is None:
        crops = COMPILED_CROPS
    return Chunks(crops, images, are_padded=runtime.compile)


def _fitting(training: Training, precision: Precision, before: Chunks | None) -> Chunks:
    limit = limit_of(training.runtime, training.processes.device)
    if limit is None:
        return before or Chunks()
    method, rows = training.method, training.share
    passes = method.passes(training.collate.inputs)
    costs = costs_of(method, passes, rows, dtype=precision.dtype, is_shared=training.processes.world_size > 1)

    def expected(chunks: Chunks) -> float:
        return costs.of(chunks.images or rows.images, (chunks.crops or rows.regions) if passes.crop_px else 0)

    chunks = before
    if chunks is None or expected(chunks) > limit:
        chunks = chosen_chunks(costs, rows, limit, has_crops=passes.crop_px is not None)
    log.info("of %.3g GB a step takes at most about %.3g GB", limit / 1e9, expected(chunks) / 1e9)
    return chunks

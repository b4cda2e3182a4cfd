"""A training of a few steps of the tiny encoder on packed shards of noise."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fineclip.config import RuntimeConfig, TrainConfig, parse
from fineclip.methods import METHODS
from fineclip.methods.transforms import DataSpec
from fineclip.stages.upstream import keys_by_shard, manifests_of
from fineclip.train.checkpoint import CheckpointManager
from fineclip.train.data import Collate, PackedDataset
from fineclip.train.distributed import DistributedContext
from fineclip.train.selection import read_selection
from fineclip.train.train import TrainingRun
from tests.helpers.tiny import TinyTokenizer, tiny_encoder

INPUTS = DataSpec(TinyTokenizer(), image_size=16, crop_size=8)
CONFIG = TrainConfig(
    batch_size=4,
    epochs=3,
    learning_rate=1e-2,
    warmup_steps=2,
    log_every_steps=2,
    checkpoint_every_steps=3,
    max_regions=2,
)
TRAIN: dict[str, Any] = {  # the section `train` of a whole run
    "batch_size": 4,
    "epochs": 2,
    "learning_rate": 1e-3,
    "warmup_steps": 1,
    "log_every_steps": 1,
    "checkpoint_every_steps": 1,
    "max_regions": 2,
}


def training_of(
    world: tuple[Path, list[Path]],
    folder: Path,
    *,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    runtime: Mapping[str, Any] | None = None,
    method: str = "fineclip",
    options: Mapping[str, Any] | None = None,
    **changes: Any,
) -> TrainingRun:
    """Of everything in a world of `tests.helpers.packs`, with a fresh encoder; `changes` are those of the loop."""
    config = CONFIG.model_copy(update=changes)
    select, packed = world
    keys = keys_by_shard(select)
    selection = read_selection(keys, manifests_of(keys, packed, stage="pack", select=select), config)
    section = parse(METHODS[method].config_type, options or {}, where="test")
    learner = METHODS[method].build(tiny_encoder(dtype=torch.float32), section, INPUTS)
    transform = learner.build_transform(INPUTS, section, max_regions=config.max_regions)
    folder.mkdir(exist_ok=True)
    return TrainingRun(
        learner,
        config,
        samples=PackedDataset(selection.shards, transform, seed=config.seed),
        collate=Collate(INPUTS),
        folder=folder,
        checkpoints=CheckpointManager(folder / "state", "identity"),
        context=DistributedContext(rank, world_size, torch.device("cpu")),
        runtime=RuntimeConfig(num_workers=workers, **{"tensorboard": False, **(runtime or {})}),
    )


def weights_of(training: TrainingRun) -> dict[str, Tensor]:
    """A copy of what the training stands at."""
    return {name: value.clone() for name, value in training.method.state_dict().items()}


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def stop_before(training: TrainingRun, step: int, how: Any) -> None:
    """Let `how()` be called right after the update of step number `step`, counted from 0."""
    own = training.method.on_step_end

    def on_step_end(now: int, total: int) -> None:
        own(now, total)
        if now == step:
            how()

    object.__setattr__(training.method, "on_step_end", on_step_end)

"""Memory of a step with `workflow/presets/hardware/24gb.yaml`, with the micro-batches that it leads to.

The costs of one image and of one crop are measured as in training, with autocast and attention as on a GPU.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import yaml

from benchmarks.figures import Figure
from benchmarks.inputs import build_method, data_spec, random_encoder
from benchmarks.memory import as_on_a_gpu
from fineclip.config.plan import RuntimeConfig
from fineclip.methods.fineclip import FineCLIP
from fineclip.train.grad_cache import MicroBatchSizes
from fineclip.train.memory import CUDA_CONTEXT, MemoryCosts, RankBatchSize, estimate_memory, largest_micro_batches

PRESET = Path(__file__).parents[1] / "workflow/presets/hardware/24gb.yaml"
IMAGES, REGIONS = 256, 8
GB = 1e9


class Case(NamedTuple):
    """A model and its image size."""

    model: str
    px: int


CASES = (Case("EVA02-B-16", 224), Case("EVA02-L-14-336", 336))


def preset() -> RuntimeConfig:
    """Return the runtime section of the preset."""
    return RuntimeConfig(**yaml.safe_load(PRESET.read_text(encoding="utf-8"))["runtime"])


class Chosen(NamedTuple):
    """Memory that the preset leads to.

    Attributes:
        limit: Memory of the preset in bytes.
    """

    method: FineCLIP
    chunks: MicroBatchSizes
    costs: MemoryCosts
    share: RankBatchSize
    limit: float

    @property
    def taken(self) -> float:
        """Memory of a step in bytes."""
        return self.costs.total(self.chunks.images or self.share.images, self.chunks.crops or self.share.regions)

    @property
    def said(self) -> str:
        """Parts of the memory as text, for the note of the figure."""
        chunks, costs = self.chunks, self.costs
        at_a_time = [
            f"{count or 'all'} {name} at a time" for name, count in (("images", chunks.images), ("crops", chunks.crops))
        ]
        return (
            f"{', '.join(at_a_time)}; {costs.static / GB:.1f} GB for weights, gradients, moments, gradients of the chunks and"
            f" the GPU's context, {costs.batch / GB:.1f} GB for a batch, {costs.image / 1e6:.0f} MB for an image,"
            f" {costs.crop / 1e6:.0f} MB for a crop"
        )


def chosen(case: Case, *, images: int = IMAGES, regions: int = REGIONS) -> Chosen:
    """Return the micro-batches that the trainer chooses on one process.

    Args:
        case: Model and image size.
        images: Images of the global batch.
        regions: Regions per image.

    Returns:
        Micro-batches, memory costs and limit, with the method they belong to.

    Raises:
        ConfigError: One image and one crop exceed the limit.
    """
    runtime = preset()
    limit = float(runtime.memory_gb or 0) * GB
    encoder = random_encoder(case.model, size=case.px)
    encoder.trunk.checkpointing = runtime.activation_checkpointing
    method = build_method(encoder)
    share = RankBatchSize(images, images * regions, images, images * regions)
    with as_on_a_gpu():
        costs = estimate_memory(
            method, method.encoder_calls(data_spec(case.px)), share, dtype=torch.bfloat16, is_distributed=False
        )
    costs = costs._replace(static=costs.static + CUDA_CONTEXT)
    return Chosen(method, largest_micro_batches(costs, share, limit), costs, share, limit)


def card_figures(cases: Sequence[Case] = CASES, *, images: int = IMAGES, regions: int = REGIONS) -> list[Figure]:
    """Return the memory of a whole global batch on one GPU, for each model."""
    found = [(case, chosen(case, images=images, regions=regions)) for case in cases]
    return [
        Figure(
            f"memory of {case.model} at {case.px} px, {images} images x {regions} regions on one card, bf16, `24gb.yaml`",
            "GB",
            reference=each.costs.total(each.share.images, each.share.regions) / GB,
            against="all at once",
            ours=each.taken / GB,
            target=each.limit / GB,
            side="at most",
            note=each.said,
        )
        for case, each in found
    ]

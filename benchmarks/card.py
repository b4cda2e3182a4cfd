"""Whether `workflow/presets/24gb.yaml` keeps its promise: what a step takes with the chunks that it leads to.

Measured as the trainer measures it, on an image and on a crop, with autocast and attention as a GPU has them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import yaml

from benchmarks.figures import Figure
from benchmarks.inputs import made_encoder, made_method
from benchmarks.memory import as_on_a_gpu
from fineclip.config.plan import RuntimeConfig
from fineclip.methods.items import Inputs
from fineclip.train.memory import CONTEXT, Share, chosen_chunks, costs_of

PRESET = Path(__file__).parents[1] / "workflow/presets/24gb.yaml"
IMAGES, REGIONS = 256, 8
GB = 1e9


class Case(NamedTuple):
    """A model at its size."""

    model: str
    px: int


CASES = (Case("EVA02-B-16", 224), Case("EVA02-L-14-336", 336))


def preset() -> RuntimeConfig:
    """What the overlay says."""
    return RuntimeConfig(**yaml.safe_load(PRESET.read_text(encoding="utf-8"))["runtime"])


def card_figures(cases: Sequence[Case] = CASES, *, images: int = IMAGES, regions: int = REGIONS) -> list[Figure]:
    """The memory that a whole global batch takes on one card, each model at its size."""
    runtime = preset()
    if not isinstance(runtime.memory_gb, float):
        raise TypeError(f"{PRESET}: runtime.memory_gb is to be a number")
    return [_card(case, runtime, runtime.memory_gb, images=images, regions=regions) for case in cases]


def _card(case: Case, runtime: RuntimeConfig, limit_gb: float, *, images: int, regions: int) -> Figure:
    encoder = made_encoder(case.model, size=case.px)
    encoder.trunk.checkpointing = runtime.checkpointing
    method = made_method(encoder)
    inputs = Inputs(tokenize=lambda _: torch.zeros(0, 77, dtype=torch.int64), image_size=case.px, crop_size=case.px)
    share = Share(images, images * regions, images, images * regions)
    with as_on_a_gpu():
        costs = costs_of(method, method.passes(inputs), share, dtype=torch.bfloat16, is_shared=False)
    costs = costs._replace(static=costs.static + CONTEXT)
    limit = limit_gb * GB
    chunks = chosen_chunks(costs, share, limit, has_crops=True)
    taken = costs.of(chunks.images or share.images, chunks.crops or share.regions)
    everything = costs.of(share.images, share.regions)
    said = [
        f"{count or 'all'} {name} at a time" for name, count in (("images", chunks.images), ("crops", chunks.crops))
    ]
    return Figure(
        f"memory of {case.model} at {case.px} px, {images} images x {regions} regions on one card, bf16, `24gb.yaml`",
        "GB",
        reference=everything / GB,
        against="all at once",
        ours=taken / GB,
        target=limit_gb,
        side="at most",
        note=(
            f"{', '.join(said)}; weights, gradients, moments, gradients of the chunks and the GPU's context {costs.static / GB:.1f} GB,"
            f" batch {costs.batch / GB:.1f} GB, an image {costs.image / 1e6:.0f} MB, a crop {costs.crop / 1e6:.0f} MB"
        ),
    )

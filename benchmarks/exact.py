"""Machine-independent figures: FLOPs, bytes kept, bytes sent, collectives, host waits.

python -m benchmarks.exact
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.card import card_figures
from benchmarks.command import build_parser, run
from benchmarks.counting import Calls, counted_calls, in_two_processes
from benchmarks.equality import require_equal
from benchmarks.figures import Figure, ratio_to_limit, ratio_to_plain
from benchmarks.inputs import SLOTS, build_method, data_spec, packed, padded, random_encoder, random_step
from benchmarks.memory import StepBytes, step_bytes
from benchmarks.plain import OurKernels, plain_loss
from fineclip.config import TrainConfig
from fineclip.methods.fineclip import FineCLIP
from fineclip.models.flops import count_flops
from fineclip.train.distributed import DistributedContext
from fineclip.train.grad_cache import GradCache, MicroBatchSizes
from fineclip.train.metrics import LossMonitor, step_flops
from fineclip.train.optim import autocast, backward_and_step, build_optimizer, build_scaler
from fineclip.types import Counts

MODEL = "EVA02-B-16"
STEPS = 3  # counted in two processes; the first is excluded


class Sizes(NamedTuple):
    """Numbers of images and regions of the measured steps, and image size."""

    model: str = MODEL
    px: int = 224
    images: int = 2
    few: int = 4
    many: int = 10
    chunks: tuple[int, int] = (5, 2)


def flops_figures(method: FineCLIP, sizes: Sizes) -> list[Figure]:
    """Count the FLOPs of a step with few regions per image."""
    step = random_step(method.encoder, [sizes.few] * sizes.images, size=sizes.px)
    batch, template = packed(step), padded(step)
    kernels = OurKernels(method.encoder)
    ours = _flops(method, lambda: GradCache(method)(batch).total)
    plain = _flops(method, lambda: plain_loss(method.encoder, kernels, template))
    arithmetic = step_flops(method, batch, data_spec(sizes.px))
    label = f"{sizes.images} images x {sizes.few} regions"
    return [
        ratio_to_plain(f"FLOPs of a step, {label}", "TFLOP", plain / 1e12, ours / 1e12, target=1.25),
        ratio_to_limit(
            "FLOPs of a step, by torch's counter",
            "TFLOP",
            arithmetic / 1e12,
            ours / 1e12,
            against="arithmetic",
            target=1.03,
        ),
    ]


def _flops(method: FineCLIP, loss: object) -> float:
    def run() -> None:
        loss().backward()  # type: ignore[operator]

    method.zero_grad(set_to_none=True)
    found = count_flops(run)
    method.zero_grad(set_to_none=True)
    return found


def memory_figures(method: FineCLIP, sizes: Sizes) -> list[Figure]:
    """Measure the bytes kept for the backward pass in bf16 with many regions per image: whole batch, micro-batches, checkpointed."""
    step = random_step(method.encoder, [sizes.many] * sizes.images, size=sizes.px)
    batch, template = packed(step), padded(step)
    kernels, trunk, blocks = OurKernels(method.encoder), method.encoder.trunk, len(method.encoder.trunk.blocks)
    plain = step_bytes(method, lambda: plain_loss(method.encoder, kernels, template))

    def ours(crops: int | None, checkpointing: bool = False) -> StepBytes:
        model, trunk.checkpointing = GradCache(method, MicroBatchSizes(crops=crops)), checkpointing
        try:
            return step_bytes(method, lambda: model(batch).total)
        finally:
            trunk.checkpointing = False

    large, small = sizes.chunks
    whole, in_large, in_small, checkpointed = ours(None), ours(large), ours(small), ours(None, checkpointing=True)
    again = checkpointed._replace(saved=checkpointed.saved + whole.saved // blocks)  # and the block that is recomputed
    label = f"bytes kept for the backward pass, {sizes.images} images x {sizes.many} regions, bf16"
    rows = [
        (f"{label}, all crops at once", whole, None),
        (f"{label}, {large} crops at a time", in_large, 2.3),
        (f"{label}, {small} crops at a time", in_small, 3.2),
        (f"{label}, all crops at once, checkpointed", again, 5.0),
    ]
    return [
        ratio_to_plain(
            name,
            "MB",
            plain.saved / 1e6,
            found.saved / 1e6,
            target=target,
            note=f"all tensors of the step beside weights and gradients: plain {plain.all / 1e6:.0f} MB, ours {found.all / 1e6:.0f} MB",
        )
        for name, found, target in rows
    ]


def sent_figure(method: FineCLIP, sizes: Sizes) -> Figure:
    """Compare the bytes sent to the device for one image with many boxes: uint8 pixels, or a padded float template."""
    step = random_step(method.encoder, [sizes.many], size=sizes.px)
    batch = packed(step)
    pixels = step.images_B3SS.numel() + step.crops_R3SS.numel()
    rest = sum(_bytes(getattr(batch, name)) for name in REST)
    plain = sum(_bytes(each) for each in vars(padded(step, slots=SLOTS)).values())
    return ratio_to_plain(
        f"bytes to the device for an image with {sizes.many} boxes", "MB", plain / 1e6, (pixels + rest) / 1e6, target=7
    )


REST = ("texts", "boxes", "box_to_image", "region_texts", "text_rows", "region_text_rows")


def _bytes(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.numel() * tensor.element_size()


def call_figures(sizes: Sizes) -> list[Figure]:
    """Count host waits and collectives of a step in one of two processes, after the first step."""
    found: list[tuple[dict[str, float], dict[str, float], float]] = in_two_processes(counted_steps, sizes)
    reads, collectives, _ = found[0]
    said = ", ".join(f"{name} {count:g}" for name, count in sorted(collectives.items()))
    where = ", ".join(f"{name} {count:g}" for name, count in sorted(reads.items()))
    return [
        Figure(
            "times a step waits for the device",
            "",
            ours=max(each[2] for each in found),
            target=1,
            side="at most",
            note=where,
        ),
        Figure("collectives of a step, gradients included", "", ours=sum(collectives.values()), note=said),
    ]


def counted_steps(sizes: Sizes) -> tuple[dict[str, float], dict[str, float], float]:
    """Return reads by place, collectives by name, and waits, as means over the steps after the first."""
    rank = torch.distributed.get_rank()
    processes = DistributedContext(rank, 2, torch.device("cpu"))
    method = build_method(random_encoder(sizes.model, size=sizes.px))
    config = TrainConfig()
    module, optimizer = processes.wrap(GradCache(method)), build_optimizer(method.parameter_groups(), config)
    scaler, monitor = build_scaler(config, processes.device), LossMonitor(processes, 3.0, "benchmark", STEPS)
    step = random_step(method.encoder, [2, 2 + rank], size=sizes.px, seed=rank)
    batch = packed(step)
    batch.counts = Counts([2, 2], [4, 5])

    def one(number: int) -> None:
        processes.all_gather_counts(2, sum(step.regions), 0)  # type: ignore[arg-type]
        optimizer.zero_grad(set_to_none=True)
        with autocast(None, processes.device):
            losses = module(batch)
        backward_and_step(losses.total, optimizer, scaler, method, max_norm=None)
        method.on_step_end(number, STEPS)
        monitor.check()
        monitor.push(number, losses, batch.keys)

    one(0)
    calls: Calls
    with counted_calls() as calls:
        for number in range(1, STEPS):
            one(number)
    steps = STEPS - 1
    return (
        {name: count / steps for name, count in calls.reads.items()},
        {name: count / steps for name, count in calls.collectives.items()},
        calls.waits / steps,
    )


def measure(sizes: Sizes) -> list[Figure]:
    """Check that ours equals the plain formulation, then measure all figures."""
    method = build_method(random_encoder(sizes.model, size=sizes.px))
    equal = require_equal(method, random_step(method.encoder, [2, 1], size=sizes.px))
    differences = [
        Figure(
            f"relative difference of all gradients, fp32, plain on {name}",
            "",
            ours=each.gradients,
            target=1e-5,
            side="at most",
        )
        for name, each in equal.items()
    ]
    return [
        *differences,
        *flops_figures(method, sizes),
        *memory_figures(method, sizes),
        sent_figure(method, sizes),
        *call_figures(sizes),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    run("exact", build_parser(__doc__), lambda _: [*measure(Sizes()), *card_figures()], arguments)


if __name__ == "__main__":
    main()

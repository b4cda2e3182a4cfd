"""CPU time of a training step (forward, backward, AdamW) on one thread: ours and the plain formulation.

    python -m benchmarks.step

In float32 a step is bound by matrix products, as on a GPU. bfloat16 is timed only on processors with AMX.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from benchmarks.command import build_parser, run
from benchmarks.equality import require_equal
from benchmarks.figures import Figure, ratio_to_limit, ratio_to_plain
from benchmarks.inputs import Step, build_method, data_spec, packed, padded, random_encoder, random_step
from benchmarks.limits import products
from benchmarks.machine import has_amx
from benchmarks.plain import Kernels, OurKernels, UpstreamKernels, plain_loss
from benchmarks.timing import spreads, time_alternately
from fineclip.config.training import TrainConfig
from fineclip.methods.fineclip import FineCLIP
from fineclip.models.encoder import RegionEncoder
from fineclip.train.grad_cache import GradCache, MicroBatchSizes
from fineclip.train.metrics import step_flops
from fineclip.train.optim import build_optimizer

DETACHED = {"relaxed": {"detach_crops": True}}
OURS, SAME, UPSTREAM, RELAXED, CHUNKED, PRODUCTS = (
    "ours",
    "plain, our kernels",
    "plain, upstream's trunk",
    "ours, crops without gradient",
    "ours, 2 crops at a time",
    "products alone",
)


def updating(method: FineCLIP, loss: Callable[[], Tensor], *, half: bool) -> Callable[[], None]:
    """Return a function that takes one optimizer step on a loss."""
    optimizer = build_optimizer(method.parameter_groups(), TrainConfig(learning_rate=1e-9))

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16) if half else nullcontext():
            value = loss()
        value.backward()
        optimizer.step()

    return run


def variants(encoder: RegionEncoder, step: Step, *, half: bool = False) -> dict[str, Callable[[], None]]:
    """Return the timed variants. They share the weights, which a learning rate of 1e-9 leaves almost unchanged."""
    method, relaxed = build_method(encoder), build_method(encoder, DETACHED)
    whole, detached, chunked = GradCache(method), GradCache(relaxed), GradCache(method, MicroBatchSizes(crops=2))
    batch, template = packed(step), padded(step)
    kernels: dict[str, Kernels] = {SAME: OurKernels(encoder), UPSTREAM: UpstreamKernels(encoder)}
    found = {OURS: updating(method, lambda: whole(batch).total, half=half)}
    for name, each in kernels.items():
        found[name] = updating(method, lambda each=each: plain_loss(encoder, each, template), half=half)
    found[RELAXED] = updating(relaxed, lambda: detached(batch).total, half=half)
    found[CHUNKED] = updating(method, lambda: chunked(batch).total, half=half)
    return found


def step_figures(
    encoder: RegionEncoder, step: Step, *, repeats: int, half: bool = False, targets: bool = True
) -> list[Figure]:
    """Return ratios of times, and the ratio of ours to the time of its matrix products alone."""
    method = build_method(encoder)
    patches = step.images_B3SS[0, 0].numel() // (encoder.patch[0] * encoder.patch[1])
    arithmetic = step_flops(method, packed(step), data_spec(step.images_B3SS.shape[-1]))
    dtype = torch.bfloat16 if half else torch.float32
    alone, flops = products(dtype, rows=(1 + patches) * len(step.regions), flops=arithmetic / 4)
    times = time_alternately({**variants(encoder, step, half=half), PRODUCTS: alone}, repeats=repeats)
    spread = spreads(times)
    kind = "bf16, AMX" if half else "fp32"
    prefix = f"step, {len(step.regions)} images x {step.regions[0]} regions, {kind}"

    def against(plain: str, name: str, said: str, target: float | None) -> Figure:
        return ratio_to_plain(
            f"{prefix}, {said}",
            "s",
            times[plain].least,
            times[name].least,
            against=plain,
            target=target if targets else None,
            spread=spread,
        )

    rate = flops / times[PRODUCTS].least
    return [
        against(SAME, OURS, "same objective", 1.3),
        against(UPSTREAM, OURS, "same objective", None),
        against(SAME, RELAXED, "crops without gradient (relaxed)", 2.2),
        against(UPSTREAM, RELAXED, "crops without gradient (relaxed)", None),
        against(SAME, CHUNKED, "same objective, 2 crops at a time", None),
        ratio_to_limit(
            f"{prefix}, same objective",
            "s",
            arithmetic / rate,
            times[OURS].least,
            against=f"its products alone, {rate / 1e9:.0f} GFLOP/s",
        ),
    ]


def measure(*, repeats: int) -> list[Figure]:
    """Check that ours equals the plain formulation, with and without gradient through the crops, then measure."""
    encoder = random_encoder()
    step = random_step(encoder, [2, 2])
    for options in ({}, DETACHED):
        require_equal(build_method(encoder, options), step)
    figures = step_figures(encoder, step, repeats=repeats)
    if has_amx():
        figures += step_figures(encoder, random_step(encoder, [4, 4]), repeats=repeats, half=True, targets=False)
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    run("step", build_parser(__doc__, repeats=5), lambda chosen: measure(repeats=chosen.repeats), arguments)


if __name__ == "__main__":
    main()

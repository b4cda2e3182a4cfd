"""Training step on a GPU: time, images per second, peak memory, model FLOPs utilization. Skipped without a GPU.

    python -m benchmarks.gpu

EVA02-B-16 in bf16, 32 images x 8 regions: ours, with chunks, compiled, checkpointed, without gradient through the crops;
and the plain formulation on our kernels and on those of upstream.
"""

import argparse
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.card import CASES, Case, chosen
from benchmarks.card import IMAGES as CARD_IMAGES
from benchmarks.figures import Figure, show, write
from benchmarks.inputs import Padded, Step, build_method, data_spec, packed, padded, random_encoder, random_step
from benchmarks.machine import load_average
from benchmarks.plain import OurKernels, UpstreamKernels, plain_loss
from benchmarks.step import DETACHED
from benchmarks.timing import Times
from fineclip.config.training import TrainConfig
from fineclip.methods.fineclip import FineCLIP
from fineclip.models.encoder import RegionEncoder
from fineclip.models.flops import peak_flops
from fineclip.train.grad_cache import GradCache, MicroBatchSizes
from fineclip.train.metrics import step_flops
from fineclip.train.optim import build_optimizer
from fineclip.types import Batch

IMAGES, REGIONS, CHUNK = 32, 8, 32
GB = 1e9


class Arm(NamedTuple):
    """A variant.

    Attributes:
        name: Name in the table.
        plain: Kernels of the plain formulation, `same` or `upstream`; None for ours.
        chunks: Micro-batch sizes of ours.
        compiled: Whether torch.compile is used, with crops in chunks of one size.
        checkpointing: Whether the activations inside blocks are recomputed.
        options: Keys of the method that differ from the defaults.
    """

    name: str
    plain: str | None = None
    chunks: MicroBatchSizes = MicroBatchSizes()
    compiled: bool = False
    checkpointing: bool = False
    options: dict[str, Any] = {}  # noqa: RUF012 (never changed)


ARMS = (
    Arm("ours, compiled, 32 crops at a time", chunks=MicroBatchSizes(crops=CHUNK, pad_crops=True), compiled=True),
    Arm("ours, 32 crops at a time", chunks=MicroBatchSizes(crops=CHUNK)),
    Arm("ours", chunks=MicroBatchSizes()),
    Arm("ours, 32 crops at a time, checkpointed", chunks=MicroBatchSizes(crops=CHUNK), checkpointing=True),
    Arm("ours, 8 images and 32 crops at a time", chunks=MicroBatchSizes(crops=CHUNK, images=8)),
    Arm("ours, crops without gradient (relaxed)", options=DETACHED),
    Arm("plain, our kernels", plain="same"),
    Arm("plain, upstream's trunk", plain="upstream"),
)


class Seen(NamedTuple):
    """Measurements of a variant."""

    times: Times
    peak_bytes: int
    flops: float


def moved(record: Any, device: torch.device) -> Any:
    """Copy the tensors of a dataclass to the device."""
    values = {each.name: getattr(record, each.name) for each in fields(record)}
    return replace(record, **{name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)})


def run_arm(arm: Arm, encoder: RegionEncoder, step: Step, device: torch.device, *, repeats: int, warm: int = 3) -> Seen:
    """Measure one variant alone: `warm` steps, then `repeats` timed steps, each synchronized.

    Args:
        arm: The variant.
        encoder: Encoder on any device; its weights are updated with learning rate 1e-9.
        step: Input in uint8 pixels.
        device: Device of the measurement.
        repeats: Number of timed steps.
        warm: Number of steps before the first timed one.

    Returns:
        Times, FLOPs and peak memory.

    Raises:
        torch.OutOfMemoryError: The step exceeds the memory of the device.
    """
    method = build_method(encoder, arm.options).to(device)
    encoder.trunk.checkpointing = arm.checkpointing
    if arm.compiled:
        encoder.trunk.compile()
    batch: Batch = moved(packed(step), device)
    flops = step_flops(method, batch, data_spec(step.images_B3SS.shape[-1]))
    loss = _loss(arm, method, batch, step, device)
    optimizer = build_optimizer(method.parameter_groups(), TrainConfig(learning_rate=1e-9))

    def once() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            value = loss()
        value.backward()
        optimizer.step()
        _finish(device)

    for _ in range(warm):
        once()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        once()
        found.append(time.perf_counter() - begin)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return Seen(Times(tuple(found)), peak, flops)


def _loss(arm: Arm, method: FineCLIP, batch: Batch, step: Step, device: torch.device) -> Callable[[], Tensor]:
    if arm.plain is None:
        model = GradCache(method, arm.chunks)
        return lambda: model(batch).total
    template: Padded = moved(padded(step), device)
    kernels = OurKernels(method.encoder) if arm.plain == "same" else UpstreamKernels(method.encoder)
    return lambda: plain_loss(method.encoder, kernels, template)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def arm_figures(arm: Arm, seen: Seen, images: int, *, peak: float | None, plain: Seen | None) -> list[Figure]:
    """Return step time, images per second, memory and model FLOPs utilization."""
    seconds, spread = seen.times.least, {arm.name: seen.times.spread}
    prefix = f"GPU, {images} images x {REGIONS} regions, bf16, {arm.name}"
    times_less = None if plain is None else plain.times.least / seconds
    memory_less = None if plain is None or not seen.peak_bytes else plain.peak_bytes / seen.peak_bytes
    figures = [
        Figure(
            f"{prefix}: step",
            "s",
            ours=seconds,
            reference=plain and plain.times.least,
            against="plain, our kernels",
            ratio=times_less,
            spread=spread,
        ),
        Figure(f"{prefix}: images a second", "", ours=images / seconds),
        Figure(
            f"{prefix}: peak memory",
            "GB",
            ours=seen.peak_bytes / GB,
            reference=plain and plain.peak_bytes / GB,
            against="plain, our kernels",
            ratio=memory_less,
        ),
    ]
    if peak is not None and arm.plain is None:
        share = 100 * seen.flops / seconds / peak
        figures.append(
            Figure(
                f"{prefix}: share of the device's peak (MFU)",
                "%",
                ours=share,
                target=30,
                note="without recomputation",
            )
        )
    return figures


def attempted(arm: Arm, size: tuple[str, int], step: Step, device: torch.device, *, repeats: int) -> Seen | None:
    """Measure a variant with its own encoder, so that no memory remains of the previous one; None if it does not fit the device."""
    model, px = size
    try:
        return run_arm(arm, random_encoder(model, size=px), step, device, repeats=repeats)
    except torch.OutOfMemoryError:
        print(f"{arm.name}: does not fit the device", flush=True)
        return None
    finally:
        torch._dynamo.reset()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def card_peaks(device: torch.device, cases: Sequence[Case] = CASES, *, images: int = CARD_IMAGES) -> list[Figure]:
    """Measure the peak memory of a global batch with the micro-batches that `24gb.yaml` leads to."""
    figures = []
    for case in cases:
        found = chosen(case, images=images)
        step = random_step(found.method.encoder, [REGIONS] * images, size=case.px)
        arm = Arm("24gb.yaml", chunks=found.chunks, checkpointing=found.method.encoder.trunk.checkpointing)
        seen = attempted(arm, (case.model, case.px), step, device, repeats=1)
        if seen is not None:
            name = f"GPU, peak memory of {case.model} at {case.px} px, {images} images x {REGIONS} regions, bf16, `24gb.yaml`"
            figures.append(
                Figure(name, "GB", ours=seen.peak_bytes / GB, target=found.limit / GB, side="at most", note=found.said)
            )
    return figures


def measure(
    device: torch.device,
    *,
    repeats: int,
    size: tuple[str, int] = ("EVA02-B-16", 224),
    images: int = IMAGES,
    arms: Sequence[Arm] = ARMS,
) -> list[Figure]:
    """Measure each variant alone; ratios are relative to the plain formulation on our kernels."""
    torch.set_float32_matmul_precision("high")
    model, px = size
    step = random_step(random_encoder(model, size=px), [REGIONS] * images, size=px)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    peak = peak_flops(name, "bf16")
    seen = [(arm, attempted(arm, size, step, device, repeats=repeats)) for arm in arms]
    plain = next((found for arm, found in seen if arm.plain == "same"), None)
    figures: list[Figure] = []
    for arm, found in seen:
        if found is not None:
            figures += arm_figures(arm, found, images, peak=peak, plain=None if arm.plain == "same" else plain)
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write; print a message on a machine without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("this machine has no GPU: nothing was measured")
        return
    load = load_average()
    device = torch.device("cuda", 0)
    figures = [*measure(device, repeats=options.repeats), *card_peaks(device)]
    show(figures)
    print(write("gpu", figures, load=load))


if __name__ == "__main__":
    main()

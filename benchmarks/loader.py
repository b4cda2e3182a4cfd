"""CPU-seconds of one sample, from its bytes to its place in a batch: ours, the official loader's, and decoding alone.

python -m benchmarks.loader [--images FOLDER]
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.command import parser_of, run
from benchmarks.figures import Figure, less, of_limit
from benchmarks.limits import decoding
from benchmarks.photos import COCO, TWO_MEGAPIXELS, bits_per_pixel, photographs, sample_of
from benchmarks.plain_loader import OfficialLoader
from benchmarks.timing import alternated, spreads
from fineclip.config.methods import FineCLIPConfig
from fineclip.config.training import LoaderConfig
from fineclip.methods.fineclip import FineCLIP
from fineclip.methods.transforms import DataSpec, sample_rng
from fineclip.models.pixels import Arena, Canvas, drawn_on
from fineclip.models.tokenizer import CONTEXT_LENGTH, Tokenizer
from fineclip.train.host import Collate
from fineclip.types import Sample

BATCH = 16
SIDE = 224


class Case(NamedTuple):
    """A kind of photograph, and what is asked of the loader there."""

    name: str
    size: tuple[int, int]
    boxes: int
    times_less: float
    times_decoding: float


CASES = (
    Case("640 x 480, 4 boxes", COCO, 4, 4.5, 2.5),
    Case("640 x 480, 10 boxes", COCO, 10, 4.0, 4.5),
    Case("2 MP, 4 boxes", TWO_MEGAPIXELS, 4, 3.0, 2.5),
    Case("2 MP, 10 boxes", TWO_MEGAPIXELS, 10, 3.0, 2.5),
)


def case_figures(case: Case, jpegs: Sequence[bytes], *, repeats: int = 5) -> list[Figure]:
    """One kind of photograph: against the official loader, and against decoding."""
    samples = [sample_of(data, case.size, boxes=case.boxes, seed=number) for number, data in enumerate(jpegs)]
    variants = {
        "official": _official(samples),
        "ours": _ours(samples, LoaderConfig(resample="fast")),
        "ours, pixels of Pillow": _ours(samples, LoaderConfig(resample="pillow")),
        "ours, crops on the device": _ours(samples, LoaderConfig(crops="device")),
        "decoding": decoding(jpegs),
    }
    times = {name: each.per(len(samples) / 1000) for name, each in alternated(variants, repeats=repeats).items()}
    spread = spreads(times)
    official, ours = times["official"].least, times["ours"].least

    def against_official(name: str, what: str, target: float | None) -> Figure:
        return less(
            f"loader, {what}, a sample of {case.name}", "ms", official, times[name].least, target=target, spread=spread
        )

    return [
        against_official("ours", "fast", case.times_less),
        of_limit(
            f"loader, fast, a sample of {case.name}",
            "ms",
            times["decoding"].least,
            ours,
            against="decoding",
            target=case.times_decoding,
            spread=spread,
        ),
        against_official("ours, pixels of Pillow", "the authors' pixels to the bit", None),
        against_official("ours, crops on the device", "crops left to the device", None),
    ]


def _official(samples: Sequence[Sample]) -> Callable[[], None]:
    loader = OfficialLoader(Tokenizer(context_length=CONTEXT_LENGTH))

    def run() -> None:
        for first in range(0, len(samples), BATCH):
            loader.batch(samples[first : first + BATCH], np.random.default_rng(first))

    return run


def _ours(samples: Sequence[Sample], config: LoaderConfig) -> Callable[[], None]:
    """As a worker does it: pixels are drawn into a slot of memory that was used before."""
    inputs = DataSpec(Tokenizer(context_length=CONTEXT_LENGTH), SIDE, SIDE, loader=config)
    prepare, collate = FineCLIP.build_transform(inputs, FineCLIPConfig(), max_regions=20), Collate(inputs)
    pixels = max(sample.width * sample.height * 3 for sample in samples)
    boxes = max(len(sample.regions) for sample in samples)
    slot_images = torch.zeros(BATCH * max(pixels if config.crops == "device" else 0, 3 * SIDE**2), dtype=torch.uint8)
    slot_crops = torch.zeros(BATCH * boxes * 3 * SIDE**2, dtype=torch.uint8)

    def run() -> None:
        for first in range(0, len(samples), BATCH):
            canvas = Canvas(Arena(slot_images), Arena(slot_crops))
            with drawn_on(canvas):
                items = [prepare(each, sample_rng(0, 0, each.key)) for each in samples[first : first + BATCH]]
            collate(items, canvas)

    return run


def measured(*, folder: Path | None, samples: int, repeats: int) -> list[Figure]:
    """Every case."""
    figures: list[Figure] = []
    for size in (COCO, TWO_MEGAPIXELS):
        jpegs = photographs(size, samples, folder=folder)
        print(
            f"{len(jpegs)} photographs of {size[0]} x {size[1]}, {bits_per_pixel(jpegs, size):.2f} bits a pixel",
            flush=True,
        )
        for case in CASES:
            if case.size == size:
                figures += case_figures(case, jpegs, repeats=repeats)
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, show, write."""
    parser = parser_of(__doc__, repeats=7)
    parser.add_argument("--images", type=Path, help="folder of photographs; without it they are drawn")
    parser.add_argument("--samples", type=int, default=2 * BATCH)
    run(
        "loader",
        parser,
        lambda chosen: measured(folder=chosen.images, samples=chosen.samples, repeats=chosen.repeats),
        arguments,
    )


if __name__ == "__main__":
    main()

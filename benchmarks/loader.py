"""CPU time per sample from encoded bytes to a batch: ours, the official loader, and decoding alone.

python -m benchmarks.loader [--images FOLDER]
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.command import build_parser, run
from benchmarks.figures import Figure, ratio_to_limit, ratio_to_plain
from benchmarks.limits import decoding
from benchmarks.photos import COCO, TWO_MEGAPIXELS, bits_per_pixel, photographs, sample_of
from benchmarks.plain_loader import OfficialLoader
from benchmarks.timing import spreads, time_alternately
from fineclip.config.methods import FineCLIPConfig
from fineclip.config.training import LoaderConfig
from fineclip.methods.fineclip import FineCLIP
from fineclip.methods.transforms import DataSpec, sample_rng
from fineclip.models.tokenizer import CONTEXT_LENGTH, Tokenizer
from fineclip.train.data import Collate
from fineclip.types import Sample

BATCH = 16
SIDE = 224


class Case(NamedTuple):
    """Size and number of boxes of the samples, with the targets.

    Attributes:
        times_less: Least ratio of the official loader to ours.
        times_decoding: Largest ratio of ours to decoding alone.
    """

    name: str
    size: tuple[int, int]
    boxes: int
    times_less: float
    times_decoding: float


CASES = (
    Case("640 x 480, 4 boxes", COCO, 4, 4.5, 3.2),
    Case("640 x 480, 10 boxes", COCO, 10, 4.0, 5.7),
    Case("2 MP, 4 boxes", TWO_MEGAPIXELS, 4, 3.0, 1.9),
    Case("2 MP, 10 boxes", TWO_MEGAPIXELS, 10, 3.0, 2.6),
)


def case_figures(case: Case, jpegs: Sequence[bytes], *, repeats: int = 5) -> list[Figure]:
    """Compare ours with the official loader and with decoding alone."""
    samples = [sample_of(data, case.size, boxes=case.boxes, seed=number) for number, data in enumerate(jpegs)]
    variants = {
        "official": _official(samples),
        "ours": _ours(samples, LoaderConfig(image_backend="turbojpeg")),
        "ours, pixels of Pillow": _ours(samples, LoaderConfig(image_backend="pillow")),
        "ours, crops on the device": _ours(samples, LoaderConfig(crops="device")),
        "decoding": decoding(jpegs),
    }
    times = {name: each.per(len(samples) / 1000) for name, each in time_alternately(variants, repeats=repeats).items()}
    spread = spreads(times)
    official, ours = times["official"].least, times["ours"].least

    def against_official(name: str, variant: str, target: float | None) -> Figure:
        return ratio_to_plain(
            f"loader, {variant}, a sample of {case.name}",
            "ms",
            official,
            times[name].least,
            target=target,
            spread=spread,
        )

    return [
        against_official("ours", "fast", case.times_less),
        ratio_to_limit(
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
    """Return a function that transforms and collates as a loader worker does."""
    inputs = DataSpec(Tokenizer(context_length=CONTEXT_LENGTH), SIDE, SIDE, loader=config)
    prepare, collate = FineCLIP.build_transform(inputs, FineCLIPConfig(), max_regions=20), Collate(inputs)

    def run() -> None:
        for first in range(0, len(samples), BATCH):
            collate([prepare(each, sample_rng(0, 0, each.key)) for each in samples[first : first + BATCH]])

    return run


def measure(*, folder: Path | None, samples: int, repeats: int) -> list[Figure]:
    """Measure all cases."""
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
    """Measure, print, write."""
    parser = build_parser(__doc__, repeats=7)
    parser.add_argument("--images", type=Path, help="folder of photographs; default: synthetic photographs")
    parser.add_argument("--samples", type=int, default=2 * BATCH)
    run(
        "loader",
        parser,
        lambda chosen: measure(folder=chosen.images, samples=chosen.samples, repeats=chosen.repeats),
        arguments,
    )


if __name__ == "__main__":
    main()

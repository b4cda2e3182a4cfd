"""Cases of the methods: what is drawn of hand-made samples, the loss and every gradient at fixed weights, what is published.

Arithmetic is in float64, so that four digits hold on any machine.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fineclip.config import LoaderConfig, parse
from fineclip.methods import METHODS, Method
from fineclip.methods.transforms import DataSpec, TrainingExample, sample_rng
from fineclip.train.data import Collate, to_device
from fineclip.train.grad_cache import GradCache
from fineclip.types import Batch, Box, Counts, Region, Sample
from tests.helpers.tiny import CONTEXT, CROP_PX, IMAGE_PX, VOCABULARY, tiny_encoder
from tests.versions.inputs import digits, picture, rounded, set_weights
from tests.versions.registry import Case, add_case


@dataclass(frozen=True)
class DigestTokenizer:
    """Tokens from the sha256 of a text, so that texts differ which only end differently; the end token is the largest."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        digests = (hashlib.sha256(text.encode()).digest()[: CONTEXT - 1] for text in texts)
        rows = [[*(1 + byte % (VOCABULARY - 2) for byte in digest), VOCABULARY - 1] for digest in digests]
        return torch.tensor(rows, dtype=torch.int64).reshape(len(texts), CONTEXT)


CONCEPTS = ("cat", "dog", "tree", "boat", "cup", "car", "hat", "kite", "ball", "moon", "ring", "sofa")
PILLOW = LoaderConfig(image_backend="pillow")  # the same pixels on any machine
INPUTS = DataSpec(DigestTokenizer(), image_size=IMAGE_PX, crop_size=CROP_PX, concepts=CONCEPTS, loader=PILLOW)
MAX_REGIONS = 2
STEP_SIZE = 0.05
LETTERBOXED = {"resize": "letterbox", "train_text": True, "unlocked_blocks": 1, "wise_ft_alpha": 0.25}

Options = Mapping[str, Any]


def method_case(name: str, *, images: int = 8, **variants: Options) -> None:
    """The method with each of some settings, on a batch of so many images."""
    add_case(f"methods.{name}", Case(partial(outputs, name, variants, images=images), relative=1e-3))


def outputs(name: str, variants: Mapping[str, Options], *, images: int) -> dict[str, Any]:
    """Of each variant; what it draws is told where that is not what the first one draws."""
    found = {variant: output(METHODS[name], options, samples(images)) for variant, options in variants.items()}
    first, *others = found
    for one in others:
        if found[one]["drawn"] == found[first]["drawn"]:
            found[one]["drawn"] = f"as {first}"
    return found


def output(kind: type[Method[Any]], values: Options, visited: Sequence[Sample]) -> dict[str, Any]:
    """One visit to every sample, one step on all of them together, and what would be published then."""
    torch.manual_seed(0)  # what a method may draw on the way; the loop does the same at each step
    options = parse(kind.config_type, values, where=kind.__name__)
    encoder = tiny_encoder()
    set_weights(encoder)
    method = kind.build(encoder, options, INPUTS).double()
    set_weights(method.encoder, seed=1, share=0.2)  # away from the copies that a method keeps of it
    prepare = kind.build_transform(INPUTS, options, max_regions=MAX_REGIONS)
    items = [prepare(sample, sample_rng(0, 1, sample.key)) for sample in visited]
    batch = batch_of(items)
    losses = GradCache(method)(batch)
    losses.total.backward()
    names = {parameter: name.removeprefix("encoder.") for name, parameter in method.named_parameters()}
    return {
        "drawn": [drawn(item, sample) for item, sample in zip(items, visited, strict=True)],
        "losses": {name: digits(value.item()) for name, value in {"total": losses.total, **losses.terms}.items()},
        "gradient_norms": {
            "decayed" if group.decays else "not decayed": {names[one]: norm(one.grad) for one in group.parameters}
            for group in method.parameter_groups()
        },
        "published_change": change_after_step(method),
    }


def samples(count: int) -> list[Sample]:
    """Wide and high ones, with none to three regions, one of them without words; some hang over the edge."""
    labels = [("cat", "dog", "tree"), (), ("dog",), ("cup", "boat"), ("cat",), (), ("tree", "unknown"), ("boat", "cup")]
    return [sample(number, labels[number % len(labels)]) for number in range(count)]


def sample(number: int, labels: Sequence[str]) -> Sample:
    width, height = (24, 16) if number % 2 else (14, 20)
    boxes = [Box(place - 1, 2 * place, place + 8 + number % 3, 2 * place + 7) for place in range(len(labels))]
    regions = [
        Region(box, 0.9 - 0.1 * place, label, f"{label} {number}")
        for place, (box, label) in enumerate(zip(boxes, labels, strict=True))
    ]
    if number == 3:
        regions[1] = replace(regions[1], caption="")
    captions = tuple(f"{word} {number}" for word in ("one", "two", "three")[: 1 + number % 3])
    image = picture(number, width=width, height=height)
    return Sample(f"s-{number:06d}", image, width, height, captions, regions=tuple(regions))


def batch_of(items: Sequence[TrainingExample]) -> Batch:
    """All of one step on one process, in float64."""
    host = Collate(INPUTS)(items)
    batch = to_device(host, Counts([len(items)], [host.regions]), torch.device("cpu"), seed=7)
    floating = {
        one.name: value.double()
        for one in fields(batch)
        if isinstance(value := getattr(batch, one.name), Tensor) and value.is_floating_point()
    }
    return replace(batch, **floating)


def drawn(item: TrainingExample, of: Sample) -> dict[str, Any]:
    """Texts verbatim, boxes in fractions, the mean of every channel of the image, the mean of every crop."""
    said = [*of.captions, *(region.caption or "" for region in of.regions)]
    text_of = {tuple(tokens.tolist()): text for tokens, text in zip(INPUTS.tokenize(said), said, strict=True)}
    seen = {
        "key": item.key,
        "image": rounded(item.image.double().mean(dim=(1, 2)), 2),
        "text": None if item.text is None else text_of.get(tuple(item.text.tolist()), item.text.tolist()),
        "boxes": None if item.boxes is None else [rounded(box, 4) for box in item.boxes],
        "crops": None if item.crops is None else [round(float(crop.double().mean()), 2) for crop in item.crops],
        "labels": None if item.region_labels is None else item.region_labels.tolist(),
    }
    if item.region_texts is not None:
        seen["region_texts"] = [text_of.get(tuple(row.tolist()), row.tolist()) for row in item.region_texts]
    return {name: value for name, value in seen.items() if value is not None}


def norm(gradient: Tensor | None) -> float | None:
    """None where the optimizer would pass a parameter by."""
    return None if gradient is None else digits(gradient.norm().item())


def change_after_step(method: Method[Any]) -> dict[str, float]:
    """How far what is published lies from where it began, after one step down the gradient."""
    before = {name: value.clone() for name, value in method.encoder.named_parameters()}
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter.sub_(STEP_SIZE * parameter.grad)
    method.on_step_end(0, 10)
    published = method.export_encoder().double()
    changes = {name: (value - before[name]).norm().item() for name, value in published.named_parameters()}
    return {"logit_scale": digits(round(changes.pop("logit_scale"), 6)), "all": digits(sum(changes.values()))}


method_case("clip", default={}, letterboxed=LETTERBOXED)
method_case(
    "fineclip",
    default={},
    letterboxed=LETTERBOXED | {"crop_scale": 2.0},
    detached={"relaxed": {"detach_crops": True}, "weights": {"global": 0.125, "region": 0.125}},
    distill_alone={"weights": {"global": 0, "region": 0}},
)
method_case(
    "clipself",
    proposals={},
    last_block={"unlocked_blocks": 1, "resize": "squash", "wise_ft_alpha": 1.0, "crop_scale": 1.0},
    patches={"regions": "patches", "max_split": 3},
)
method_case(
    "regionclip",
    labels={"concepts_per_step": 8},
    pseudo={"targets": "pseudo", "temperature": 0.2, "min_confidence": 0.25},
    pseudo_regions={"targets": "pseudo", "prompts": "photo", "weights": {"global": 0, "contrast": 0.5}},
)
method_case(
    "clim", images=30, default={"mosaic_size": 32}, pairs={"mosaics": [2], "mosaic_size": 24, "crop_area": [0.3, 0.5]}
)

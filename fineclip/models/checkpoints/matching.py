"""Match the tensors of a file with those of a model: strict in names, shapes and values.

What differs between programs is ignored: keys and a prefix around all names (`naming`), the layout (`layouts`), and whether a
scalar has the shape () or (1,). Everything else is an error that says what the file is.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from fineclip.errors import CheckpointError
from fineclip.models.checkpoints.layouts import NOT_WEIGHTS, as_open_clip, layouts_of, with_texts
from fineclip.models.checkpoints.naming import Placement, placements, rivals
from fineclip.models.checkpoints.programs import program_of
from fineclip.models.checkpoints.transformers_clip import POSITION_IDS, TOWERS, from_transformers, origins
from fineclip.models.checkpoints.weights_files import some

log = logging.getLogger(__name__)

OtherGrid = Callable[[int], str]
POSITIONS = frozenset({"visual.positional_embedding", "visual.trunk.pos_embed"})
FEW = 0.5  # a file with fewer of the names has not the layout of the model


class Matched(NamedTuple):
    """Tensors that fit a model.

    Attributes:
        tensors: By the model's names, in float32.
        names: Of the file, without its prefix, before renaming.
    """

    tensors: dict[str, Tensor]
    names: frozenset[str]

    @property
    def is_transformers(self) -> bool:
        """Whether they were in transformers' layout."""
        return any(name.startswith(TOWERS) for name in self.names)

    @property
    def is_openai(self) -> bool:
        """Whether they are OpenAI's own."""
        return not self.names.isdisjoint(NOT_WEIGHTS)


class Mismatch(NamedTuple):
    """What is wrong with the tensors of a file.

    Attributes:
        names: Names that are missing or not expected.
        shapes: Shape in the file and in the model of tensors that have another shape.
        values: Tensors whose values cannot be used.
    """

    names: Sequence[str] = ()
    shapes: Mapping[str, tuple[torch.Size, torch.Size]] = MappingProxyType({})
    values: Sequence[str] = ()

    @property
    def complaints(self) -> list[str]:
        """One text for each kind of fault, with the first names."""
        shapes = [f"{name} is {tuple(found)}, not {tuple(wanted)}" for name, (found, wanted) in self.shapes.items()]
        return [*self.names, *_counted("have another shape", shapes), *self.values]

    @property
    def is_resolution(self) -> bool:
        """Whether position embeddings of another number of tokens are all that differs."""
        return (
            self.shapes.keys() <= POSITIONS
            and [*self.names, *self.values] == []
            and all(len(found) == len(wanted) and found[-1] == wanted[-1] for found, wanted in self.shapes.values())
        )


def match(
    places: Mapping[str, Mapping[str, Tensor]], wanted: Mapping[str, Tensor], *, where: str, other_grid: OtherGrid
) -> Matched:
    """Return the tensors of a file that are the model's.

    Args:
        places: From `read_weights`.
        wanted: The model's tensors by open_clip's names; only names and shapes are used.
        where: Start of the error message, such as the file.
        other_grid: Returns the message about position embeddings of another number of tokens, which is the only difference
            between models of two resolutions.

    Returns:
        All tensors of the model.

    Raises:
        CheckpointError: A name is missing or unexpected, the file holds several models, or a tensor has another shape, is not
            of dense floating-point numbers, or holds a number that is not finite.
    """
    layouts = layouts_of(wanted)
    found = placements(places, layouts)
    several = rivals(found)
    if len(several) > 1:
        raise CheckpointError(
            f"{where}: holds several models with these names, at {', and at '.join(one.written for one in several)}. Save the one that you mean"
            " in a file of its own."
        )
    if not found or found[0].found < FEW * min(map(len, layouts)):
        largest = max(places, key=lambda place: len(places[place]))
        weights, outside = dict(places[largest]), dict[str, Tensor]()
        mismatch = Mismatch(_names_that_differ(weights, wanted))
    else:
        weights, outside = _split(places[found[0].place], found[0], layouts, where=where)
        left_over = {} if found[0].complete else outside
        tensors, mismatch = _converted(weights, wanted, left_over)
        if not mismatch.complaints:
            return Matched(tensors, frozenset(weights))
    if mismatch.is_resolution:
        [(shape, _)] = mismatch.shapes.values()
        raise CheckpointError(f"{where}: {other_grid(shape[-2])}")
    raise CheckpointError(f"{where}: {_explained(mismatch, [*weights, *outside])}")


def _explained(mismatch: Mismatch, names: Collection[str]) -> str:
    """Say what a file is, and what is wrong with it."""
    complaints = "; ".join(mismatch.complaints)
    if not (mismatch.names or mismatch.shapes):
        return f"these weights cannot be used; {complaints}"
    program = program_of(names)
    if program is None:
        return f"these weights are of another model; {complaints}"
    return f"is a file of {program.what}. {program.advice} ({complaints})"


def _split(
    weights: Mapping[str, Tensor], best: Placement, layouts: Collection[Collection[str]], *, where: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors with the prefix, without it, and the others, which are not of the model.

    Args:
        weights: Tensors of a place.
        best: That place and the prefix.
        layouts: Names in each layout.
        where: Start of the error message.

    Returns:
        Tensors by names of a layout; others by their whole names.

    Raises:
        CheckpointError: One of the others has a name of the model.
    """
    inside = {name.removeprefix(best.prefix): value for name, value in weights.items() if name.startswith(best.prefix)}
    outside = {name: value for name, value in weights.items() if not name.startswith(best.prefix)}
    of_model = frozenset().union(*layouts)
    lengths = {len(name) for name in of_model}
    strays = sorted(name for name in outside if any(name[-length:] in of_model for length in lengths))
    if strays:
        raise CheckpointError(
            f"{where}: {len(inside)} tensors have the prefix {best.prefix!r}, but {len(strays)} others with names of the model do not:"
            f" {some(strays)}. Give all the same prefix, or none."
        )
    if outside and best.complete:
        log.warning(
            "%s: %d tensors without the prefix %r are not of the model and are not read: %s",
            where,
            len(outside),
            best.prefix,
            some(sorted(outside)),
        )
    return inside, outside


def _converted(
    weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], left_over: Collection[str]
) -> tuple[dict[str, Tensor], Mismatch]:
    """Return the tensors by open_clip's names in float32, or what is wrong with them."""
    places = origins(wanted) if any(name.startswith(TOWERS) for name in weights) else None
    if places is not None:
        expected = {name for place in places.values() for name in place.names}
        tensors = {name: value for name, value in weights.items() if name not in POSITION_IDS}
    else:
        expected = set(wanted)
        tensors = dict(with_texts(as_open_clip(weights), nested=any(name.startswith("text.") for name in wanted)))
    names = _names_that_differ([*tensors, *left_over], expected)
    values = _kinds_that_differ(tensors, expected)
    if values or (names and expected - tensors.keys()):
        return {}, Mismatch(names, values=values)
    if places is not None:
        tensors = from_transformers(tensors, places, shapes={name: value.shape for name, value in wanted.items()})
    tensors = {name: _with_shape_of_scalar(tensors[name].detach(), wanted[name]) for name in wanted}
    shapes = {
        name: (value.shape, wanted[name].shape) for name, value in tensors.items() if value.shape != wanted[name].shape
    }
    if names or shapes:
        return {}, Mismatch(names, shapes)
    tensors = {name: value.float() for name, value in tensors.items()}
    broken = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
    return tensors, Mismatch(values=_counted("hold numbers that are not finite (NaN or infinity)", broken))


def _names_that_differ(names: Collection[str], wanted: Collection[str]) -> list[str]:
    return [
        *_counted("keys are missing", sorted(set(wanted) - set(names))),
        *_counted("keys are not expected", sorted(set(names) - set(wanted))),
    ]


def _kinds_that_differ(weights: Mapping[str, Tensor], wanted: Collection[str]) -> list[str]:
    """Return what is wrong with tensors that are not dense floating-point numbers."""
    kinds: dict[str, list[str]] = {}
    for name in wanted:
        if name in weights and (kind := _kind(weights[name])):
            kinds.setdefault(kind, []).append(name)
    return [complaint for kind, names in kinds.items() for complaint in _counted(kind, sorted(names))]


def _kind(value: Tensor) -> str | None:
    if value.is_meta:
        return "have no values, because they were saved from torch's meta device"
    if value.layout != torch.strided or value.is_nested:
        return "are sparse or nested; save them as dense tensors"
    if value.is_quantized:
        return "are quantized; pass the weights before quantization"
    return None if value.is_floating_point() else "are not floating-point numbers"


def _with_shape_of_scalar(value: Tensor, wanted: Tensor) -> Tensor:
    is_scalar = wanted.numel() == value.numel() == 1 and max(wanted.ndim, value.ndim) <= 1
    return value.reshape(wanted.shape) if is_scalar else value


def _counted(problem: str, names: Collection[str]) -> list[str]:
    return [f"{len(names)} {problem}: {some(names)}"] if names else []

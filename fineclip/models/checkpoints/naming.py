"""Find the tensors of a model in a file: below which keys, and under which prefix, by comparison with the names it should have.

{"epoch": 3, "state_dict": {"module._orig_mod.visual.proj": ...}}      place `state_dict`, prefix `module._orig_mod.`
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

DEPTH = 5  # dictionaries in dictionaries
MOST_PLACES = 1000  # dictionaries of a file that are looked at
USUAL = frozenset(
    {"state_dict", "module", "model"}
)  # keys of trainers; other places are a copy (an average) or another model


class Placement(NamedTuple):
    """Where the tensors of a model are.

    Attributes:
        place: Keys of the dictionaries around them, joined by dots; empty at the top.
        prefix: Constant beginning of their names.
        found: How many of the expected names are there.
        complete: All names of a layout are there.
    """

    place: str
    prefix: str
    found: int
    complete: bool

    @property
    def written(self) -> str:
        """Place and prefix, for messages."""
        return (
            " and ".join(
                filter(None, [self.place and f"the key {self.place!r}", self.prefix and f"the prefix {self.prefix!r}"])
            )
            or "the top"
        )


def tensors_by_place(content: Mapping[Any, Any]) -> dict[str, dict[str, Tensor]]:
    """Return the dictionaries of a file that hold tensors by names; plain values beside them are left out.

    Args:
        content: Dictionaries in dictionaries.

    Returns:
        Tensors of each place, by the place's keys joined by dots.
    """
    found: dict[str, dict[str, Tensor]] = {}
    waiting: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), content)]
    seen: set[int] = set()
    for keys, mapping in waiting:  # which grows
        if id(mapping) in seen:
            continue  # the same dictionary below two keys
        seen.add(id(mapping))
        named = {name: value for name, value in mapping.items() if isinstance(name, str)}
        if tensors := {name: value for name, value in named.items() if isinstance(value, Tensor)}:
            found[".".join(keys)] = tensors
        inner = [(name, value) for name, value in named.items() if isinstance(value, Mapping)]
        if len(keys) < DEPTH:
            waiting += [((*keys, name), value) for name, value in inner[: max(0, MOST_PLACES - len(waiting))]]
    return found


def placements(places: Mapping[str, Iterable[str]], layouts: Collection[Collection[str]]) -> list[Placement]:
    """Return every place and prefix with a name of the model, the best ones first.

    Args:
        places: Names of the tensors of each place.
        layouts: Names that a file of the model has, in each layout.

    Returns:
        Complete ones first, then those with more names; the usual places of trainers before others.

    Examples:
        >>> found = placements({"net": ["a.visual.proj", "a.logit_scale", "loss"]}, [{"visual.proj", "logit_scale"}])
        >>> found[0].written, found[0].complete
        ("the key 'net' and the prefix 'a.'", True)
    """
    expected = frozenset().union(*layouts)
    lengths = {len(name) for name in expected}
    found = []
    for place, names in places.items():
        known = frozenset(names)
        counts = Counter(name[:-length] for name in known for length in lengths if name[-length:] in expected)
        for prefix, count in counts.items():
            is_complete = any(
                count >= len(layout) and all(prefix + name in known for name in layout) for layout in layouts
            )
            found.append(Placement(place, prefix, count, is_complete))
    return sorted(
        found,
        key=lambda one: (
            not one.complete,
            not _is_usual(one.place),
            -one.found,
            len(one.prefix),
            one.place,
            one.prefix,
        ),
    )


def rivals(found: Iterable[Placement]) -> list[Placement]:
    """Return the complete placements among which a file does not choose: all at usual places, or else all.

    Args:
        found: From `placements`.

    Returns:
        At most one, unless the file holds several models.
    """
    complete = [one for one in found if one.complete]
    return [one for one in complete if _is_usual(one.place)] or complete


def _is_usual(place: str) -> bool:
    return not place or USUAL.issuperset(place.split("."))

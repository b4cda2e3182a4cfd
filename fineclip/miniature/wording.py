"""How scenes and things are put into words.

Two kinds of text describe a scene: an alt text as the web has it (a few of the things, colours left out, a phrase
around it), and a clean caption as COCO has it (up to four things with their colours, and the place).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fineclip.miniature.scenes import Thing

PLACES: Mapping[str, str] = {
    "sky": "in the sky",
    "grass": "on the grass",
    "sand": "on the sand",
    "water": "in the water",
    "road": "on the road",
    "wall": "by the wall",
}
ALT_PHRASES: tuple[str, ...] = (
    "{}",
    "a photo of {}",
    "picture of {}",
    "{} for sale",
    "nice {}",
    "stock image of {}",
)
BOILERPLATE_TEXTS: tuple[str, ...] = ("click here for more", "free download", "img 2043", "holiday photo album")
COLOUR_NAMED_SHARE = 0.6
PLACE_NAMED_SHARE = 0.5
ALT_THINGS_SHARES = (0.45, 0.40, 0.15)  # of alt texts that name one, two and three things
CLEAN_THINGS = 4


def with_article(noun: str) -> str:
    """`a star`, `an orange star`."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def joined(phrases: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def region_caption(thing: Thing) -> str:
    """What the captioner is taught to say of a thing: `a red star on sand`."""
    return f"{with_article(f'{thing.colour} {thing.label}')} on {thing.ground}"


def clean_caption(things: Sequence[Thing], place: str) -> str:
    """The largest four things with their colours, and where: `a red star and a blue cup on the sand`."""
    if not things:
        return f"a photo of the {place}"
    named = [with_article(f"{thing.colour} {thing.label}") for thing in largest_first(things)[:CLEAN_THINGS]]
    return f"{joined(named)} {PLACES[place]}"


def alt_text(things: Sequence[Thing], place: str, generator: np.random.Generator) -> str:
    """A web-style text about one to three of the things, the larger ones more often."""
    if not things:
        return f"a photo of the {place}"
    ordered = largest_first(things)
    wanted = int(np.searchsorted(np.cumsum(ALT_THINGS_SHARES)[:-1], generator.random(), side="right")) + 1
    weight = np.sqrt([thing.area for thing in ordered])
    chosen = generator.choice(len(ordered), min(wanted, len(ordered)), replace=False, p=weight / weight.sum())
    text = joined([_loosely_named(ordered[index], generator) for index in sorted(chosen)])
    if generator.random() < PLACE_NAMED_SHARE:
        text = f"{text} {PLACES[place]}"
    return ALT_PHRASES[generator.integers(len(ALT_PHRASES))].format(text)


def largest_first(things: Sequence[Thing]) -> list[Thing]:
    """By visible area; equal areas keep their order."""
    return sorted(things, key=lambda thing: -thing.area)


def _loosely_named(thing: Thing, generator: np.random.Generator) -> str:
    named_colour = generator.random() < COLOUR_NAMED_SHARE
    return with_article(f"{thing.colour} {thing.label}" if named_colour else thing.label)

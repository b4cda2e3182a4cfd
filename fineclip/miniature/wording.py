"""Captions of scenes and things.

A scene has two: an alt text in the style of the web (one to three things, some without color, in a phrase), and a clean caption in
the style of COCO (up to four things with their colors, and the place).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from fineclip.miniature.world import Thing

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
COLOR_NAMED_SHARE = 0.6
PLACE_NAMED_SHARE = 0.5
ALT_THINGS_SHARES = (0.45, 0.40, 0.15)  # of alt texts with one, two and three things
CLEAN_THINGS = 4


def with_article(noun: str) -> str:
    """Prepend an article: `a star`, `an orange star`."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def joined(phrases: Sequence[str]) -> str:
    """Join phrases: `a`, `a and b`, `a, b and c`."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def region_caption(thing: Thing) -> str:
    """Return the caption that the captioner is trained on: `a red star on sand`."""
    return f"{with_article(f'{thing.color} {thing.label}')} on {thing.ground}"


def clean_caption(things: Sequence[Thing], place: str) -> str:
    """Describe the four largest things with color and place: `a red star and a blue cup on the sand`."""
    if not things:
        return f"a photo of the {place}"
    named = [with_article(f"{thing.color} {thing.label}") for thing in largest_first(things)[:CLEAN_THINGS]]
    return f"{joined(named)} {PLACES[place]}"


def alt_text(things: Sequence[Thing], place: str, generator: np.random.Generator) -> str:
    """Draw a web-style text about one to three things; larger things are more likely."""
    if not things:
        return f"a photo of the {place}"
    ordered = largest_first(things)
    wanted = generator.choice((1, 2, 3), p=ALT_THINGS_SHARES)
    weight = np.sqrt([thing.area for thing in ordered])
    chosen = generator.choice(len(ordered), min(wanted, len(ordered)), replace=False, p=weight / weight.sum())
    text = joined([_loosely_named(ordered[index], generator) for index in sorted(chosen)])
    if generator.random() < PLACE_NAMED_SHARE:
        text = f"{text} {PLACES[place]}"
    return ALT_PHRASES[generator.integers(len(ALT_PHRASES))].format(text)


def largest_first(things: Sequence[Thing]) -> list[Thing]:
    """Sort by visible area, stable."""
    return sorted(things, key=lambda thing: -thing.area)


def _loosely_named(thing: Thing, generator: np.random.Generator) -> str:
    named_color = generator.random() < COLOR_NAMED_SHARE
    return with_article(f"{thing.color} {thing.label}" if named_color else thing.label)

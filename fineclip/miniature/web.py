"""Web of the miniature world: scenes with alt texts, and flaws of known frequency.

An item is a pure function of seed and index. Items are in shards of a fixed size, in order. An item has at most one flaw; `truth`
is the reason for which the pipeline should drop it:

    unreadable             an HTML page, an empty file, an overwritten header
    too-small              shorter side of at most 64 pixels
    too-elongated          at least 3.5 times as wide as high
    caption-empty          no text
    caption-short          one word
    caption-boilerplate    boilerplate of a web page
    undecodable            a truncated JPEG with a valid header
    duplicate              bytes of an earlier item of its shard, with another URL
    repeated               bytes of an item of an earlier shard, which `select` finds in any order of shards
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fineclip.miniature.flaws import CAPTION_FLAWS, IMAGE_FLAWS
from fineclip.miniature.scenes import draw_scene, jpeg

DUPLICATE, REPEATED = "duplicate", "repeated"

SHARES: Mapping[str, float] = {  # of all items; the rest has no flaw
    "unreadable": 0.02,
    "too-small": 0.03,
    "too-elongated": 0.02,
    "caption-empty": 0.01,
    "caption-short": 0.02,
    "caption-boilerplate": 0.05,
    "undecodable": 0.01,
    DUPLICATE: 0.03,
    REPEATED: 0.02,
}

_FATE, _FLAW, _ORIGINAL = 1, 2, 3  # random streams of one item
_TRIES = 100


@dataclass(frozen=True, slots=True)
class WebItem:
    """One image of the web. `truth` is the reason to drop it, or None."""

    index: int
    source_key: str
    image: bytes
    captions: tuple[str, ...]
    url: str
    truth: str | None


def web_item(seed: int, index: int, *, items_per_shard: int, shares: Mapping[str, float] = SHARES) -> WebItem:
    """Draw one item.

    Args:
        seed: Collection of scenes.
        index: Counted over all shards.
        items_per_shard: Decides which items are duplicates and which are repeated.
        shares: Frequency of each truth, with keys from `SHARES`; the rest has no flaw.

    Returns:
        Image, text and truth.
    """
    truth, original = truth_and_original(seed, index, items_per_shard=items_per_shard, shares=shares)
    scene = draw_scene(seed, index if original is None else original)
    generator = np.random.default_rng([seed, index, _FLAW])
    host = "pictures" if original is None else "mirror"
    return WebItem(
        index=index,
        source_key=f"{index:07d}",
        image=IMAGE_FLAWS[truth](scene, generator) if truth in IMAGE_FLAWS else jpeg(scene),
        captions=(CAPTION_FLAWS[truth](scene, generator) if truth in CAPTION_FLAWS else scene.alt,),
        url=f"https://{host}.example/{seed}/{index:07d}.jpg",
        truth=truth,
    )


def truth_and_original(
    seed: int, index: int, *, items_per_shard: int, shares: Mapping[str, float] = SHARES
) -> tuple[str | None, int | None]:
    """Return the truth of an item, and the index of the item whose bytes it repeats, if any. Nothing is drawn.

    Args:
        seed: As in `web_item`.
        index: As in `web_item`.
        items_per_shard: As in `web_item`.
        shares: As in `web_item`.

    Returns:
        Reason to drop the item, or None, and an index of the same collection, or None.
    """
    truth = _drawn_truth(seed, index, shares)
    if truth not in (DUPLICATE, REPEATED):
        return truth, None
    position = index % items_per_shard
    in_this_shard = range(index - position, index)
    # Items at the same place of earlier shards, so two items of a shard never repeat the same one.
    at_this_place = range(position, index, items_per_shard)
    candidates = in_this_shard if truth == DUPLICATE else at_this_place
    original = _flawless_among(candidates, seed, index, shares)
    return (None, None) if original is None else (truth, original)  # without an earlier item it has no flaw


def _flawless_among(candidates: range, seed: int, index: int, shares: Mapping[str, float]) -> int | None:
    """Draw a candidate without a flaw for item `index`, or None if none is found."""
    if not candidates:
        return None
    drawn = np.random.default_rng([seed, index, _ORIGINAL]).integers(len(candidates), size=_TRIES)
    flawless = (candidates[place] for place in drawn if _drawn_truth(seed, candidates[place], shares) is None)
    return next(flawless, None)


def _drawn_truth(seed: int, index: int, shares: Mapping[str, float]) -> str | None:
    chance = np.random.default_rng([seed, index, _FATE]).random()
    for truth, share in shares.items():
        chance -= share
        if chance < 0:
            return truth
    return None

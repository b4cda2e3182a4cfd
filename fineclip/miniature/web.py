"""The web of the embedded world: scenes with alt texts, and what is wrong with the web in known numbers.

Item `index` of `seed` can be made alone. Items lie in shards of a fixed size, in order; an item has at most one flaw,
and `truth` is the reason for which the pipeline should drop it:

    unreadable             a page that says 404, an empty file, an overwritten header
    too-small              a thumbnail, the shorter side at most 64 pixels
    too-elongated          a strip, at least 3.5 times as wide as high
    caption-empty          no text
    caption-short          one word
    caption-boilerplate    a text that belongs to the page and not to the image
    undecodable            a JPEG that breaks off: the header is right, so it is found out when it is decoded
    duplicate              the bytes of an earlier item of its shard, under another address
    repeated               the bytes of an item of an earlier shard (`select` finds it out, in whatever order shards stand)
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fineclip.miniature.flaws import FLAWS
from fineclip.miniature.scenes import draw_scene, jpeg

DUPLICATE, REPEATED = "duplicate", "repeated"
TRUTHS: tuple[str, ...] = (*FLAWS, DUPLICATE, REPEATED)

SHARES: Mapping[str, float] = {  # of all items; what remains is flawless
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

_FATE, _FLAW, _ORIGINAL = 1, 2, 3  # separate streams of chance of one item
_TRIES = 100


@dataclass(frozen=True, slots=True)
class WebItem:
    """One image as it is found, and the truth about it: a reason to drop it, or None."""

    index: int
    source_key: str
    image: bytes
    captions: tuple[str, ...]
    url: str
    truth: str | None


def web_items(
    seed: int, start: int, count: int, *, items_per_shard: int, shares: Mapping[str, float] = SHARES
) -> Iterator[WebItem]:
    """Items `start` to `start + count`, in order. A shard is `start = n * items_per_shard`."""
    for index in range(start, start + count):
        yield web_item(seed, index, items_per_shard=items_per_shard, shares=shares)


def web_item(seed: int, index: int, *, items_per_shard: int, shares: Mapping[str, float] = SHARES) -> WebItem:
    """One item, made from nothing else.

    Args:
        seed: which web.
        index: counted over all shards.
        items_per_shard: where shards begin, and so what is a duplicate and what is repeated.
        shares: how often each truth occurs, keys from `TRUTHS`; what remains is flawless.
    """
    truth, original = _fate(seed, index, items_per_shard, shares)
    scene = draw_scene(seed, index if original is None else original)
    image, caption = jpeg(scene), scene.alt
    if truth is not None and truth in FLAWS:
        image, caption = FLAWS[truth](scene, np.random.default_rng([seed, index, _FLAW]))
    host = "pictures" if original is None else "mirror"
    return WebItem(
        index=index,
        source_key=f"{index:07d}",
        image=image,
        captions=(caption,),
        url=f"https://{host}.example/{seed}/{index:07d}.jpg",
        truth=truth,
    )


def true_counts(
    seed: int, start: int, count: int, *, items_per_shard: int, shares: Mapping[str, float] = SHARES
) -> dict[str, int]:
    """How many items of a range should be dropped for each reason that occurs. Draws no image."""
    truths = [_fate(seed, index, items_per_shard, shares)[0] for index in range(start, start + count)]
    return {truth: truths.count(truth) for truth in TRUTHS if truth in truths}


def _fate(seed: int, index: int, items_per_shard: int, shares: Mapping[str, float]) -> tuple[str | None, int | None]:
    """The truth about an item, and the item whose bytes it has where that is another."""
    truth = _drawn_truth(seed, index, shares)
    if truth not in (DUPLICATE, REPEATED):
        return truth, None
    position = index % items_per_shard
    in_this_shard = range(index - position, index)
    same_place_in_earlier_shards = range(position, index, items_per_shard)  # so no two of a shard repeat the same one
    candidates = in_this_shard if truth == DUPLICATE else same_place_in_earlier_shards
    original = _flawless_among(candidates, seed, index, shares)
    return (None, None) if original is None else (truth, original)  # with nothing before it, it is flawless itself


def _flawless_among(candidates: range, seed: int, index: int, shares: Mapping[str, float]) -> int | None:
    """A flawless one of the candidates, drawn for item `index`; None if there is none to be found."""
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

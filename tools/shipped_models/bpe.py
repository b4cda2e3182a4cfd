"""Small BPE vocabulary in CLIP's format: each word of the miniature world is one token, others are split into letters.

The format is that of `open_clip.tokenizer.SimpleTokenizer(bpe_path=...)`: gzip, a version line, then one merge per line.
"""

import gzip
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from fineclip.miniature.scenes import CLASSES
from fineclip.miniature.shapes import COLORS
from fineclip.miniature.wording import ALT_PHRASES, PLACES

BYTE_TOKENS = 512  # every byte, within a word and at its end
SPECIAL_TOKENS = 2  # start and end of text

COMMON_WORDS = """
    an and are at bad big bright center click close clean cropped dark download for free good here holiday image img
    is it large many more most my near of old one photo album picture scene small something stock that the there
    these this to two up view with
"""

Pair = tuple[str, str]


def words_to_know() -> list[str]:
    """Return all words of captions and prompts, sorted."""
    phrases = (*ALT_PHRASES, *PLACES.values(), COMMON_WORDS, *CLASSES, *COLORS)
    return sorted({word for phrase in phrases for word in phrase.replace("{}", " ").split()})


def learn_merges(words: Iterable[str]) -> list[Pair]:
    """Learn merges, in order, that join each word into one token. Ties are resolved alphabetically."""
    spelled = [(*word[:-1], f"{word[-1]}</w>") for word in words]
    merges: list[Pair] = []
    while pairs := Counter(pair for symbols in spelled for pair in pairwise(symbols)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelled = [_merge(symbols, best) for symbols in spelled]
    return merges


def write_bpe(path: Path) -> int:
    """Write the vocabulary and return its size. The bytes are always the same."""
    merges = learn_merges(words_to_know())
    # No newline at the end: SimpleTokenizer would take the empty line for a merge.
    text = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)])
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    return BYTE_TOKENS + len(merges) + SPECIAL_TOKENS


def _merge(symbols: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return tuple(merged)

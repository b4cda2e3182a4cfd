"""Scripts and lengths of captions, for the audit."""

import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from functools import cache

LONG = 50  # words; CLIP's context of 77 tokens holds about that many


@dataclass
class CaptionCounts:
    """Counts over captions.

    Attributes:
        captions: Number of captions.
        scripts: Captions by the script of most of their letters.
        long: Captions of more than `LONG` words.
    """

    captions: int = 0
    scripts: Counter[str] = field(default_factory=Counter)
    long: int = 0

    def add(self, caption: str) -> None:
        """Count one caption."""
        self.captions += 1
        self.scripts[script_of(caption)] += 1
        self.long += len(caption.split()) > LONG


def script_of(caption: str) -> str:
    """Return the script of most letters of a text.

    Args:
        caption: Any text.

    Returns:
        First word of the Unicode names of the letters, such as `LATIN`, `CJK` or `CYRILLIC`; `none` without letters.

    Examples:
        >>> script_of("ein Hund"), script_of("собака"), script_of("0.5 0.5")
        ('LATIN', 'CYRILLIC', 'none')
    """
    if caption.isascii():
        return "LATIN" if any(map(str.isalpha, caption)) else "none"
    scripts = Counter(_script(character) for character in caption if character.isalpha())
    return scripts.most_common(1)[0][0] if scripts else "none"


@cache
def _script(letter: str) -> str:
    return unicodedata.name(letter, "unknown").partition(" ")[0]

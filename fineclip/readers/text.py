"""Conversion of texts of unknown encoding to valid Unicode for tables."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

LINE_END = re.compile(r"\r\n|\n|\r")


def decoded(content: bytes) -> str:
    """Return the text of bytes in UTF-8, with or without a byte order mark, or else in Latin-1, which decodes any byte."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def to_valid_utf8(text: str) -> str:
    """Return the text with lone surrogates escaped; file names and JSON may hold them, UTF-8 may not."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def captions_of(found: Iterable[str]) -> list[str]:
    """Return the stripped texts that are not blank; `[""]` if all were blank, `[]` if there were none."""
    stripped = [to_valid_utf8(text).strip() for text in found]
    return [text for text in stripped if text] or stripped[:1]


def lines_of(text: str) -> list[str]:
    r"""Return the lines of a text, which LF, CR LF and CR end; no other character does.

    Args:
        text: Decoded text.

    Returns:
        Lines without their ends; `[""]` for an empty text.

    Examples:
        >>> lines_of("one\u2028line\r\nand another")
        ['one\u2028line', 'and another']
    """
    return LINE_END.split(text)


def captions_of_file(content: bytes, stated: Collection[str] = ()) -> list[str]:
    r"""Return the captions of a .txt file, in a folder or in a tar: one per line, or one in all if the JSON beside it says so.

    Args:
        content: Bytes of the file.
        stated: Captions in the JSON of the same sample, as `stated_captions` returns them. If one of them is the whole text,
            apart from white space, the text is one caption.

    Returns:
        Captions as `captions_of` returns them: `[""]` for a blank file.

    Examples:
        >>> captions_of_file(b"a dog\na cat")
        ['a dog', 'a cat']
        >>> captions_of_file(b"a dog\nruns", ["a dog runs"])
        ['a dog\nruns']
    """
    text = decoded(content)
    words = text.split()
    if any(one.split() == words for one in stated):
        return captions_of([text])
    return captions_of(lines_of(text))


def stated_captions(values: Mapping[str, Any]) -> list[str]:
    """Return the captions in the JSON of a sample: `caption`, then the list `captions`, texts alone."""
    several = values.get("captions")
    found = [values.get("caption"), *(several if isinstance(several, list) else [])]
    return [one for one in found if isinstance(one, str)]

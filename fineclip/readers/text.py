"""Conversion of texts of unknown encoding to valid Unicode for tables."""

from collections.abc import Iterable


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

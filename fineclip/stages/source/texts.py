"""Texts as they are found in the wild, made fit for a table, which holds Unicode and nothing else."""

from collections.abc import Iterable


def decoded(content: bytes) -> str:
    """UTF-8 with or without a mark, else Latin-1, in which every byte is something: no text is lost."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def to_valid_utf8(text: str) -> str:
    """The text with lone surrogates spelled out: file names and JSON may hold them, UTF-8 may not."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def captions_of(found: Iterable[str]) -> list[str]:
    """Stripped texts without the blank ones; `[""]` where there were only blank ones, `[]` where there was none at all."""
    stripped = [to_valid_utf8(text).strip() for text in found]
    return [text for text in stripped if text] or stripped[:1]

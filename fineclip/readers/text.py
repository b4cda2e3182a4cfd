"""Texts that users bring: their encoding, the lines of a file of captions, letters and words.

A text is decoded by its byte order mark, else as UTF-8, else as Windows-1252. Only LF, CR LF and CR end a line; any other
separator of Unicode is white space inside a caption.
"""

import codecs
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from fineclip.errors import DataError

log = logging.getLogger(__name__)

UTF_8, WINDOWS_1252 = "utf-8", "cp1252"
UTF_32 = ("utf-32-le", "utf-32-be")  # before UTF-16, whose little-endian mark is the beginning of that of UTF-32
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
LINE_END = re.compile(r"\r\n|\n|\r")
BETWEEN_NUMBERS = re.compile(r"[\s,;]+")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

# Scripts written without spaces between words. Not every character of a range is a letter: vowel signs and digits are none.
HAN = "\u3005-\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KANA = "\u3031-\u3035\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f\U0001aff0-\U0001afff\U0001b000-\U0001b16f"
SOUTHEAST_ASIAN = (
    "\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f\u1780-\u17ff"  # Thai Lao Burmese Khmer
)
LETTERS = frozenset({"Lu", "Ll", "Lt", "Lm", "Lo", "Nl"})  # Nl: the Han numerals
SPACELESS = re.compile(f"[{HAN}{KANA}{SOUTHEAST_ASIAN}]")


def read_bytes(path: Path) -> bytes:
    """Return the content of a file that a user brings.

    Args:
        path: The file.

    Returns:
        All of its bytes.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}. Provide it, or make it readable.") from None


def decode_text(content: bytes) -> str:
    r"""Return the text of bytes: by their byte order mark (UTF-8, UTF-16 or UTF-32), else UTF-8, else Windows-1252.

    Args:
        content: Whole content of a file; any bytes.

    Returns:
        The text without the mark. Bytes that the encoding of the mark does not allow become U+FFFD, and the five bytes that
        Windows-1252 does not define become the control characters of the same number.

    Examples:
        >>> decode_text(b"caf\xe9"), decode_text("café".encode("utf-16"))
        ('café', 'café')
    """
    encoding = encoding_of(content)
    if encoding == WINDOWS_1252:
        return _decode_windows_1252(content.removeprefix(codecs.BOM_UTF8))
    return content.decode(encoding, "replace").removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")


def encoding_of(content: bytes) -> str:
    """Return the encoding that `decode_text` takes: utf-8, utf-16-le, utf-16-be, utf-32-le, utf-32-be or cp1252.

    Args:
        content: Whole content of a file; any bytes.

    Returns:
        Name of the encoding.
    """
    for mark, encoding in MARKS:
        if content.startswith(mark) and not (encoding in UTF_32 and _is_undecodable(content, encoding)):
            return encoding
    return WINDOWS_1252 if _is_undecodable(content, UTF_8) else UTF_8


def _is_undecodable(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return True
    return False


def _decode_windows_1252(content: bytes) -> str:
    try:
        return content.decode("cp1252")
    except UnicodeDecodeError:
        return "".join(map(_WINDOWS_1252.__getitem__, content))


def _windows_1252(byte: int) -> str:
    try:
        return bytes([byte]).decode("cp1252")
    except UnicodeDecodeError:
        return chr(byte)


_WINDOWS_1252 = [_windows_1252(byte) for byte in range(256)]


def to_valid_utf8(text: str) -> str:
    """Return the text with lone surrogates escaped; file names and JSON may hold them, UTF-8 may not."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


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


def captions_of(found: Iterable[str]) -> list[str]:
    """Return the stripped texts that are not blank; `[""]` if all were blank, `[]` if there were none."""
    stripped = [to_valid_utf8(text).strip() for text in found]
    return [text for text in stripped if text] or stripped[:1]


def log_encodings(contents: Iterable[bytes], where: str) -> None:
    """Log how many text files are in another encoding than UTF-8.

    Args:
        contents: Contents of the files.
        where: Folder or tar that holds them.
    """
    others = Counter(encoding for encoding in map(encoding_of, contents) if encoding != UTF_8)
    if others:
        named = ", ".join(f"{count} {encoding}" for encoding, count in sorted(others.items()))
        log.info("%s: %d text files are in another encoding than UTF-8: %s", where, others.total(), named)


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
    text = decode_text(content)
    words = text.split()
    if any(one.split() == words for one in stated):
        return captions_of([text])
    return captions_of(lines_of(text))


def stated_captions(values: Mapping[str, Any]) -> list[str]:
    """Return the captions in the JSON of a sample: `caption`, then the list `captions`, texts alone."""
    several = values.get("captions")
    found = [values.get("caption"), *(several if isinstance(several, list) else [])]
    return [one for one in found if isinstance(one, str)]


def has_word(text: str) -> bool:
    """Return whether a text has a letter, other than the exponent of a number.

    Args:
        text: Caption.

    Returns:
        False for numbers, such as the lines of YOLO's labels, for punctuation and for an empty text.

    Examples:
        >>> has_word("a dog"), has_word("狗"), has_word("0 0.48 0.33 4e-05 0.41")
        (True, True, False)
    """
    return any(any(map(str.isalpha, token)) and not NUMBER.fullmatch(token) for token in BETWEEN_NUMBERS.split(text))


def count_words(text: str) -> int:
    """Return the number of words of a text.

    Words are separated by white space. In scripts that are written without spaces (Han, kana, Thai, Lao, Khmer, Burmese) each
    letter counts as a word, and so does a run of other letters or digits between them.

    Args:
        text: Caption.

    Returns:
        Number of words, 0 for a blank text.

    Examples:
        >>> count_words("a dog runs"), count_words("一只狗"), count_words("iPhone 6s手机")
        (3, 3, 4)
    """
    if text.isascii():
        return len(text.split())
    return sum(map(_count_of_token, text.split()))


def _count_of_token(token: str) -> int:
    letters = [one for one in SPACELESS.findall(token) if unicodedata.category(one) in LETTERS]
    if not letters:
        return 1
    others = SPACELESS.sub(lambda found: found[0] if found[0].isdigit() else " ", token)
    return len(letters) + sum(any(map(str.isalnum, run)) for run in others.split())

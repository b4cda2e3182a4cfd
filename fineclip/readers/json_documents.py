"""JSON files that users bring: COCO's form, lists, and flat objects. Errors name the file, the entry and the key."""

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fineclip.boxes import from_xywh
from fineclip.errors import DataError
from fineclip.readers.boxes import StatedSize
from fineclip.readers.mask_annotations import add_boxes_of_masks
from fineclip.readers.text import decode_text, to_valid_utf8
from fineclip.types import Box

log = logging.getLogger(__name__)

Id = int | str
T = TypeVar("T")

EXACT_BELOW = 2**53  # a float of this size or more may stand for several whole numbers


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Args:
        path: File in UTF-8, UTF-16, UTF-32 or Windows-1252.

    Returns:
        The decoded value.

    Raises:
        DataError: The file cannot be read or is not JSON.
    """
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}. Provide it, or name another.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON, or is truncated: {error}. Fetch it again.") from None


def parse_json(content: bytes) -> Any:
    """Return the value of the bytes of a JSON file, decoded as every text is, or by the zeros of UTF-16 and UTF-32.

    Args:
        content: Whole file. JSON begins with an ASCII character, so a zero among its first bytes shows UTF-16 or UTF-32 also
            without a byte order mark.

    Returns:
        The decoded value.

    Raises:
        ValueError: It is not JSON.
        RecursionError: It is nested too deeply.
    """
    if b"\0" in content[:4]:
        return json.loads(content)
    return json.loads(decode_text(content))


class Document:
    """A JSON file in the form of COCO's. Errors name the file, the entry and the key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sections = read_json(path)
        add_boxes_of_masks(self._sections, path)

    def entries(self, section: str) -> Iterator["Entry"]:
        """Yield the objects of a list.

        Args:
            section: Key of the list in the outermost object, such as `images`.

        Yields:
            Objects in file order.

        Raises:
            DataError: The list does not exist, or holds values other than objects.
        """
        found = self._sections.get(section) if isinstance(self._sections, dict) else None
        yield from self._entries(section, found, f"has no list {section!r}, which COCO requires")

    def rows(self) -> Iterator["Entry"]:
        """Yield the objects of a file that is a list.

        Yields:
            Objects in file order.

        Raises:
            DataError: The file is not a list, or holds values other than objects.
        """
        yield from self._entries("", self._sections, f"is a JSON {type(self._sections).__name__}, not a list")

    def categories(self) -> dict[Id, str]:
        """Return the names of `categories` by id.

        Returns:
            Names in file order, as valid UTF-8.

        Raises:
            DataError: The list does not exist, an entry lacks a key, or two names have equal ids.
        """
        names: dict[Id, str] = {}
        for entry in self.entries("categories"):
            number, name = entry.id("id"), to_valid_utf8(entry.text("name"))
            if names.setdefault(number, name) != name:
                raise entry.wrong("id", f"one of its own: {names[number]!r} has it too")
        return names

    def lists_any(self, section: str) -> bool:
        """Return whether the outermost object has a list of this key that is not empty."""
        return isinstance(self._sections, dict) and bool(self._sections.get(section))

    def _entries(self, section: str, found: Any, fault: str) -> Iterator["Entry"]:
        if not isinstance(found, list):
            raise DataError(f"{self.path}: {fault}. Check that it is the right file.")
        for index, values in enumerate(found):
            if not isinstance(values, dict):
                raise DataError(f"{self.path}: {section}[{index}] is {values!r:.60}, not an object")
            yield Entry(self.path, section, index, values)


class Entry:
    """One object of a list."""

    __slots__ = ("_index", "_path", "_section", "values")

    def __init__(self, path: Path, section: str, index: int, values: Mapping[str, Any]) -> None:
        self._path, self._section, self._index, self.values = path, section, index, values

    def id(self, key: str) -> Id:
        """Return a number or a text that other entries refer to.

        Args:
            key: Key in the JSON object.

        Returns:
            Number or text. Equal numbers are equal ids: 1.0 is 1. A text is never equal to a number.

        Raises:
            DataError: The value is absent or of another type, or a float that may stand for several whole numbers.
        """
        number = self._valid(key, _is_id, "a whole number or a text")
        return int(number) if isinstance(number, float) else number

    def is_set(self, key: str) -> bool:
        """Return whether a flag is 1 or true; an absent one and null are 0.

        Args:
            key: Key in the JSON object, such as `iscrowd`.

        Returns:
            Value of the flag.

        Raises:
            DataError: The value is not 0, 1, true, false or null.
        """
        value = self.values.get(key)
        if not (value is None or (isinstance(value, int | float) and value in (0, 1))):
            raise self.wrong(key, "0 or 1")
        return bool(value)

    def is_empty(self, key: str) -> bool:
        """Return whether a value is absent, null, a blank text or an empty list or object."""
        value = self.values.get(key)
        return value is None or (
            isinstance(value, str | list | dict) and not (value.strip() if isinstance(value, str) else value)
        )

    def text(self, key: str) -> str:
        """Return a text.

        Args:
            key: Key in the JSON object.

        Returns:
            The text, unchanged.

        Raises:
            DataError: The value is absent or not a text.
        """
        text: str = self._valid(key, lambda value: isinstance(value, str), "a text")
        return text

    def image_name(self) -> str:
        """Return `file_name`, or the last two parts of `coco_url`, such as `train2017/000000000009.jpg`.

        Returns:
            Name with `/` between folders.

        Raises:
            DataError: Both are absent, or the value is not a text.

        Source:
            CLIPSelf, training/data.py.
        """
        if self.is_empty("coco_url"):
            name: str = self._valid("file_name", _is_name, "a text that names a file")
            return name
        if not self.is_empty("file_name"):
            return self.text("file_name")
        return "/".join(self.text("coco_url").split("/")[-2:])

    def number(self, key: str) -> float:
        """Return a finite number.

        Args:
            key: Key in the JSON object; an integer is allowed, a bool is not.

        Returns:
            The value as float.

        Raises:
            DataError: The value is absent or not a finite number.
        """
        return float(self._valid(key, _is_number, "a number"))

    def xywh(self, key: str) -> tuple[float, float, float, float]:
        """Return x, y, width, height of a box as COCO states it.

        Args:
            key: Key in the JSON object.

        Returns:
            Left edge, upper edge, width and height in pixels.

        Raises:
            DataError: The value is absent or not four finite numbers.
        """
        x, y, width, height = map(float, self._valid(key, _is_box, "four numbers: x, y, width, height"))
        return x, y, width, height

    def box(self, key: str) -> Box:
        """Return the box of COCO's x, y, width, height."""
        return from_xywh(*self.xywh(key))

    def stated_size(self) -> StatedSize:
        """Return `width` and `height` of an image, None for a side that is absent or null.

        Returns:
            Size in pixels.

        Raises:
            DataError: A side is not a whole number of pixels, at least 1.
        """
        return StatedSize(self._side("width"), self._side("height"))

    def _side(self, key: str) -> int | None:
        if self.values.get(key) is None:
            return None
        pixels = self.number(key)
        if pixels < 1 or pixels != int(pixels):
            raise self.wrong(key, "a whole number of pixels")
        return int(pixels)

    def look_up(self, key: str, known: Mapping[Id, T], expected: str) -> T:
        """Return what an id refers to.

        Args:
            key: Key in the JSON object whose value is the id.
            known: Values by id.
            expected: Description of the known ids, for the message.

        Returns:
            Value of the id.

        Raises:
            DataError: The id is absent, of another type, or not in `known`.
        """
        number = self.id(key)
        if number not in known:
            such = f", such as {next(iter(known))!r}" if known else ""
            raise self.wrong(key, f"{expected}{such}")
        return known[number]

    def wrong(self, key: str, expected: str) -> DataError:
        """Return an error about a value, with its place and the expected value."""
        return self._error(f"{key!r} is {self.values.get(key)!r:.60}, expected {expected}")

    def _valid(self, key: str, is_valid: Callable[[Any], bool], expected: str) -> Any:
        if key not in self.values:
            raise self._error(f"has no {key!r}, only {', '.join(self.values)}")
        if not is_valid(self.values[key]):
            raise self.wrong(key, expected)
        return self.values[key]

    @property
    def place(self) -> str:
        """Section and index, such as `images[3]`."""
        return f"{self._section}[{self._index}]"

    @property
    def path(self) -> Path:
        """File that holds the entry."""
        return self._path

    @property
    def section(self) -> str:
        """Key of the list that holds the entry."""
        return self._section

    def _error(self, fault: str) -> DataError:
        return DataError(f"{self._path}: {self.place}: {fault}. Correct it, or download it again.")


def with_content(entries: Iterable[Entry], *keys: str) -> Iterator[Entry]:
    """Yield the entries that have a value for each key, and count the others in the log.

    Args:
        entries: Entries of one list, such as `annotations`.
        *keys: Keys whose value must not be absent, null, blank or empty.

    Yields:
        Entries in order.

    Raises:
        DataError: There are entries, and none has content.
    """
    total, section, left_out = 0, "", list[Entry]()
    for entry in entries:
        total, section = total + 1, entry.section
        if any(map(entry.is_empty, keys)):
            left_out.append(entry)
        else:
            yield entry
    report_left_out(left_out, total=total, what=section, keys=keys)


def report_left_out(left_out: Sequence[Entry], *, total: int, what: str, keys: Sequence[str]) -> None:
    """Count the entries without content in the log.

    Args:
        left_out: Entries that lack a value.
        total: Number of entries with these.
        what: What the entries are, in the plural, such as `annotations`.
        keys: Keys that an entry must have.

    Raises:
        DataError: All of the entries lack a value: the file is another one than expected.
    """
    if not left_out:
        return
    first, wanted = left_out[0], list(map(repr, keys))
    if len(left_out) == total:
        raise DataError(
            f"{first.path}: none of its {total} {what} has {' and '.join(wanted)}; {first.place} has only"
            f" {', '.join(first.values) or 'nothing'}. Check that it is the right file."
        )
    log.warning(
        "%s: %d of %d %s have no %s and are left out, such as %s",
        first.path, len(left_out), total, what, " or ".join(wanted), first.place,
    )  # fmt: skip


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the range of float
        return False


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_id(value: Any) -> bool:
    if isinstance(value, float):
        return value.is_integer() and abs(value) < EXACT_BELOW
    return isinstance(value, int | str) and not isinstance(value, bool)

"""JSON files that users bring: COCO's form, lists, and flat objects. Errors name the file, the entry and the key."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fineclip.boxes import from_xywh
from fineclip.errors import DataError
from fineclip.readers.text import decode_text
from fineclip.types import Box

Id = int | str
T = TypeVar("T")


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
            Number or text, as written.

        Raises:
            DataError: The value is absent or of another type.
        """
        number: Id = self._valid(key, lambda value: isinstance(value, int | str), "a number or a text")
        return number

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
        if "file_name" in self.values or "coco_url" not in self.values:
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
            raise self.wrong(key, expected)
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

    def _error(self, fault: str) -> DataError:
        place = f"{self._path}: {self._section}[{self._index}]"
        return DataError(f"{place}: {fault}. Correct it, or download it again.")


def images_by_id(document: Document) -> dict[Id, Entry]:
    """Return the entries of `images` by id, in file order.

    Args:
        document: JSON in the form of COCO's.

    Returns:
        Entry of each image.

    Raises:
        DataError: Two entries have equal ids.
    """
    images: dict[Id, Entry] = {}
    for entry in document.entries("images"):
        number = entry.id("id")
        if number in images:
            raise entry.wrong("id", f"one of its own: {images[number].image_name()} has it too")
        images[number] = entry
    return images


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

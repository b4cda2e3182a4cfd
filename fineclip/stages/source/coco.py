"""Source kind coco: captions and instances JSON of COCO or LVIS with a folder of images.

There is a row for every image of the captions JSON or, without one, of the instances JSON. All captions of an image are
kept. LVIS states no `file_name`; the last two parts of `coco_url`, folder and file, replace it, and the folder may be the one
that `source.images` names. Boxes are in pixels as stated, also outside the image; crowds (`iscrowd: 1`) are skipped.
"""

import json
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from fineclip.boxes import from_xywh
from fineclip.config import CocoSource
from fineclip.errors import DataError
from fineclip.shards import SourceRow, sha256_of
from fineclip.stages.source.files import files_below, is_image
from fineclip.stages.source.samples import Samples, fingerprint, sample_row
from fineclip.stages.source.text_encoding import captions_of, to_valid_utf8
from fineclip.types import Box, LabeledBox

log = logging.getLogger(__name__)

Id = int | str
T = TypeVar("T")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Args:
        path: File in UTF-8, UTF-16 or UTF-32.

    Returns:
        The decoded value.

    Raises:
        DataError: The file cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}. Provide it, or name another.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON, or is truncated: {error}. Fetch it again.") from None


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


def coco_samples(config: CocoSource) -> Samples:
    """Return every sample of a data set in COCO's layout.

    Args:
        config: Paths are relative to its `root`.

    Returns:
        Hashes of the folder and of each JSON, and lazily made rows.

    Raises:
        DataError: A JSON is absent, truncated or lacks a key, or names no image of the folder.
    """
    root = Path(config.root)
    folder = root / config.images
    found = sorted((name, entry.stat().st_size) for name, entry in files_below(folder) if is_image(name))
    sizes = {name: size for name, size in found if to_valid_utf8(name) == name}
    jsons = [root / name for name in (config.captions, config.instances) if name is not None]
    for path in jsons:
        if not path.is_file():
            raise DataError(f"{path}: no such file. Provide it, or name another in source.")
    inputs = {folder.as_posix(): fingerprint(sizes, {})} | {path.as_posix(): sha256_of(path) for path in jsons}
    return Samples(inputs, _rows(config, folder, sizes))


def _rows(config: CocoSource, folder: Path, sizes: Mapping[str, int]) -> Iterator[SourceRow]:
    root = Path(config.root)
    captioned = Document(root / config.captions) if config.captions is not None else None
    boxed = Document(root / config.instances) if config.instances is not None else None
    naming = captioned or boxed
    if naming is None:
        raise AssertionError("captions and instances are both null")
    images = images_by_id(naming)
    names = {number: _name_in(folder, entry.image_name(), sizes) for number, entry in images.items()}
    _require_some(names.values(), sizes, folder, naming.path)
    captions = _captions(captioned, images) if captioned else None
    boxes = _boxes(boxed, images) if boxed else None
    for number, entry in images.items():
        texts = [] if captions is None else captions_of(captions[number])
        url = entry.values.get("coco_url") or entry.values.get("flickr_url")
        yield sample_row(
            folder,
            names[number],
            sizes,
            texts,
            needs_text=captions is not None,
            url=to_valid_utf8(url) if isinstance(url, str) else None,
            annotations=None if boxes is None else boxes[number],
        )


def _name_in(folder: Path, name: str, sizes: Mapping[str, int]) -> str:
    """Return the name of an image in the folder: `train2017/1.jpg` may be `1.jpg` of a folder `train2017`."""
    if name in sizes or not PurePosixPath(name).is_relative_to(folder.name):
        return name
    inside = PurePosixPath(name).relative_to(folder.name).as_posix()
    return inside if inside in sizes else name


def _require_some(names: Collection[str], sizes: Mapping[str, int], folder: Path, naming: Path) -> None:
    named = set(names)
    if named and not named & sizes.keys():
        raise DataError(
            f"{naming}: none of its {len(named)} images is in {folder}; the first is {min(named)}."
            " source.images and the JSON must be of the same split."
        )
    if unnamed := len(sizes.keys() - named):
        log.info("%d of %d images in %s are not in %s and are ignored", unnamed, len(sizes), folder, naming)


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


def _captions(document: Document, images: Mapping[Id, Entry]) -> defaultdict[Id, list[str]]:
    captions: defaultdict[Id, list[str]] = defaultdict(list)
    for entry in document.entries("annotations"):
        captions[entry.id("image_id")].append(entry.text("caption"))
    if strays := len(captions.keys() - images.keys()):
        log.warning("%s: %d images have captions but no entry in 'images' and are skipped", document.path, strays)
    return captions


def _boxes(document: Document, images: Mapping[Id, Entry]) -> defaultdict[Id, list[LabeledBox]]:
    names = {entry.id("id"): to_valid_utf8(entry.text("name")) for entry in document.entries("categories")}
    boxes: defaultdict[Id, list[LabeledBox]] = defaultdict(list)
    crowds = 0
    for entry in document.entries("annotations"):
        if entry.values.get("iscrowd"):
            crowds += 1
            continue
        label = entry.look_up("category_id", names, "the id of one of 'categories'")
        boxes[entry.id("image_id")].append(LabeledBox(entry.box("bbox"), label))
    strays = len(boxes.keys() - images.keys())
    log.info("%s: %d crowds left out, and the boxes of %d images that are not samples", document.path, crowds, strays)
    return boxes


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

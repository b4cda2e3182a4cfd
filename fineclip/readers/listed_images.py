"""Images that a JSON lists, and the entries that refer to them by id.

Several entries may be one image: merged exports list a file under several ids. Such entries are one image with all captions and
boxes; what a later entry repeats is left out.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fineclip.errors import DataError
from fineclip.readers.boxes import StatedSize
from fineclip.readers.json_documents import Document, Entry, Id, with_content
from fineclip.types import Box

log = logging.getLogger(__name__)

Label = TypeVar("Label")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, eq=False)
class ListedImage:
    """An image that one or more entries of `images` name.

    Attributes:
        name: Name that the entries share; see `images_by_id`.
        entries: Its entries in file order.
    """

    name: str
    entries: list[Entry]

    @property
    def entry(self) -> Entry:
        """The first entry."""
        return self.entries[0]

    @property
    def ids(self) -> list[Id]:
        """The ids of the entries, each once."""
        return list(dict.fromkeys(entry.id("id") for entry in self.entries))

    def stated_size(self) -> StatedSize:
        """Return the size that the entries state, each side from the first that states it."""
        sizes = [entry.stated_size() for entry in self.entries]
        width, height = (next((side for side in sides if side is not None), None) for sides in zip(*sizes, strict=True))
        return StatedSize(width, height)


def images_by_id(document: Document, name_of: Callable[[Entry], str]) -> dict[Id, ListedImage]:
    """Return the image of each id, in file order. Entries of equal names are one image, which has the ids of all.

    Args:
        document: JSON in the form of COCO's.
        name_of: Function from an entry to its name; names are compared exactly.

    Returns:
        Image of each id.

    Raises:
        DataError: Two images have equal ids, or entries of one image state different sizes.
    """
    by_id: dict[Id, ListedImage] = {}
    by_name: dict[str, ListedImage] = {}
    for entry in document.entries("images"):
        number, name = entry.id("id"), name_of(entry)
        image = by_name.setdefault(name, ListedImage(name, []))
        if number in by_id and by_id[number] is not image:
            raise entry.wrong("id", f"one of its own: {by_id[number].name} has it too")
        _require_equal_sizes(image, entry)
        image.entries.append(entry)
        by_id[number] = image
    if len(by_name) < len(by_id):
        log.info("%s: %d ids are those of %d images", document.path, len(by_id), len(by_name))
    return by_id


def _require_equal_sizes(image: ListedImage, entry: Entry) -> None:
    for side in ("width", "height"):
        stated = entry.values.get(side)
        for earlier in image.entries:
            before = earlier.values.get(side)
            if None not in (stated, before) and stated != before:
                raise entry.wrong(side, f"{before!r} as in {earlier.place}, because both are the image {image.name}")


def referring(
    entries: Iterable[Entry], images: Mapping[Id, ListedImage], *, key: str = "image_id"
) -> Iterator[tuple[Id, Entry]]:
    """Yield the entries that refer to an image, with the id of the image, and count the others in the log.

    Args:
        entries: Entries of one list, such as `annotations`.
        images: Image of each id. If there is none, nothing is read.
        key: Key of the id of the image.

    Yields:
        Id and entry, in the order of the entries.

    Raises:
        DataError: There are entries, and none refers to an image.
    """
    if not images:
        return
    total, unknown, first = 0, 0, None
    for entry in entries:
        total += 1
        number = entry.id(key)
        if number in images:
            yield number, entry
        else:
            unknown, first = unknown + 1, first or entry
    if first is None:
        return
    written = first.values[key]
    known = next(iter(images.values())).entry.values["id"]
    if unknown == total:
        raise DataError(
            f"{first.path}: no {key!r} of its {total} {first.section} is the 'id' of an image: {first.place} has {written!r:.60}, and"
            f" the images have ids such as {known!r:.60}. Both must be of the same split, and both numbers or both texts."
        )
    log.warning(
        "%s: %d of %d %s refer to no image and are left out, such as %s: its %r is %.60r, and the images have ids such as %.60r",
        first.path, unknown, total, first.section, first.place, key, written, known,
    )  # fmt: skip


def boxes_by_id(
    document: Document, images: Mapping[Id, ListedImage], labels: Mapping[Id, Label]
) -> dict[Id, list[tuple[Box, Label]]]:
    """Return the boxes of `annotations` by id of their image. Crowds and entries without box or category are left out and counted.

    Args:
        document: JSON in the form of COCO's instances.
        images: Image of each id.
        labels: Label of each category by its id.

    Returns:
        Boxes in pixels as stated, with their labels, in file order.

    Raises:
        DataError: No entry refers to an image, or an entry has an unknown category or a box of another form.
    """
    boxes: defaultdict[Id, list[tuple[Box, Label]]] = defaultdict(list)
    crowds = 0
    for number, entry in referring(with_content(document.entries("annotations"), "bbox", "category_id"), images):
        if entry.is_set("iscrowd"):
            crowds += 1
        else:
            label = entry.look_up("category_id", labels, "the id of one of 'categories'")
            boxes[number].append((entry.box("bbox"), label))
    log.info("%s: %d crowds left out", document.path, crowds)
    return boxes


def listed_once(images: Mapping[Id, ListedImage]) -> list[ListedImage]:
    """Return each image once, in file order."""
    return list({image.name: image for image in images.values()}.values())


def by_name(values: Mapping[Id, Sequence[Value]], images: Mapping[Id, ListedImage]) -> dict[str, list[Value]]:
    """Return the values of each image, such as its captions, of all its entries.

    Args:
        values: Values by id of the image.
        images: Image of each id.

    Returns:
        Values by name of the image, in file order; see `distinct`.
    """
    return {image.name: distinct(values.get(number, ()) for number in image.ids) for image in listed_once(images)}


def distinct(lists: Iterable[Iterable[Value]]) -> list[Value]:
    """Return the values of several entries of one image, without values that an earlier entry has already.

    Args:
        lists: Values of each entry, such as its captions or boxes. Equal values within one entry are kept.

    Returns:
        Values in order.

    Examples:
        >>> distinct([["a cat", "a cat"], ["a cat", "a pet"]])
        ['a cat', 'a cat', 'a pet']
    """
    found: list[Value] = []
    for values in lists:
        earlier = set(found)
        found += [value for value in values if value not in earlier]
    return found

"""Layouts caption_list and karpathy: JSON files that list images with their captions.

    caption_list    [{"image": "1007129816.jpg", "caption": ["A man …", …]}, …], the authors' flickr30k_test.json, coco_test.json
    karpathy        {"images": [{"filepath": "val2014", "filename": …, "split": "test", "sentences": [{"raw": …}, …]}, …]};
                    Flickr30k has no `filepath`

All captions of an image count, as in FineCLIP's test_flickr.py and test_mscoco.py: some images of COCO's test split have six
or seven. Other evaluations keep the first five.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from fineclip.config.evaluation import CaptionList, Karpathy
from fineclip.errors import DataError
from fineclip.evals.datasets.benchmark_image import Contents, read_image
from fineclip.readers.files import is_inside, list_files
from fineclip.readers.json_documents import Document, Entry
from fineclip.readers.listed_images import distinct
from fineclip.readers.names import FolderNames
from fineclip.readers.text import captions_of, to_valid_utf8
from fineclip.shards import sha256_of
from fineclip.stages.source.samples import fingerprint

log = logging.getLogger(__name__)


def list_inputs(source: CaptionList | Karpathy, listed: Mapping[Path, list[str]]) -> dict[str, str]:
    """Return the hash of the JSON, and of the names and sizes of the images that it names."""
    folder, annotations = Path(source.root) / source.images, Path(source.root) / source.annotations
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in listed}
    return {
        annotations.as_posix(): sha256_of(annotations),
        folder.as_posix(): fingerprint(dict(sorted(sizes.items())), {}),
    }


def list_contents(listed: Mapping[Path, list[str]]) -> Contents:
    """Return every image of a list with its captions; no classes. Each image is read when the iterator reaches it."""
    return Contents([], (read_image(path, captions=captions) for path, captions in listed.items()))


def listed_images(source: CaptionList | Karpathy) -> dict[Path, list[str]]:
    """Return the captions of each image of a list, or of the configured split, in the order of the file.

    Args:
        source: Folder and names of the JSON and the images; `split` for the layout karpathy.

    Returns:
        Captions by path of the image; captions that are null or blank are left out. Entries of one image are one image.

    Raises:
        DataError: The file is not such a list, an entry lacks a key, or an image is absent.
    """
    document, folder = Document(Path(source.root) / source.annotations), Path(source.root) / source.images
    found: defaultdict[Path, list[list[str]]] = defaultdict(list)
    without, images = list[Entry](), _Images(folder)
    for entry, key, name, texts in _entries(source, document):
        captions = [text for text in captions_of(text for text in texts if text is not None) if text]
        path = images.find(name.as_posix())
        without += [] if captions else [entry]
        if path is not None:
            found[path].append(captions)
        elif captions:
            raise entry.wrong(key, f"an image in {folder}, where {name.as_posix()!r:.100} is not")
    if without:
        log.warning("%s: %d entries have no caption, such as %s", document.path, len(without), without[0].place)
    if not found:
        of = f"of the split {source.split!r}" if isinstance(source, Karpathy) else "at all"
        raise DataError(f"{document.path}: names no image {of}. Is it the right file?")
    return {path: distinct(captions) for path, captions in found.items()}


def _entries(
    source: CaptionList | Karpathy, document: Document
) -> Iterator[tuple[Entry, str, PurePosixPath, Sequence[str | None]]]:
    """Yield each entry, the key that names its image, the path and the captions."""
    if isinstance(source, CaptionList):
        for entry in document.rows():
            yield entry, "image", PurePosixPath(entry.text("image")), _texts(entry, "caption")
        return
    for entry in document.entries("images"):
        if entry.text("split") == source.split:
            folder = entry.text("filepath") if "filepath" in entry.values else ""
            yield entry, "filename", PurePosixPath(folder, entry.text("filename")), _sentences(entry)


def _texts(entry: Entry, key: str) -> Sequence[str | None]:
    """Return the captions of an entry of the authors' lists; a single text counts as one, null as none."""
    values: Any = entry.values.get(key)
    if values is None or isinstance(values, str):
        return [values]
    if not (isinstance(values, list) and all(value is None or isinstance(value, str) for value in values)):
        raise entry.wrong(key, "a list of texts")
    return values


def _sentences(entry: Entry) -> Sequence[str | None]:
    """Return the captions of an entry of Karpathy's files; a sentence whose `raw` is null, or null itself, has none."""
    values: Any = entry.values.get("sentences")
    if values is None:
        return []
    if not (isinstance(values, list) and all(map(_is_sentence, values))):
        raise entry.wrong("sentences", "a list of objects that each have a text 'raw'")
    return [value["raw"] for value in values if value is not None]


def _is_sentence(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and isinstance(value.get("raw", ...), str | None))


class _Images:
    """Images of a list, which must be inside the folder. The folder is searched when a name does not match exactly."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def _names(self) -> FolderNames:
        return FolderNames(list_files(self._folder))

    def find(self, name: str) -> Path | None:
        """Return the path of the image that a name means, or None."""
        if is_inside(name) and to_valid_utf8(name) == name and (self._folder / name).is_file():
            return self._folder / name
        found = self._names.find(name)
        if found is None or to_valid_utf8(found) != found or not (self._folder / found).is_file():
            return None
        return self._folder / found

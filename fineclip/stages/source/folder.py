"""Source kind folder: images with captions in NAME.txt beside NAME.jpg, one per line, or in one table.

There is a row for every image, and for every image that the table names and that does not exist. A blank text counts as a
caption; the filter decides about it.
"""

import logging
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

from fineclip.config import FolderSource
from fineclip.errors import DataError
from fineclip.readers.caption_tables import captions_by_image
from fineclip.readers.files import files_below, is_image
from fineclip.readers.text import captions_of, decoded
from fineclip.shards import sha256_of
from fineclip.stages.source.samples import Samples, fingerprint, sample_row
from fineclip.stages.source.shard_plan import captions_table

log = logging.getLogger(__name__)


def folder_samples(config: FolderSource) -> Samples:
    """Return every sample of a folder.

    Args:
        config: Folder, and the table of captions if there is one.

    Returns:
        Hashes of the folder and of the table, and lazily made rows.

    Raises:
        ConfigError: The table of captions does not exist.
        DataError: The table cannot be read, lacks a column, or names no image under root.
    """
    root = Path(config.root)
    files = dict(sorted((name, entry.stat().st_size) for name, entry in files_below(root)))
    images = {name: size for name, size in files.items() if is_image(name)}
    table = captions_table(config)
    if table is None:
        beside = [name for name in files if name.lower().endswith(".txt")]
        found = {name: decoded((root / name).read_bytes()).splitlines() or [""] for name in beside}
        texts = {name: found[text] for name, text in texts_beside(images, found).items()}
        inputs = {config.root: fingerprint(images, found)}
    else:
        texts = captions_by_image(table)
        inputs = {config.root: fingerprint(images, {}), table.as_posix(): sha256_of(table)}
        if texts and not texts.keys() & images.keys():
            raise DataError(
                f"{table}: none of its {len(texts)} images is under {root}; the first is {next(iter(texts))!r}. The column"
                " `image` must hold paths relative to source.root."
            )
    names = chain(images, (name for name in texts if name not in images))
    return Samples(inputs, (sample_row(root, name, images, captions_of(texts.get(name, ()))) for name in names))


def texts_beside(images: Mapping[str, int], texts: Mapping[str, list[str]]) -> dict[str, str]:
    """Return the text file of each image that has one: in the same folder, with the same name up to the last dot."""
    by_stem = {_stem(name): name for name in texts}
    beside = {name: by_stem[_stem(name)] for name in images if _stem(name) in by_stem}
    alone = len(set(texts) - set(beside.values()))
    if alone:
        log.info("%d .txt files have no image beside them and are skipped", alone)
    return beside


def _stem(name: str) -> str:
    return name[: name.rindex(".")]

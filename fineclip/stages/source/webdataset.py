"""Source kind webdataset: tars of img2dataset, cc3m-wds or this package, read in place.

The captions of a sample are the lines of its .txt, or its .txt as a whole if the JSON or the parquet states that as one caption;
else `caption` of its JSON; else `caption` of the parquet of img2dataset beside the tar. The list `captions` of the JSON adds
further ones. Rows are those of the samples in the tar, in the order of their first members; then one for each damaged part of
the tar; then those of the parquet that have no member in the tar. A blank text counts as a caption; the filter decides about it.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fineclip.errors import ShardError
from fineclip.readers.caption_tables import written
from fineclip.readers.json_documents import parse_json
from fineclip.readers.tar_headers import Damage
from fineclip.readers.tar_members import (
    IMAGE,
    Member,
    Parts,
    TarIndex,
    counted,
    index_tar,
    key_to_first_dot,
    key_to_last_dot,
    samples_of,
)
from fineclip.readers.text import captions_of, captions_of_file, log_encodings, stated_captions, to_valid_utf8
from fineclip.shards import SourceRow, sha256_of
from fineclip.stages.source.samples import Samples

log = logging.getLogger(__name__)

SIDECAR_COLUMNS = ("key", "caption", "url", "status", "error_message")
USED_KEYS = frozenset({"caption", "captions", "url"})  # of the JSON of a sample
SUCCESS = "success"
Metadata = Mapping[str, Any]  # content of the JSON of a sample, or of its row in the parquet
STATUS_REASONS = {"failed_to_download": "failed-to-download", "failed_to_resize": "failed-to-resize"}


def tar_samples(tars: Iterable[str]) -> Samples:
    """Return every sample of the tars of a shard.

    The hash of a tar is that of names, byte ranges and texts of its members. An image that is replaced by another of equal size at the
    same offset is not noticed without `--force`.

    Args:
        tars: Paths of the tars.

    Returns:
        Hashes of the tars and of the parquet files beside them, and lazily made rows.

    Raises:
        ShardError: A tar or the parquet beside it is absent, truncated, or of another form.
    """
    indexes = {Path(tar): index_tar(Path(tar)) for tar in tars}
    inputs = {tar.as_posix(): index.fingerprint for tar, index in indexes.items()}
    inputs |= {path.as_posix(): sha256_of(path) for tar in indexes if (path := tar.with_suffix(".parquet")).is_file()}
    of_tars = (rows_of(tar, index, sidecar(tar.with_suffix(".parquet"))) for tar, index in indexes.items())
    return Samples(inputs, chain.from_iterable(of_tars))


def rows_of(tar: Path, index: TarIndex, metadata: Mapping[str, Metadata]) -> Iterator[SourceRow]:
    """Yield rows without keys: the samples of a tar, then those that only the parquet lists.

    Args:
        tar: Path of the tar.
        index: Its members, as `index_tar` finds them.
        metadata: Row of img2dataset's parquet by key; it belongs to the first sample of that key.

    Yields:
        Rows in the order of the tar.
    """
    log_encodings((member.content for member in index.members if member.kind == "text"), str(tar))
    keys, repeated, unused = set[str](), 0, Counter[str]()
    for parts in paired(tar, index.members, metadata):
        keys.add(parts.key)
        repeated += parts.repeats > 0
        in_json = read_json(parts.content("json"))
        unused.update(to_valid_utf8(key)[:40] for key in in_json or () if key not in USED_KEYS)
        yield _row(parts, tar, in_json, _metadata_of(parts, metadata))
    for damage in index.damages:
        yield _damaged_row(damage)
    if repeated:
        log.info("%s: %d samples repeat the key of an earlier sample", tar, repeated)
    if unused:
        log.info("%s: keys of the JSON that are not used: %s", tar, counted(unused))
    for key, of_key in metadata.items():
        if key not in keys:
            yield _row(Parts(key, 0), tar, {}, of_key)


def paired(tar: Path, members: Sequence[Member], metadata: Mapping[str, Metadata]) -> list[Parts]:
    """Return the samples by the last dot of names; by the first dot if only that leads from an image to a text.

    Args:
        tar: Path of the tar, for the log.
        members: Its members.
        metadata: Row of img2dataset's parquet by key.

    Returns:
        Samples in the order of their first members.
    """
    samples = samples_of(members, key_to_last_dot)
    if any(_is_complete(parts, metadata) for parts in samples):
        return samples
    others = samples_of(members, key_to_first_dot)
    if not any(_is_complete(parts, metadata) for parts in others):
        return samples
    log.info(
        "%s: members are paired up to the first dot of their names, because no image has a text up to the last", tar
    )
    return others


def sidecar(path: Path) -> dict[str, Metadata]:
    """Return the rows of img2dataset's parquet by key; empty if there is none.

    Args:
        path: Path of the tar with the suffix .parquet.

    Returns:
        URL, status and caption by key, as far as the columns exist.

    Raises:
        ShardError: It is not a parquet file, or has no column `key`.
    """
    if not path.is_file():
        return {}
    try:
        names = pq.read_schema(path).names
        if "key" not in names:
            raise ShardError(
                f"{path}: is at the path of img2dataset's table, but has no column 'key', only {', '.join(names)}. Move it away."
            )
        rows = pq.ParquetFile(path).read(columns=[name for name in SIDECAR_COLUMNS if name in names]).to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise ShardError(
            f"{path}: is not a parquet file, or is truncated ({error}). Fetch it again or move it away."
        ) from None
    return {to_valid_utf8(str(row["key"])): row for row in rows}


def read_json(content: bytes | None) -> Metadata | None:
    """Return the object in the JSON of a sample: empty without a JSON, None for one that cannot be read."""
    try:
        values = {} if content is None else parse_json(content)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _text(values: Metadata, key: str) -> str | None:
    value = values.get(key)
    return to_valid_utf8(value) if isinstance(value, str) else None


def _caption_of_table(values: Metadata) -> str | None:
    """Return the caption in the parquet; of a list, the first text."""
    value = values.get("caption")
    first = next(iter(value), None) if isinstance(value, list) else value
    return None if first is None else to_valid_utf8(written(first))


def _metadata_of(parts: Parts, metadata: Mapping[str, Metadata]) -> Metadata:
    return metadata.get(parts.key, {}) if parts.repeats == 0 else {}


def _is_complete(parts: Parts, metadata: Mapping[str, Metadata]) -> bool:
    """Return whether a sample has an image and a caption."""
    if IMAGE not in parts.members:
        return False
    return bool(_captions(parts, read_json(parts.content("json")) or {}, _metadata_of(parts, metadata)))


def _row(parts: Parts, tar: Path, in_json: Metadata | None, of_key: Metadata) -> SourceRow:
    captions = _captions(parts, in_json or {}, of_key)
    image = parts.members.get("image")
    reason = None
    if image is None:
        status = _text(of_key, "status")
        reason = "no-image" if status in (None, SUCCESS) else STATUS_REASONS.get(status, "download-failed")
    elif not captions:
        reason = "bad-json" if in_json is None else "no-text"
    return SourceRow(
        key="",
        kept=reason is None,
        reason=reason,
        source_key=parts.key,
        file=tar.as_posix() if image else None,
        offset=image.piece.offset if image else 0,
        size=image.piece.size if image else 0,
        captions=captions,
        url=_text(in_json or {}, "url") or _text(of_key, "url"),
        error=_text(of_key, "error_message"),
    )


def _damaged_row(damage: Damage) -> SourceRow:
    place = f"bytes {damage.start:,} to {damage.stop:,}"
    return SourceRow(
        key="",
        kept=False,
        reason="damaged-member",
        source_key=damage.name or place,
        captions=[],
        error=f"{place}: {damage.fault}",
    )


def _captions(parts: Parts, in_json: Metadata, of_key: Metadata) -> list[str]:
    text, own, stated = parts.content("text"), _text(in_json, "caption"), stated_captions(in_json)
    further = stated if own is None else stated[1:]
    of_table = _caption_of_table(of_key)
    if text is not None:
        captions = captions_of_file(text, stated if of_table is None else [*stated, of_table])
    else:
        own = own if stated else of_table
        captions = captions_of([] if own is None else [own])
    known = [one.split() for one in captions]
    return captions_of([*captions, *(one for one in captions_of(further) if one.split() not in known)])

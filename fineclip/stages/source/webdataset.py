"""Source kind webdataset: tars of img2dataset, cc3m-wds or this package, read in place.

The caption of a sample is its .txt as a whole; else `caption` of its JSON; else `caption` of the parquet of img2dataset beside
the tar. The list `captions` of the JSON adds further ones. Rows are those of the samples in the tar, in the order of their first
members, and then those of the parquet that have no member in the tar. A blank text counts as a caption; the filter decides
about it.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fineclip.errors import ShardError
from fineclip.shards import SourceRow, sha256_of
from fineclip.stages.source import SOURCE
from fineclip.stages.source.members import Parts, TarIndex, index_tar, samples_in
from fineclip.stages.source.shard_plan import PlannedShard
from fineclip.stages.source.text_encoding import captions_of, decoded, to_valid_utf8

log = logging.getLogger(__name__)

SIDECAR_COLUMNS = ("key", "caption", "url", "status", "error_message")
SUCCESS = "success"
STATUS_REASONS = {"failed_to_download": "failed-to-download", "failed_to_resize": "failed-to-resize"}


@dataclass(frozen=True, slots=True)
class SampleMetadata:
    """Content of the JSON of a sample, or of its row in the parquet."""

    caption: str | None = None
    captions: tuple[str, ...] = ()
    url: str | None = None
    status: str | None = None
    error: str | None = None
    is_broken: bool = False


NOTHING = SampleMetadata()


def webdataset_shard(shard: PlannedShard, manifest: Path) -> None:
    """Write the source table of the tars of a shard, and then its manifest.

    The inputs of the manifest are the tars with a hash of names, byte ranges and texts of their members. An image that is replaced by
    another of equal size at the same offset is not noticed without `--force`.

    Args:
        shard: Names at least one tar.
        manifest: Path of the manifest to write.

    Raises:
        ShardError: A tar or the parquet beside it is absent, truncated, or of another form.
    """
    stocks = {Path(tar): index_tar(Path(tar)) for tar in shard.tars}
    inputs = {tar.as_posix(): stock.fingerprint for tar, stock in stocks.items()}
    inputs |= {path.as_posix(): sha256_of(path) for tar in stocks if (path := tar.with_suffix(".parquet")).is_file()}

    def rows() -> Iterator[SourceRow]:
        of_tars = (rows_of(tar, stock, sidecar(tar.with_suffix(".parquet"))) for tar, stock in stocks.items())
        for index, row in enumerate(chain.from_iterable(of_tars)):
            yield replace(row, key=f"{shard.name}-{index:06d}")

    SOURCE.write_table(manifest, {"kind": "webdataset"}, inputs, rows)


def rows_of(tar: Path, stock: TarIndex, metadata: Mapping[str, SampleMetadata]) -> Iterator[SourceRow]:
    """Yield rows without keys: the samples of a tar, then those that only the parquet lists."""
    keys, repeated = set[str](), 0
    for parts in samples_in(stock.members):
        keys.add(parts.key)
        repeated += parts.repeats > 0
        yield _row(parts, tar, metadata.get(parts.key, NOTHING) if parts.repeats == 0 else NOTHING)
    if repeated:
        log.info("%s: %d samples repeat the key of an earlier sample", tar, repeated)
    for key, of_key in metadata.items():
        if key not in keys:
            yield _row(Parts(key, 0), tar, of_key)


def sidecar(path: Path) -> dict[str, SampleMetadata]:
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
        rows = pq.read_table(path, columns=[name for name in SIDECAR_COLUMNS if name in names]).to_pylist()
    except pa.ArrowException as error:
        raise ShardError(
            f"{path}: is not a parquet file, or is truncated ({error}). Fetch it again or move it away."
        ) from None
    return {to_valid_utf8(str(row["key"])): _metadata(row) for row in rows}


def read_json(content: bytes | None) -> SampleMetadata:
    """Return the metadata in the JSON of a sample."""
    if content is None:
        return NOTHING
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        return SampleMetadata(is_broken=True)
    return _metadata(values) if isinstance(values, dict) else SampleMetadata(is_broken=True)


def _metadata(values: Mapping[str, Any]) -> SampleMetadata:
    several = values.get("captions")
    return SampleMetadata(
        caption=_text(values.get("caption")),
        captions=tuple(text for text in several if isinstance(text, str)) if isinstance(several, list) else (),
        url=_text(values.get("url")),
        status=_text(values.get("status")),
        error=_text(values.get("error_message")),
    )


def _text(value: Any) -> str | None:
    return to_valid_utf8(value) if isinstance(value, str) else None


def _row(parts: Parts, tar: Path, of_key: SampleMetadata) -> SourceRow:
    in_json = read_json(parts.json)
    captions = _captions(parts, in_json, of_key)
    reason = _reason(parts, in_json, of_key, has_text=bool(captions))
    image = parts.image
    return SourceRow(
        key="",
        kept=reason is None,
        reason=reason,
        source_key=parts.key,
        file=tar.as_posix() if image else None,
        offset=image.offset if image else 0,
        size=image.size if image else 0,
        captions=captions,
        url=in_json.url or of_key.url,
        error=of_key.error,
    )


def _captions(parts: Parts, in_json: SampleMetadata, of_key: SampleMetadata) -> list[str]:
    own = decoded(parts.text) if parts.text is not None else in_json.caption
    if own is None and not in_json.captions:
        own = of_key.caption
    captions = captions_of([] if own is None else [own])
    return captions_of([*captions, *(text for text in captions_of(in_json.captions) if text not in captions)])


def _reason(parts: Parts, in_json: SampleMetadata, of_key: SampleMetadata, *, has_text: bool) -> str | None:
    if parts.image is None:
        failed = of_key.status not in (None, SUCCESS)
        return STATUS_REASONS.get(of_key.status or "", "download-failed") if failed else "no-image"
    if has_text:
        return None
    return "bad-json" if in_json.is_broken else "no-text"

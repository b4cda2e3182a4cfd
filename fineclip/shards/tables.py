"""The parquet tables between the stages: a typed row for each sample that came in, kept or dropped with its reason."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from fineclip.errors import ShardError
from fineclip.shards.atomic import atomic, sha256_of
from fineclip.shards.manifest import Job, read_manifest

BOX_FIELDS = [("x1", pa.float64()), ("y1", pa.float64()), ("x2", pa.float64()), ("y2", pa.float64())]
ANNOTATIONS = pa.list_(pa.struct([*BOX_FIELDS, ("label", pa.string())]))
REGIONS = pa.list_(pa.struct([*BOX_FIELDS, ("score", pa.float64()), ("label", pa.string())]))
REGION_CAPTIONS = pa.list_(pa.struct([("caption", pa.string()), ("logprob", pa.float64())]))
BENCHMARK_BOXES = pa.list_(pa.struct([*BOX_FIELDS, ("label", pa.int32())]))
TEXTS = pa.list_(pa.string())


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What every table says of a sample: it was kept, or dropped for a reason."""

    SCHEMA: ClassVar[list[tuple[str, pa.DataType]]] = []

    key: str
    kept: bool
    reason: str | None = None

    @classmethod
    def schema(cls) -> pa.Schema:
        """Columns in order."""
        common = [("key", pa.string()), ("kept", pa.bool_()), ("reason", pa.string())]
        return pa.schema([*common, *cls.SCHEMA])


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRow(Row):
    """A sample as it came. Its bytes are `size` bytes of `file` from `offset`, `file` seen from the working directory.

    `annotations` are the data set's own boxes, None where it has none for any image.
    """

    SCHEMA: ClassVar = [
        ("source_key", pa.string()),
        ("file", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("captions", TEXTS),
        ("url", pa.string()),
        ("error", pa.string()),
        ("annotations", ANNOTATIONS),
    ]

    source_key: str
    file: str | None = None
    offset: int = 0
    size: int = 0
    captions: list[str]
    url: str | None = None
    error: str | None = None
    annotations: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterRow(Row):
    """What the header says; width and height are 0 and `format` None where it could not be read."""

    SCHEMA: ClassVar = [
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        ("sha256", pa.string()),
    ]

    width: int
    height: int
    format: str | None
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectRow(Row):
    """A sample that a scale looked at, in the order of the scale."""

    SCHEMA: ClassVar = [("shard", pa.string())]

    shard: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectRow(Row):
    """Regions of an image, best first: x1 y1 x2 y2 in pixels of the stored image, score, label."""

    SCHEMA: ClassVar = [("width", pa.int32()), ("height", pa.int32()), ("regions", REGIONS)]

    width: int
    height: int
    regions: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionRow(Row):
    """Captions of an image's regions, in the order of the detect table. `logprob` is the mean of a token, or None.

    A caption is empty where the captioner says nothing, None where nobody was asked: given captions lack that region.
    """

    SCHEMA: ClassVar = [("regions", REGION_CAPTIONS)]

    regions: list[dict[str, Any]]

    @property
    def uncaptioned(self) -> list[str]:
        """Why there is no caption, for each region without one: `missing-key` or `empty`."""
        captions = (region["caption"] for region in self.regions)
        return ["missing-key" if caption is None else "empty" for caption in captions if not caption]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRow(Row):
    """Where a packed sample lies in the tar beside the index: bytes of its image and of its json."""

    SCHEMA: ClassVar = [
        ("image_offset", pa.int64()),
        ("image_size", pa.int64()),
        ("json_offset", pa.int64()),
        ("json_size", pa.int64()),
        ("regions", pa.int32()),
    ]

    image_offset: int = 0
    image_size: int = 0
    json_offset: int = 0
    json_size: int = 0
    regions: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkRow(Row):
    """An image of a benchmark: where its bytes lie, their hash, its captions or its boxes.

    A box's `label` counts in the list of classes beside the table.
    """

    SCHEMA: ClassVar = [
        ("file", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("captions", TEXTS),
        ("boxes", BENCHMARK_BOXES),
    ]

    file: str
    offset: int
    size: int
    sha256: str
    width: int
    height: int
    captions: list[str]
    boxes: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptRow(Row):
    """A name that regions or captions of a scale give; `key` is the name, `count` how many of them do."""

    SCHEMA: ClassVar = [("count", pa.int64())]

    count: int


R = TypeVar("R", bound=Row)


class TableWriter(Generic[R]):
    """Collects the rows of one job, then writes the table and, last, the manifest. On an error nothing is written.

    Counts are taken from the rows; `regions` of a kept row counts for the manifest where the row has such a field.
    """

    def __init__(self, job: Job, row_type: type[R], *, also: tuple[Path, ...] = ()) -> None:
        self.job, self.row_type, self.also = job, row_type, also
        self.rows: list[R] = []

    def write(self, row: R) -> None:
        """One row more. A dropped row must have a reason, a kept one none."""
        if row.kept == (row.reason is not None):
            raise AssertionError(f"{row.key}: kept={row.kept} with reason {row.reason!r}")
        self.rows.append(row)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is not None:
            return
        path = self.job.manifest.with_suffix(".parquet")
        write_table(path, self.rows, self.row_type)
        dropped = Counter(row.reason for row in self.rows if row.reason is not None)
        kept = [row for row in self.rows if row.kept]
        self.job.finish(
            [path, *self.also],
            read=len(self.rows),
            kept=len(kept),
            dropped=dropped,
            regions=sum(map(_regions_of, kept)),
            uncaptioned=Counter(reason for row in kept if isinstance(row, CaptionRow) for reason in row.uncaptioned),
        )


def _regions_of(row: Row) -> int:
    regions = getattr(row, "regions", 0)
    return regions if isinstance(regions, int) else len(regions)


def write_table(path: Path, rows: list[R], row_type: type[R]) -> None:
    """Parquet, whole or not at all, the same bytes for the same rows."""
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=row_type.schema())
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def table_of(manifest: Path) -> Path:
    """The table that a manifest vouches for.

    Raises:
        ShardError: it is gone, or not the one that the manifest names.
    """
    path = manifest.with_suffix(".parquet")
    expected = read_manifest(manifest).outputs.get(path.name)
    if expected is None or not path.is_file():
        raise ShardError(f"{path}: is gone. Delete {manifest} and run again.")
    if sha256_of(path) != expected:
        raise ShardError(f"{path}: is not the table that {manifest.name} names. Delete {manifest} and run again.")
    return path


def read_rows(manifest: Path, row_type: type[R]) -> Iterator[R]:
    """Every row of a manifest's table, in order.

    Raises:
        ShardError: the table is gone, changed, or has other columns.
    """
    path = table_of(manifest)
    names = [column.name for column in fields(row_type)]
    try:
        table = pq.read_table(path, columns=names)
    except (pa.ArrowException, KeyError) as error:
        raise ShardError(
            f"{path}: is no {row_type.__name__} table ({error}). Delete {manifest} and run again."
        ) from None
    for batch in table.to_batches(max_chunksize=1024):
        for values in batch.to_pylist():
            yield row_type(**values)


def kept_rows(manifest: Path, row_type: type[R]) -> Iterator[R]:
    """The rows that go on to the next stage."""
    return (row for row in read_rows(manifest, row_type) if row.kept)

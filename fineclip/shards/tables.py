"""Parquet tables between the stages: one typed row per input sample, kept, or dropped with a reason.

The columns of a table follow from the fields of its row type, and `encode_row` and `decode_rows` are the only functions that
convert between the two. Nested types become structs; a `Box` in one becomes the columns x1, y1, x2, y2.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Generic, NamedTuple, Self, TypeVar, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from fineclip.errors import ShardError
from fineclip.shards.atomic import atomic
from fineclip.shards.manifest import Job, verified_output
from fineclip.types import Box, LabeledBox, Region, RegionCaption

Int32 = Annotated[int, pa.int32()]


class BenchmarkBox(NamedTuple):
    """A box of a benchmark image. `label` is an index into the list of classes beside the table."""

    box: Box
    label: Int32


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Columns of every table: the key of the sample, and whether it was kept or for which reason it was dropped."""

    key: str
    kept: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRow(Row):
    """A sample of the source. Its image is `size` bytes of `file` from `offset`; `file` is relative to the working directory.

    `annotations` are the boxes of the data set, None where it has none for any image. They refer to an image of `stated_width` x
    `stated_height` pixels, as their file states it; None where it states none.
    """

    source_key: str
    file: str | None = None
    offset: int = 0
    size: int = 0
    captions: list[str]
    url: str | None = None
    error: str | None = None
    annotations: list[LabeledBox] | None = None
    stated_width: int | None = None
    stated_height: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterRow(Row):
    """Header of an image: width and height are 0 and `format` is None where it could not be read."""

    width: Int32
    height: Int32
    format: str | None
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectRow(Row):
    """A sample that was considered for a scale, in the order of the scale, and the name of its shard."""

    shard: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectRow(Row):
    """Regions of an image, best first, without captions. Width and height are those of the stored image."""

    width: Int32
    height: Int32
    regions: list[Region]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionRow(Row):
    """Captions of the regions of an image, in the order of the detect table.

    A caption is empty where the captioner returned nothing, and None where external captions lack the region.
    """

    regions: list[RegionCaption]

    @property
    def uncaptioned(self) -> list[str]:
        """The reason, `missing-key` or `empty`, for each region without a caption."""
        captions = (region.caption for region in self.regions)
        return ["missing-key" if caption is None else "empty" for caption in captions if not caption]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRow(Row):
    """Byte ranges of a packed sample, its image and its JSON, in the tar beside the table; `regions` is their number."""

    image_offset: int = 0
    image_size: int = 0
    json_offset: int = 0
    json_size: int = 0
    regions: Int32 = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkRow(Row):
    """An image of a benchmark: the byte range of its file, the hash of those bytes, and its captions or boxes."""

    file: str
    offset: int
    size: int
    sha256: str
    width: Int32
    height: Int32
    captions: list[str]
    boxes: list[BenchmarkBox]

    @property
    def regions(self) -> list[BenchmarkBox]:
        """The boxes; the manifest counts them as regions."""
        return self.boxes


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptRow(Row):
    """A name of regions or captions of a scale. `key` is the name and `count` the number of its regions or captions."""

    count: int


R = TypeVar("R", bound=Row)

_EDGES = [(edge, pa.float64()) for edge in Box._fields]
COLUMN_TYPES: dict[Any, pa.DataType] = {
    bool: pa.bool_(),
    int: pa.int64(),
    Int32: pa.int32(),
    float: pa.float64(),
    str: pa.string(),
    list[str]: pa.list_(pa.string()),
}
COLUMN_TYPES |= {annotation | None: column for annotation, column in COLUMN_TYPES.items()}


def schema_of(row_type: type) -> pa.Schema:
    """Return the columns of a table of rows, in the order of the fields."""
    return pa.schema(_columns(row_type))


def _columns(record: Any) -> list[tuple[str, pa.DataType]]:
    nested, columns = _nested(record), []
    for name, annotation in _fields(record).items():
        if annotation is Box:
            columns += _EDGES
        elif name in nested:
            columns.append((name, pa.list_(pa.struct(_columns(nested[name])))))
        else:
            columns.append((name, COLUMN_TYPES[annotation]))
    return columns


@cache
def _fields(record: Any) -> dict[str, Any]:
    """Return the annotation of each field of a row or nested type that a table holds."""
    hints = get_type_hints(record, include_extras=True)
    if record is Region:
        del hints["caption"]  # captions have a table of their own
    return hints


@cache
def _nested(record: Any) -> dict[str, Any]:
    """Return X for each field of type `list[X]` or `list[X] | None` where X is a nested type."""
    inner = {name: get_args(hint)[0] for name, hint in _fields(record).items() if hint not in (Box, *COLUMN_TYPES)}
    return {name: get_args(one)[0] if get_origin(one) is list else one for name, one in inner.items()}


def encode_row(row: Row) -> dict[str, Any]:
    """Return the values of a row by column."""
    row_type: Any = type(row)
    values = {name: getattr(row, name) for name in _fields(row_type)}
    for name, nested in _nested(row_type).items():
        if values[name] is not None:
            values[name] = [_encode(one, nested) for one in values[name]]
    return values


def _encode(value: Any, nested: Any) -> dict[str, Any]:
    """Return the values of a nested type by the columns of its struct."""
    values = {name: getattr(value, name) for name in _fields(nested)}
    if "box" in values:
        values |= values.pop("box")._asdict()
    return values


def _decode(values: dict[str, Any], nested: Any) -> Any:
    """Return the nested type of the values of a struct; `values` is changed."""
    if "x1" in values:
        values["box"] = Box(*(values.pop(edge) for edge in Box._fields))
    return nested(**values)


def decode_rows(table: pa.Table | pa.RecordBatch, row_type: type[R]) -> Iterator[R]:
    """Yield the rows of a table in memory whose columns are those of `row_type`."""
    record: Any = row_type
    for values in table.to_pylist():
        for name, nested in _nested(record).items():
            if values.get(name) is not None:
                values[name] = [_decode(struct, nested) for struct in values[name]]
        yield row_type(**values)


class TableWriter(Generic[R]):
    """Collect the rows of one job, then write the table and, last, the manifest. After an error nothing is written.

    The counts of the manifest are those of the rows; `regions` counts the regions of kept rows that have such a field.

    Args:
        job: The job; its table is written beside its manifest.
        row_type: Type of every row.
        also: Other outputs, complete when the block ends.
        reasons: Reasons that a row may have; None allows any.
    """

    def __init__(
        self, job: Job, row_type: type[R], *, also: Sequence[Path] = (), reasons: Collection[str] | None = None
    ) -> None:
        self.job, self.row_type, self.also, self.reasons = job, row_type, also, reasons
        self.rows: list[R] = []

    def write(self, row: R) -> None:
        """Append a row. A dropped row must have a reason, and a kept one none."""
        if row.kept == (row.reason is not None):
            raise AssertionError(f"{row.key}: kept={row.kept} with reason {row.reason!r}")
        if self.reasons is not None and row.reason is not None and row.reason not in self.reasons:
            raise AssertionError(f"{row.key}: stage {self.job.stage} declares no reason {row.reason!r}")
        self.rows.append(row)

    def write_all(self, rows: Iterable[R]) -> None:
        """Append rows in order."""
        for row in rows:
            self.write(row)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is not None:
            return
        path = self.job.manifest.with_suffix(".parquet")
        table = pa.Table.from_pylist([encode_row(row) for row in self.rows], schema=schema_of(self.row_type))
        with atomic(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
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


def table_of(manifest: Path) -> Path:
    """Return the path of the table of a manifest, after a check of its hash.

    Args:
        manifest: Path of the manifest; the table has the same name with the suffix .parquet.

    Returns:
        Path of the verified table.

    Raises:
        ShardError: The table is absent, or is not the one that the manifest names.
    """
    return verified_output(manifest, f"{manifest.stem}.parquet")


def read_rows(manifest: Path, row_type: type[R]) -> Iterator[R]:
    """Yield every row of the table of a manifest, in order.

    Args:
        manifest: Path of the manifest.
        row_type: Row type; only its columns are read.

    Yields:
        Rows, kept and dropped.

    Raises:
        ShardError: The table is absent, changed, or lacks a column of `row_type`.
    """
    path = table_of(manifest)
    names = [column.name for column in fields(row_type)]
    try:
        with pq.ParquetFile(path) as file:  # `pq.read_table` imports pandas
            table = file.read(columns=names).select(names)
    except (pa.ArrowException, KeyError) as error:
        raise ShardError(
            f"{path}: is not a {row_type.__name__} table ({error}). Delete {manifest} and run again."
        ) from None
    for batch in table.to_batches(max_chunksize=1024):
        yield from decode_rows(batch, row_type)


def kept_rows(manifest: Path, row_type: type[R]) -> Iterator[R]:
    """Yield the kept rows of the table of a manifest, in order."""
    return (row for row in read_rows(manifest, row_type) if row.kept)

"""Files between the stages: manifests, tables, packed shards. Writes are atomic; equal content gives equal bytes."""

from fineclip.shards.atomic import atomic, sha256_of, write_bytes, write_text
from fineclip.shards.byte_ranges import ByteRange, ByteRangeReader
from fineclip.shards.manifest import Job, Manifest, hashes_of, input_manifest, invalidate, read_manifest
from fineclip.shards.packed import TarAppender, add_sample, read_description, read_sample
from fineclip.shards.tables import (
    BenchmarkBox,
    BenchmarkRow,
    CaptionRow,
    ConceptRow,
    DetectRow,
    FilterRow,
    PackRow,
    Row,
    SelectRow,
    SourceRow,
    TableWriter,
    decode_rows,
    kept_rows,
    read_rows,
    table_of,
)
from fineclip.shards.texts import TextsFile, write_texts

__all__ = [
    "BenchmarkBox",
    "BenchmarkRow",
    "ByteRange",
    "ByteRangeReader",
    "CaptionRow",
    "ConceptRow",
    "DetectRow",
    "FilterRow",
    "Job",
    "Manifest",
    "PackRow",
    "Row",
    "SelectRow",
    "SourceRow",
    "TableWriter",
    "TarAppender",
    "TextsFile",
    "add_sample",
    "atomic",
    "decode_rows",
    "hashes_of",
    "input_manifest",
    "invalidate",
    "kept_rows",
    "read_description",
    "read_manifest",
    "read_rows",
    "read_sample",
    "sha256_of",
    "table_of",
    "write_bytes",
    "write_text",
    "write_texts",
]

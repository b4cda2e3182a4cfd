"""Shards made by hand, for the stages behind `source`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fineclip.config import FilterConfig
from fineclip.shards import Job, SourceRow, TableWriter
from fineclip.stages.filter import filter_shard
from fineclip.types import Box, LabeledBox

ANY = FilterConfig(min_side_px=1, max_aspect=1000, min_words=1)


@dataclass(frozen=True)
class Item:
    """A sample as it came."""

    image: bytes
    captions: list[str] = field(default_factory=lambda: ["a thing"])
    annotations: list[LabeledBox] | None = None
    url: str | None = None
    source_key: str | None = None
    stated: tuple[int | None, int | None] = (None, None)


def box(x1: float, y1: float, x2: float, y2: float, label: str = "cat") -> LabeledBox:
    return LabeledBox(Box(x1, y1, x2, y2), label)


def write_source(folder: Path, items: Sequence[Item], *, name: str = "s") -> Path:
    """The manifest of a source shard whose images lie one behind another in one file."""
    manifest = folder / f"source/{name}.json"
    pieces = manifest.with_suffix(".bin")
    pieces.parent.mkdir(parents=True, exist_ok=True)
    pieces.write_bytes(b"".join(item.image for item in items))
    offset = 0
    with TableWriter(Job(manifest, "source", 1, {"shard": name}, inputs={}), SourceRow) as table:
        for index, item in enumerate(items):
            row = SourceRow(
                key=f"{name}-{index:06d}",
                kept=True,
                source_key=str(index) if item.source_key is None else item.source_key,
                file=pieces.as_posix(),
                offset=offset,
                size=len(item.image),
                captions=item.captions,
                annotations=item.annotations,
                stated_width=item.stated[0],
                stated_height=item.stated[1],
                url=item.url,
            )
            table.write(row)
            offset += len(item.image)
    return manifest


def write_filtered(folder: Path, items: Sequence[Item], *, name: str = "s", config: FilterConfig = ANY) -> Path:
    """The manifest of the filter over a source shard."""
    manifest = folder / f"filter/{name}.json"
    filter_shard(write_source(folder, items, name=name), manifest, config)
    return manifest

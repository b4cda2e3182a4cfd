"""Tables of external boxes and captions: one row per image of the JSON, and the rows of the images of a shard."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from fineclip.boxes import from_xywh
from fineclip.config import (
    Blip2Caption,
    BoxesFilesDetect,
    BoxesJsonDetect,
    CaptionConfig,
    CaptionsJsonCaption,
    DetectConfig,
    YoloDetect,
)
from fineclip.errors import ConfigError, DataError, ShardError
from fineclip.identity import identity
from fineclip.readers.boxes import FramedBoxes, StatedSize
from fineclip.readers.names import ImageNames, canonical_name
from fineclip.shards import Row, decode_rows, read_manifest, table_of
from fineclip.stages.declaration import Input

LIMITS = ("max_regions", "min_side_px", "max_side_px")  # applied by the jobs of the shards; not part of the table

Int32 = Annotated[int, pa.int32()]

ExternalConfig = BoxesJsonDetect | BoxesFilesDetect | CaptionsJsonCaption


class ExternalBox(NamedTuple):
    """A box of the JSON as written: corner and size in pixels, not clipped or rounded."""

    x: float
    y: float
    width: float
    height: float
    score: float
    label: str


class ExternalCaption(NamedTuple):
    """A caption of the JSON and the corner and size of its box in whole pixels."""

    x: Int32
    y: Int32
    width: Int32
    height: Int32
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalBoxesRow(Row):
    """An image of a JSON of boxes: name, stated size if any, and boxes in file order."""

    width: int | None
    height: int | None
    regions: list[ExternalBox]

    def framed(self) -> FramedBoxes:
        """Return the boxes with the size that the JSON states."""
        boxes = [from_xywh(*region[:4]) for region in self.regions]
        return FramedBoxes(self.key, boxes, StatedSize(self.width, self.height))


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnBoxesRow(ExternalBoxesRow):
    """An image with own boxes: as above, or with boxes in fractions of its width and height."""

    fractions: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalCaptionsRow(Row):
    """An image of a JSON of captions: name, and the captions of its boxes."""

    regions: list[ExternalCaption]


R = TypeVar("R", ExternalBoxesRow, OwnBoxesRow, ExternalCaptionsRow)


def table_identity(config: ExternalConfig) -> dict[str, Any]:
    """Return the part of the configuration that determines the table: limits apply later, in the job of a shard."""
    return {name: value for name, value in identity(config).items() if name not in LIMITS}


def annotations_input(row: type[Row], *, engine: str) -> Input:
    """Return the declaration of the input of a stage that may read released annotations.

    Args:
        row: Type of the rows that are read.
        engine: Engine that needs them.

    Returns:
        Optional input `--annotations`.
    """
    return Input(stage="given", reads=(row,), note=f"for engine {engine}", option="annotations", required=False)


def engine_inputs(
    shard: Path, config: DetectConfig | CaptionConfig, *, weights: Path | None, annotations: Path | None
) -> list[Path]:
    """Return the inputs of a job that finds or captions regions: the shard, and the manifest that its engine needs.

    Args:
        shard: Manifest of the stage before.
        config: Entry of `detect` or `caption`.
        weights: Manifest of `weights`, for engines with a model.
        annotations: Manifest of `import-annotations`, for engines with a JSON.

    Returns:
        One or two manifests.

    Raises:
        ConfigError: The engine lacks its manifest, or the table was made from another JSON or with other keys.
        ShardError: The manifest does not exist.
    """
    if isinstance(config, YoloDetect | Blip2Caption):
        if weights is None:
            raise ConfigError(f"engine {config.engine} needs weights. Pass their manifest: --weights FILE")
        return [shard, weights]
    if not isinstance(config, ExternalConfig):
        return [shard]
    if annotations is None:
        raise ConfigError(
            f"engine {config.engine} needs the table of {config.path}. Make it with `fineclip import-annotations` and pass its"
            " manifest: --annotations FILE"
        )
    made = read_manifest(annotations)
    if made.stage != "given" or made.config != table_identity(config):
        raise ConfigError(
            f"{annotations}: is of {made.stage} {dict(made.config)}, expected given {table_identity(config)}. Make it again with"
            " `fineclip import-annotations` and the same configuration."
        )
    return [shard, annotations]


def require_one_image_each(source_keys: Mapping[str, str], rows: Mapping[str, Row], *, where: str) -> None:
    """Check that no two samples take the same row of a table.

    Args:
        source_keys: Source key of each sample of a shard by key.
        rows: Row of each sample that the table contains, by key.
        where: File of the boxes or captions, for messages.

    Raises:
        DataError: Two images of different names have the same row.
    """
    named: dict[str, str] = {}
    for key, row in rows.items():
        earlier, name = named.setdefault(row.key, source_keys[key]), source_keys[key]
        if canonical_name(earlier) != canonical_name(name):
            raise DataError(
                f"{where}: the label of {row.key} could be of {earlier} as well as of {name}. Put labels into folders with the names of"
                " those of the images, or give one of the images another name."
            )


def rows_for(manifest: Path, row_type: type[R], source_keys: Mapping[str, str]) -> dict[str, R]:
    """Return the rows of samples by key, without samples whose image is not in the table.

    Args:
        manifest: Manifest of `import-annotations`.
        row_type: Row type of its table.
        source_keys: Source key of each sample by key.

    Returns:
        Row of each sample that the table contains.

    Raises:
        DataError: A source key matches several images.
        ShardError: The table is absent, changed, or of another type.
    """
    path, columns = table_of(manifest), [column.name for column in fields(row_type)]
    try:
        images = pq.read_table(path, columns=["key"])["key"].to_pylist()
        names = ImageNames(images, where=str(manifest))
        found = {key: names.find(source_key) for key, source_key in source_keys.items()}
        named = {key: images[place] for key, place in found.items() if place is not None}
        if not named:
            return {}
        part = pq.read_table(path, columns=columns, filters=[("key", "in", set(named.values()))])
    except (pa.ArrowException, KeyError) as error:
        raise ShardError(
            f"{path}: is not a {row_type.__name__} table ({error}). Delete {manifest} and run again."
        ) from None
    rows = {row.key: row for row in decode_rows(part, row_type)}
    return {key: rows[name] for key, name in named.items()}

"""Which samples a training reads, and what fell out between `select` and `pack`.

`select` says which samples a scale has, shard by shard; `pack` says which of them came through and where their bytes lie.
They are joined by key. A selected sample that is not packed is lost: it is counted under the reason that the stage
gave which dropped it, and more than `train.max_lost` of them stop the training. An image without regions is not lost: it
trains the global terms, or is left out under `train.require_region`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fineclip.config import TrainConfig
from fineclip.errors import ShardError, TrainingError
from fineclip.shards import (
    CaptionRow,
    DetectRow,
    PackRow,
    PieceReader,
    Row,
    read_manifest,
    read_rows,
    read_sample,
)
from fineclip.types import Sample

PLACES = ("image_offset", "image_size", "json_offset", "json_size", "regions")
UPSTREAM: Mapping[str, type[Row]] = {"caption": CaptionRow, "detect": DetectRow}


@dataclass(frozen=True)
class PackedShard:
    """The samples of one shard that a training uses, in the order of the selection.

    Kept in arrays: there are millions, and every worker has a copy.

    Attributes:
        keys: UTF-8.
        places: a row for each sample, columns `PLACES`.
    """

    tar: Path
    keys: npt.NDArray[np.bytes_]
    places: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def regions(self) -> npt.NDArray[np.int64]:
        """Of each sample, how many there are."""
        return self.places[:, PLACES.index("regions")]

    def only(self, wanted: npt.NDArray[np.bool_]) -> "PackedShard":
        """The samples for which `wanted` is true."""
        return PackedShard(self.tar, self.keys[wanted], self.places[wanted])

    def read(self, index: int, reader: PieceReader) -> Sample:
        """One sample.

        Raises:
            ShardError: the tar is gone, cut, or not the one of its index.
        """
        image_offset, image_size, json_offset, json_size, regions = map(int, self.places[index])
        row = PackRow(
            key=self.keys[index].decode(),
            kept=True,
            image_offset=image_offset,
            image_size=image_size,
            json_offset=json_offset,
            json_size=json_size,
            regions=regions,
        )
        return read_sample(reader, self.tar, row)


@dataclass(frozen=True)
class Selection:
    """What a training reads. `selected == samples + sum(lost.values()) + without_region`.

    Attributes:
        lost: selected samples that are not packed, by reason.
        without_region: packed samples left out because they have no region.
    """

    shards: tuple[PackedShard, ...]
    selected: int
    lost: Mapping[str, int]
    without_region: int

    @property
    def samples(self) -> int:
        """Samples in use."""
        return sum(map(len, self.shards))

    @property
    def regions(self) -> int:
        """Regions of the samples in use."""
        return sum(int(shard.regions.sum()) for shard in self.shards)

    @property
    def left_out(self) -> dict[str, int]:
        """Everything that is selected and not in use, by reason."""
        return {**self.lost, **({"no-region": self.without_region} if self.without_region else {})}


def read_selection(keys: Mapping[str, Sequence[str]], manifests: Mapping[str, Path], config: TrainConfig) -> Selection:
    """Join the selection with what is packed.

    Raises:
        TrainingError: more than `config.max_lost` of the samples are lost, or none is left.
        ShardError: an index or tar is gone, or is not the one that its manifest names.
    """
    shards, lost, without_region = [], Counter[str](), 0
    for name, selected in keys.items():
        shard, reasons = join(selected, manifests[name])
        lost.update(reasons)
        wanted = shard.regions > 0 if config.require_region else np.full(len(shard), fill_value=True)
        without_region += int((~wanted).sum())
        shards.append(shard.only(wanted))
    selection = Selection(tuple(shards), sum(map(len, keys.values())), dict(sorted(lost.items())), without_region)
    _require_enough(selection, config)
    return selection


def join(selected: Sequence[str], manifest: Path) -> tuple[PackedShard, Counter[str]]:
    """The selected samples of one shard that are packed, and the reasons of those that are not."""
    rows: dict[str, PackRow] = {row.key: row for row in read_rows(manifest, PackRow)}
    used = [rows[key] for key in selected if key in rows and rows[key].kept]
    lost = Counter(rows[key].reason or "not-packed" for key in selected if key in rows and not rows[key].kept)
    if absent := [key for key in selected if key not in rows]:
        reasons = dropped_upstream(manifest)
        lost.update(reasons.get(key, "not-packed") for key in absent)
    tar = manifest.with_suffix(".tar")
    if used and not tar.is_file():
        raise ShardError(f"{tar}: is gone. Delete {manifest} and run again.")
    places = np.array([[getattr(row, place) for place in PLACES] for row in used], dtype=np.int64)
    keys = np.array([row.key.encode() for row in used], dtype=np.bytes_)
    return PackedShard(tar, keys, places.reshape(-1, len(PLACES))), lost


def dropped_upstream(manifest: Path) -> dict[str, str]:
    """Why the stages between `filter` and `pack` dropped what they dropped, by key, as far as their tables are there."""
    return dict(_dropped_upstream(manifest))


def _dropped_upstream(manifest: Path) -> Iterator[tuple[str, str]]:
    for path in map(Path, read_manifest(manifest).inputs):
        if path.suffix != ".json" or not path.is_file():
            continue
        row_type = UPSTREAM.get(read_manifest(path).stage)
        if row_type is not None:
            yield from _dropped_upstream(path)
            yield from ((row.key, row.reason) for row in read_rows(path, row_type) if row.reason is not None)


def _require_enough(selection: Selection, config: TrainConfig) -> None:
    lost, selected = sum(selection.lost.values()), selection.selected
    counts = ", ".join(f"{count} {reason}" for reason, count in selection.left_out.items()) or "none"
    if lost > config.max_lost * selected:
        raise TrainingError(
            f"train.max_lost: {lost} of {selected} selected samples ({100 * lost / selected:.2f} %) are not packed: {counts}."
            f" At most {100 * config.max_lost:g} % may be lost. Find out why, or raise train.max_lost."
        )
    if not selection.samples:
        raise TrainingError(
            f"no sample is left to train on, of {selected} selected; left out: {counts}."
            " Select more, or set train.require_region: false."
        )

"""Samples of a training run: the join of the selection with the packed shards.

`select` lists the selected keys of each shard; `pack` lists the packed samples and their byte ranges. They are joined by key. A
selected sample that is not packed is missing; it is counted under the reason of the stage that dropped it. More than
`train.max_missing_fraction` of them stop the run. An image without regions is not missing: it trains the global terms, or is left out under
`train.require_region`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fineclip.config import TrainConfig
from fineclip.errors import ShardError, TrainingError
from fineclip.shards import (
    ByteRangeReader,
    CaptionRow,
    DetectRow,
    PackRow,
    Row,
    read_manifest,
    read_rows,
    read_sample,
)
from fineclip.types import Sample

INDEX_COLUMNS = ("image_offset", "image_size", "json_offset", "json_size", "regions")
UPSTREAM: Mapping[str, type[Row]] = {"caption": CaptionRow, "detect": DetectRow}


@dataclass(frozen=True)
class PackedShard:
    """Samples of one packed shard that a training run uses, in the order of the selection.

    Samples are rows of arrays, because there may be millions of them.

    Attributes:
        tar: Packed shard.
        keys: (n,) keys in UTF-8.
        index: (n, 5) byte ranges and numbers of regions, columns `INDEX_COLUMNS`.
    """

    tar: Path
    keys: npt.NDArray[np.bytes_]
    index: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def regions(self) -> npt.NDArray[np.int64]:
        """Number of regions of each sample, (n,)."""
        return self.index[:, INDEX_COLUMNS.index("regions")]

    def masked(self, mask: npt.NDArray[np.bool_]) -> "PackedShard":
        """Return the samples for which the mask (n,) is true."""
        return PackedShard(self.tar, self.keys[mask], self.index[mask])

    def read(self, number: int, reader: ByteRangeReader) -> Sample:
        """Read one sample.

        Args:
            number: Position in this shard, from 0.
            reader: Reader that keeps tars open.

        Returns:
            Sample with its encoded image, captions and regions.

        Raises:
            ShardError: The tar is missing, truncated, or does not match its index.
        """
        values: dict[str, Any] = dict(zip(INDEX_COLUMNS, self.index[number].tolist(), strict=True))
        return read_sample(reader, self.tar, PackRow(key=self.keys[number].decode(), kept=True, **values))


@dataclass(frozen=True)
class Selection:
    """Samples of a training run. `selected == samples + sum(lost.values()) + without_region`.

    Attributes:
        shards: Shards in the order of the selection.
        selected: Number of selected samples.
        lost: Number of selected samples that are not packed, by reason.
        without_region: Number of packed samples left out because they have no region.
    """

    shards: tuple[PackedShard, ...]
    selected: int
    lost: Mapping[str, int]
    without_region: int

    @property
    def samples(self) -> int:
        """Number of samples in use."""
        return sum(map(len, self.shards))

    @property
    def regions(self) -> int:
        """Number of regions of the samples in use."""
        return sum(int(shard.regions.sum()) for shard in self.shards)

    @property
    def left_out(self) -> dict[str, int]:
        """Number of selected samples that are not in use, by reason."""
        return {**self.lost, **({"no-region": self.without_region} if self.without_region else {})}


def read_selection(keys: Mapping[str, Sequence[str]], manifests: Mapping[str, Path], config: TrainConfig) -> Selection:
    """Join the selection with the packed shards.

    Args:
        keys: Selected keys of each shard, in the order of the selection.
        manifests: Manifest of `pack` of each shard.
        config: Its `max_missing_fraction` and `require_region` are used.

    Returns:
        Samples to train on, and counts of the others by reason.

    Raises:
        TrainingError: More than `config.max_missing_fraction` of the samples are missing, or none is left.
        ShardError: An index or tar is missing, or its hash differs from the manifest.
    """
    shards, lost, without_region = [], Counter[str](), 0
    for name, selected in keys.items():
        shard, reasons = join_shard(selected, manifests[name])
        lost.update(reasons)
        used = shard.regions > 0 if config.require_region else np.full(len(shard), fill_value=True)
        without_region += int((~used).sum())
        shards.append(shard.masked(used))
    selection = Selection(tuple(shards), sum(map(len, keys.values())), dict(sorted(lost.items())), without_region)
    _require_enough(selection, config)
    return selection


def join_shard(selected: Sequence[str], manifest: Path) -> tuple[PackedShard, Counter[str]]:
    """Join the selected samples of one shard with its packed samples.

    Args:
        selected: Selected keys.
        manifest: Manifest of `pack`.

    Returns:
        Packed samples in the order of `selected`, and the number of the others by reason.

    Raises:
        ShardError: The tar is missing.
    """
    rows: dict[str, PackRow] = {row.key: row for row in read_rows(manifest, PackRow)}
    used = [rows[key] for key in selected if key in rows and rows[key].kept]
    lost = Counter(rows[key].reason or "not-packed" for key in selected if key in rows and not rows[key].kept)
    if absent := [key for key in selected if key not in rows]:
        reasons = dict(_upstream_reasons(manifest))
        lost.update(reasons.get(key, "not-packed") for key in absent)
    tar = manifest.with_suffix(".tar")
    if used and not tar.is_file():
        raise ShardError(f"{tar}: is missing. Delete {manifest} and run again.")
    index = np.array([[getattr(row, column) for column in INDEX_COLUMNS] for row in used], dtype=np.int64)
    packed_keys = np.array([row.key.encode() for row in used], dtype=np.bytes_)
    return PackedShard(tar, packed_keys, index.reshape(-1, len(INDEX_COLUMNS))), lost


def _upstream_reasons(manifest: Path) -> Iterator[tuple[str, str]]:
    """Yield key and reason of each sample that a stage between `filter` and `pack` dropped, if its table is present."""
    for path in map(Path, read_manifest(manifest).inputs):
        if path.suffix != ".json" or not path.is_file():
            continue
        row_type = UPSTREAM.get(read_manifest(path).stage)
        if row_type is not None:
            yield from _upstream_reasons(path)
            yield from ((row.key, row.reason) for row in read_rows(path, row_type) if row.reason is not None)


def _require_enough(selection: Selection, config: TrainConfig) -> None:
    lost, selected = sum(selection.lost.values()), selection.selected
    counts = ", ".join(f"{count} {reason}" for reason, count in selection.left_out.items()) or "none"
    if lost > config.max_missing_fraction * selected:
        raise TrainingError(
            f"train.max_missing_fraction: {lost} of {selected} selected samples ({100 * lost / selected:.2f} %) are not packed: {counts}."
            f" At most {100 * config.max_missing_fraction:g} % may be missing. Check these reasons, or raise train.max_missing_fraction."
        )
    if not selection.samples:
        raise TrainingError(
            f"none of the {selected} selected samples can be trained on: {counts}."
            " Select more, or set train.require_region: false."
        )

"""Draw a scale: the first kept samples of the prefix of shards, from the filter tables alone.

    benchmark    the image is, byte for byte, one of a benchmark that `leave_out` names
    repeated     these very bytes were taken before

Shards are read in their order and only as far as the scale needs. So a smaller scale is the beginning of a larger one,
and more shards behind the last that was needed change nothing: the manifest names those that were needed alone.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fineclip.config import SelectConfig
from fineclip.config.base import key
from fineclip.config.plan import ScaleConfig
from fineclip.errors import ConfigError, DataError
from fineclip.shards import (
    BenchmarkRow,
    FilterRow,
    SelectRow,
    kept_rows,
    read_manifest,
    read_rows,
)
from fineclip.stages.declaration import Input, Stage, stage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drawn:
    """What was looked at, in order, and how many of the shards that took."""

    rows: list[SelectRow]
    shards: int

    @property
    def kept(self) -> int:
        """Samples of the scale."""
        return sum(row.kept for row in self.rows)


def draw(shards: Iterable[tuple[str, Iterable[FilterRow]]], *, wanted: int | None, left_out: set[bytes]) -> Drawn:
    """The first `wanted` samples (None: all) that are neither repeated nor among `left_out`.

    Args:
        shards: name and kept rows of each, in order; read no further than it takes.
        wanted: how many.
        left_out: sha256 of images that must not be taken.
    """
    rows: list[SelectRow] = []
    taken: set[bytes] = set()
    read = 0
    for name, samples in shards:
        read += 1
        for sample in samples:
            digest = bytes.fromhex(sample.sha256)
            reason = "benchmark" if digest in left_out else "repeated" if digest in taken else None
            rows.append(SelectRow(key=sample.key, kept=reason is None, reason=reason, shard=name))
            if reason is None:
                taken.add(digest)
            if len(taken) == wanted:
                return Drawn(rows, read)
    return Drawn(rows, read)


class ScaledSelectConfig(SelectConfig):
    """Section `select` with the scale that is drawn."""

    scale: ScaleConfig = key(ScaleConfig(), origin="workflow plan", about="entry of `scales`")


SELECT = Stage(
    name="select",
    version=1,
    help="select the samples of a scale from filter tables",
    config=ScaledSelectConfig,
    section="select",
    inputs={
        "filters": Input(
            stage="filter", reads=(FilterRow,), help="manifests of `filter`, in the order of the shards", many=True
        ),
        "benchmarks": Input(
            stage="index",
            reads=(BenchmarkRow,),
            help="manifests of `index` whose images are left out",
            required=False,
            many=True,
        ),
    },
    row=SelectRow,
    reasons={
        "benchmark": "the same bytes are an image of a benchmark that select.leave_out names",
        "repeated": "the same bytes were selected earlier",
    },
    options={"scale": {"required": True, "help": "name of the scale"}},
)


@stage(SELECT)
def select_scale(
    filters: Sequence[Path],
    manifest: Path,
    config: ScaledSelectConfig,
    *,
    scale: str,
    benchmarks: Sequence[Path] = (),
) -> None:
    """Write the table of one scale, a row for each sample that was looked at, and then its `manifest`.

    `at_most` decides whether there is a scale, not what is in it, and is no part of its identity; nor are margin and
    share_kept.

    Args:
        filters: manifests of filter, in the order of the shards, whose names they bear.
        manifest: what is written last; its table lies beside it.
        config: what is left out, how many samples, and whether fewer will do.
        scale: name of the scale, for messages.
        benchmarks: manifests of index whose images are left out.

    Raises:
        ConfigError: there are not as many samples as the scale asks for; says how many, and which keys to change.
        DataError: there is none at all.
        ShardError: a table is gone or changed.
    """
    left_out = {bytes.fromhex(row.sha256) for path in benchmarks for row in read_rows(path, BenchmarkRow)}
    shards = ((path.stem, kept_rows(path, FilterRow)) for path in filters)
    drawn = draw(shards, wanted=config.scale.images, left_out=left_out)
    _require_enough(drawn, config.scale, name=scale, filters=filters)
    what = {"images": config.scale.images, "leave_out": list(config.leave_out)}
    job = SELECT.job(manifest, what, [*filters[: drawn.shards], *benchmarks])
    if job.is_up_to_date():
        return
    with SELECT.table(job) as table:
        for row in drawn.rows:
            table.write(row)


def _require_enough(drawn: Drawn, scale: ScaleConfig, *, name: str, filters: Sequence[Path]) -> None:
    if scale.images is not None and drawn.kept >= scale.images:
        return
    came_in = sum(read_manifest(path).read for path in filters)
    dropped = Counter(row.reason for row in drawn.rows if row.reason is not None)
    left_out = "".join(f", {count} {reason}" for reason, count in sorted(dropped.items()))
    found = (
        f"{len(filters)} shards of {came_in} samples leave {drawn.kept} ({len(drawn.rows)} past the filter{left_out})"
    )
    if not drawn.kept:
        raise DataError(
            f"scales.{name}: nothing is left to train on: {found}. {filters[0]} says why samples were dropped."
        )
    if scale.images is None:
        return
    if scale.at_most:
        log.info("scale %s is short of its %d images, and may be: %s", name, scale.images, found)
        return
    share = drawn.kept / came_in
    raise ConfigError(
        f"scales.{name}.images: {scale.images} are asked for, but {found}, a share of {share:.2g}."
        f" If the source has more shards, plan more of them: raise plan.margin, or lower plan.share_kept (to {share:.2g} or less);"
        f" if it has not, lower scales.{name}.images or set scales.{name}.at_most: true."
    )

"""Stage `select`: select the first samples of a scale from the filter tables of its shards.

Images that are in a benchmark of `exclude` or were selected earlier are dropped; both are found by the hash of their
bytes. Shards are read in order, and only until the scale is complete. A smaller scale is therefore a prefix of a larger
one, and the manifest names only the shards that were read, so additional shards change nothing.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from fineclip.config import SelectConfig
from fineclip.config.plan import ScaleConfig
from fineclip.errors import ConfigError, DataError, ShardError
from fineclip.shards import BenchmarkRow, FilterRow, SelectRow, input_manifest, kept_rows, read_manifest, read_rows
from fineclip.stages.declaration import Input, Stage, stage
from fineclip.stages.funnel import stage_counts

log = logging.getLogger(__name__)


def select_samples(
    shards: Iterable[tuple[str, Iterable[FilterRow]]], *, wanted: int | None, left_out: set[bytes]
) -> tuple[list[SelectRow], int]:
    """Select the first samples that are neither repeated nor excluded.

    Args:
        shards: Name and kept rows of each shard, in order; they are read lazily.
        wanted: Number of samples; None selects all.
        left_out: SHA-256 digests of images that must not be selected.

    Returns:
        A row for each sample that was considered, in order, and the number of shards that were read.
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
                return rows, read
    return rows, read


class ScaledSelectConfig(SelectConfig):
    """Section `select` with the scale to select.

    Attributes:
        scale: Entry of `scales`.
    """

    scale: ScaleConfig = ScaleConfig()


SELECT = Stage(
    name="select",
    version=1,
    help="select the samples of a scale from filter tables",
    config=ScaledSelectConfig,
    section="select",
    inputs={
        "filters": Input(stage="filter", reads=(FilterRow,), note="in the order of the shards", many=True),
        "benchmarks": Input(
            stage="index", reads=(BenchmarkRow,), note="whose images are left out", required=False, many=True
        ),
    },
    row=SelectRow,
    reasons={
        "benchmark": "the same bytes are an image of a benchmark that select.exclude names",
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
    """Write the table of one scale, one row per considered sample, and then its manifest.

    The keys `allow_fewer`, `shard_margin` and `expected_keep_rate` affect only whether a scale counts as complete, not its samples, so they are not
    part of the manifest.

    Args:
        filters: Manifests of `filter` in the order of the shards; their file names are the names of the shards.
        manifest: Path of the manifest to write; the table is written beside it.
        config: Excluded benchmarks, and the number of samples of the scale.
        scale: Name of the scale, for messages.
        benchmarks: Manifests of `index` whose images are excluded.

    Raises:
        ConfigError: There are fewer samples than the scale requires; states the number and the keys to change.
        DataError: No sample is left.
        ShardError: A table is absent or changed.
    """
    left_out = {bytes.fromhex(row.sha256) for path in benchmarks for row in read_rows(path, BenchmarkRow)}
    shards = ((path.stem, kept_rows(path, FilterRow)) for path in filters)
    rows, read = select_samples(shards, wanted=config.scale.images, left_out=left_out)
    _require_enough(rows, config.scale, name=scale, filters=filters)
    recorded = {"images": config.scale.images, "leave_out": list(config.exclude)}
    SELECT.write_table(manifest, recorded, [*filters[:read], *benchmarks], lambda: rows)


def _require_enough(rows: Sequence[SelectRow], scale: ScaleConfig, *, name: str, filters: Sequence[Path]) -> None:
    kept = sum(row.kept for row in rows)
    if kept and (scale.images is None or kept >= scale.images):
        return
    total = sum(read_manifest(path).read for path in filters)
    dropped = Counter(row.reason for row in rows if row.reason is not None)
    left_out = "".join(f", {count} {reason}" for reason, count in sorted(dropped.items()))
    found = f"{len(filters)} shards of {total} samples leave {kept} ({len(rows)} past the filter{left_out})"
    if not kept:
        raise DataError(
            f"scales.{name}: nothing is left to train on: {found}.{_dropped_before(filters)} The tables beside the manifests of"
            " these stages have a row for each sample."
        )
    if scale.allow_fewer:
        log.info("scale %s has fewer than its %d images, which allow_fewer allows: %s", name, scale.images, found)
        return
    share = kept / total
    raise ConfigError(
        f"scales.{name}.images: {scale.images} are asked for, but {found}, a share of {share:.2g}."
        f" If the source has more shards, plan more of them: raise plan.shard_margin, or lower plan.expected_keep_rate (to {share:.2g} or less);"
        f" otherwise lower scales.{name}.images or set scales.{name}.allow_fewer: true."
    )


def _dropped_before(filters: Sequence[Path]) -> str:
    """Return sentences with the samples that source and filter dropped, by reason."""
    sentences = ""
    for stage_name, paths in (("source", _sources_of(filters)), ("filter", filters)):
        counts = stage_counts(stage_name, [read_manifest(path) for path in paths])
        if counts.dropped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in counts.dropped.items())
            sentences += f" Of {counts.read} samples, the stage {stage_name} dropped {reasons}."
    return sentences


def _sources_of(filters: Sequence[Path]) -> list[Path]:
    """Return the manifests of `source`, as far as they are still there."""
    found: list[Path] = []
    for path in filters:
        with suppress(ShardError):
            found.append(input_manifest(path, "source"))
    return found

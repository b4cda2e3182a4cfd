"""Counts of kept and dropped rows by stage, for the data card and the report."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fineclip.shards import Manifest


@dataclass(frozen=True)
class StageCounts:
    """Counts of one stage, summed over shards.

    Attributes:
        stage: Name of the stage.
        read: Rows that were read; `read == kept + sum(dropped.values())`.
        kept: Rows that were kept.
        dropped: Dropped rows by reason, the most frequent first.
        regions: Regions of the kept rows.
        uncaptioned: Regions without a caption, by reason.
    """

    stage: str
    read: int
    kept: int
    dropped: Mapping[str, int]
    regions: int
    uncaptioned: Mapping[str, int] = field(default_factory=dict)


def stage_counts(stage: str, manifests: Sequence[Manifest]) -> StageCounts:
    """Return the counts of a stage, summed over the manifests of its shards."""
    dropped, uncaptioned = Counter[str](), Counter[str]()
    for manifest in manifests:
        dropped.update(manifest.dropped)
        uncaptioned.update(manifest.uncaptioned)
    read, kept, regions = (sum(getattr(one, name) for one in manifests) for name in ("read", "kept", "regions"))
    return StageCounts(stage, read, kept, dict(dropped.most_common()), regions, dict(uncaptioned))

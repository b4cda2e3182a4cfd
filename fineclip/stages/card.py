"""The data card of a packed data set: what it holds, what fell out on the way and why, who made its regions.

    card.md      for people, beside the shards
    card.json    manifest: first row read, last sample kept, and every reason between as `stage/reason`

Counts are those of the manifests from `source` to `pack`, summed over the shards, and they must add up: what a stage
read is what the stage before it kept, and every manifest was made from the one above it that lies there now.
"""

import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from fineclip.config import canonical
from fineclip.errors import ShardError
from fineclip.shards import Job, Manifest, read_manifest, sha256_of, table_of, write_text
from fineclip.stages.upstream import ORDER, chain

VERSION = 2  # of the card: a change of it makes it again


@dataclass(frozen=True)
class FunnelRow:
    """One stage, summed over shards. `read == kept + sum(dropped.values())`; `regions` are those of kept samples.

    `uncaptioned` says how many of them the stage left without a caption, by reason.
    """

    stage: str
    read: int
    kept: int
    dropped: Mapping[str, int]
    regions: int
    uncaptioned: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Maker:
    """What made a part of the data: a stage's configuration, and the hashes of its weights by where they lay."""

    stage: str
    config: Mapping[str, Any]
    weights: Mapping[str, str]


def funnel(packed: Sequence[Path]) -> list[FunnelRow]:
    """The counts of every stage from `source` to `pack`, in order, summed over the shards of some pack manifests.

    Raises:
        ShardError: a manifest on the way is absent, was made from another than lies there, or counts do not add up.
    """
    return summed(checked_chain(path) for path in packed)


def summed(chains: Iterable[Mapping[str, Manifest]]) -> list[FunnelRow]:
    """One row a stage, in order, from the manifests of each shard."""
    shards = list(chains)
    return [stage_counts(stage, [shard[stage] for shard in shards]) for stage in ORDER]


def stage_counts(stage: str, manifests: Sequence[Manifest]) -> FunnelRow:
    """Return the counts of one stage, summed over the manifests of its shards; the most frequent reason first."""
    dropped, uncaptioned = Counter[str](), Counter[str]()
    for manifest in manifests:
        dropped.update(manifest.dropped)
        uncaptioned.update(manifest.uncaptioned)
    read, kept, regions = (sum(getattr(one, what) for one in manifests) for what in ("read", "kept", "regions"))
    return FunnelRow(stage, read, kept, dict(dropped.most_common()), regions, dict(uncaptioned))


def checked_chain(packed: Path) -> dict[str, Manifest]:
    """The manifests that one shard went through, by stage, from `source` to `pack`.

    Raises:
        ShardError: one is absent, was made from another than lies there, or its counts do not add up.
    """
    paths = chain(packed)
    if list(paths) != list(ORDER):
        raise ShardError(f"{packed}: is a manifest of {list(paths)[-1]}; expected one of pack")
    manifests = {stage: read_manifest(path) for stage, path in paths.items()}
    for above, stage in pairwise(ORDER):
        _require_same(manifests[stage], paths[stage], paths[above])
        _require_count(paths[stage], "read", manifests[stage].read, f"{paths[above]} kept", manifests[above].kept)
    for stage, one in manifests.items():
        _require_count(paths[stage], "read", one.read, "kept and dropped", one.kept + sum(one.dropped.values()))
    _require_count(
        paths["caption"], "regions", manifests["caption"].regions, str(paths["detect"]), manifests["detect"].regions
    )
    return manifests


def _require_same(manifest: Manifest, path: Path, above: Path) -> None:
    if manifest.inputs[above.as_posix()] != sha256_of(above):
        raise ShardError(f"{path}: was made from another {above} than lies there now. Run its stage again.")


def _require_count(path: Path, what: str, count: int, other: str, expected: int) -> None:
    if count != expected:
        raise ShardError(f"{path}: {what} {count}, but {other} {expected}. Delete it and run again.")


def makers(chains: Sequence[Mapping[str, Manifest]]) -> Iterator[Maker]:
    """Configuration and weights of the stages after `source`, which must be the same in every shard.

    Raises:
        ShardError: two shards were made differently.
    """
    for stage in ORDER[1:]:
        manifests = [shard[stage] for shard in chains]
        ways = {canonical([one.version, one.config, _weights(one)]) for one in manifests}
        if len(ways) > 1:
            raise ShardError(
                f"the shards do not belong together: stage {stage} made some of them as {' and some as '.join(sorted(ways))}."
                " Run snakemake, which makes again what is of an older configuration."
            )
        for one in manifests[:1]:
            yield Maker(stage, one.config, _weights(one))


def _weights(manifest: Manifest) -> dict[str, str]:
    """Hashes of the weights among a manifest's inputs."""
    found: dict[str, str] = {}
    for path in map(Path, manifest.inputs):
        if path.is_file() and (above := read_manifest(path)).stage == "weights":
            found.update(above.outputs)
    return found


def write_card(packed: Sequence[Path], manifest: Path) -> None:
    """Write the card of a data set beside its shards, and then its `manifest`.

    Args:
        packed: manifests of pack, one a shard.
        manifest: what is written last.

    Raises:
        ShardError: see `funnel`; also two shards that were made differently.
    """
    job = Job(manifest, stage="card", version=VERSION, config={}, inputs=packed)
    if job.is_done():
        return
    chains = [checked_chain(path) for path in packed]
    rows = summed(chains)
    card = manifest.with_suffix(".md")
    contents = Contents.of(packed)
    write_text(card, render(title_of(packed), contents, rows, list(makers(chains))))
    dropped = {f"{row.stage}/{reason}": count for row in rows for reason, count in row.dropped.items()}
    job.finish([card], read=rows[0].read, kept=rows[-1].kept, dropped=dropped, regions=rows[-1].regions)


@dataclass(frozen=True)
class Contents:
    """What the shards hold: numbers of images by how many regions they have, and the size of the tars."""

    images_by_regions: Mapping[int, int]
    shards: int
    size_bytes: int
    first: str

    @classmethod
    def of(cls, packed: Sequence[Path]) -> "Contents":
        """Counted from the indices of the shards."""
        counts = Counter[int]()
        for path in packed:
            counts.update(pq.read_table(table_of(path), columns=["regions"])["regions"].to_pylist())
        tars = [path.with_suffix(".tar") for path in packed]
        size = sum(tar.stat().st_size for tar in tars)
        return cls(dict(sorted(counts.items())), len(tars), size, tars[0].name if tars else "")

    @property
    def images(self) -> int:
        """Samples."""
        return sum(self.images_by_regions.values())

    @property
    def regions(self) -> int:
        """Regions of all samples."""
        return sum(regions * images for regions, images in self.images_by_regions.items())


def title_of(packed: Sequence[Path]) -> str:
    """The data set, its regions and captions, from where its shards lie: `data/<dataset>/pack/<regions>.<captions>`."""
    folders = {path.parent for path in packed}
    return ", ".join(sorted(f"{folder.parent.parent.name} {folder.name}".strip() for folder in folders))


def render(title: str, contents: Contents, rows: Sequence[FunnelRow], made_by: Sequence[Maker]) -> str:
    """The card, in Markdown."""
    without = Counter[str]()
    for row in rows:
        without.update(row.uncaptioned)
    silent = f" {without.total():,} of the regions have no caption ({_reasons(without)})." if without else ""
    regions_each = contents.regions / contents.images if contents.images else 0.0
    parts = [
        f"# Data card: {title}",
        f"{contents.images:,} images with {contents.regions:,} {'' if without else 'captioned '}regions ({regions_each:.2f} an image;"
        f" {contents.images_by_regions.get(0, 0):,} images have none, the richest has"
        f" {max(contents.images_by_regions, default=0)}), in {contents.shards:,} WebDataset shards of {contents.size_bytes:,}"
        f" bytes together.{silent}",
        "## From the first row to the last",
        _table(rows),
        "A stage reads what the stage before it kept; regions are those of the samples that it kept.",
        "## How it was made",
        *map(_paragraph, made_by),
        "Images and their texts belong to their owners: the terms are those of the source they came from.",
        "## How to read it",
        _example(contents.first),
        "Boxes are x1, y1, x2, y2 in pixels of the stored image. The `.parquet` beside each tar says where the bytes of each"
        " sample begin.",
    ]
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[FunnelRow]) -> str:
    lines = ["| stage | read | kept | dropped | regions |", "|---|---:|---:|---|---:|"]
    lines += [
        f"| {row.stage} | {row.read:,} | {row.kept:,} | {_reasons(row.dropped)} | {row.regions:,} |" for row in rows
    ]
    return "\n".join(lines)


def _reasons(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items()) or "none"


def _paragraph(maker: Maker) -> str:
    weights = maker.config.get("weights", {})
    lines = [f"**{maker.stage}** {maker.config.get('engine', '')}".strip()]
    lines += [
        f"  * {key}: {json.dumps(value, ensure_ascii=False)}"
        for key, value in sorted(maker.config.items())
        if key not in ("weights", "engine")
    ]
    for place, digest in maker.weights.items():
        lines.append(f"  * weights: {place}, sha256 {digest}, licence {weights.get('licence') or 'not stated'}")
    return "\n".join(lines) if len(lines) > 1 else f"{lines[0]}: the defaults"


def _example(first: str) -> str:
    return textwrap.dedent(f"""\
        ```python
        import io, webdataset
        from PIL import Image
        shard = webdataset.WebDataset("{first}", shardshuffle=False).decode()
        for image, about in shard.to_tuple("jpg;png;webp;gif;bmp;tif", "json"):
            print(Image.open(io.BytesIO(image)).size, about["captions"], about["regions"])
        ```""")

"""Stage `card`: describe a packed data set by its contents, the counts of every stage and the models that made it.

    card.md      the description in Markdown, beside the shards
    card.json    manifest: first row read, last sample kept, and every drop reason as `stage/reason`

Counts are those of the manifests from `source` to `pack`, summed over the shards. They are checked: a stage reads the rows
that the stage before it kept, and every manifest was made from the current manifest of the stage before it.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from fineclip.config import PackConfig
from fineclip.errors import ShardError
from fineclip.identity import canonical
from fineclip.shards import Manifest, PackRow, kept_rows, read_manifest, sha256_of, write_text
from fineclip.stages.declaration import Input, Stage, lineage, stage
from fineclip.stages.funnel import StageCounts, stage_counts
from fineclip.stages.upstream import lineage_of, manifest_of


@dataclass(frozen=True)
class StageProvenance:
    """Configuration of a stage, and the hashes of its weights by their paths."""

    stage: str
    config: Mapping[str, Any]
    weights: Mapping[str, str]


def funnel(chains: Sequence[Mapping[str, Manifest]]) -> list[StageCounts]:
    """Return the counts of every stage from `source` to `pack`, in order; `chains` holds the manifests of each shard by stage."""
    return [stage_counts(name, [shard[name] for shard in chains]) for name in lineage("pack")]


def checked_chain(packed: Path) -> dict[str, Manifest]:
    """Return the manifests of one shard by stage, from `source` to `pack`.

    Args:
        packed: Manifest of `pack`.

    Returns:
        The manifests, in the order of the stages.

    Raises:
        ShardError: A manifest is absent or was made from another one than the current one, or counts do not add up.
    """
    manifest_of(packed, "pack")
    paths = lineage_of(packed)
    manifests = {name: read_manifest(path) for name, path in paths.items()}
    for above, name in pairwise(paths):
        if manifests[name].inputs[paths[above].as_posix()] != sha256_of(paths[above]):
            raise ShardError(
                f"{paths[name]}: was made from another {paths[above]} than the current one. Run its stage again."
            )
        _require_count(paths[name], "read", manifests[name].read, f"{paths[above]} kept", manifests[above].kept)
    for name, one in manifests.items():
        _require_count(paths[name], "read", one.read, "kept and dropped", one.kept + sum(one.dropped.values()))
    _require_count(
        paths["caption"], "regions", manifests["caption"].regions, str(paths["detect"]), manifests["detect"].regions
    )
    return manifests


def _require_count(path: Path, field: str, count: int, other: str, expected: int) -> None:
    if count != expected:
        raise ShardError(f"{path}: {field} {count}, but {other} {expected}. Delete it and run again.")


def provenance(chains: Sequence[Mapping[str, Manifest]]) -> Iterator[StageProvenance]:
    """Yield configuration and weights of the stages after `source`, which must be equal in all shards.

    Args:
        chains: Manifests of each shard by stage.

    Yields:
        One entry per stage, in order.

    Raises:
        ShardError: Two shards differ in configuration, version or weights.
    """
    for name in lineage("pack")[1:]:
        manifests = [shard[name] for shard in chains]
        variants = {canonical([one.version, one.config, _weights(one)]) for one in manifests}
        if len(variants) > 1:
            raise ShardError(
                f"the shards differ: stage {name} made some of them as {' and some as '.join(sorted(variants))}."
                " Run snakemake, which runs the jobs of the older configuration again."
            )
        for one in manifests[:1]:
            yield StageProvenance(name, one.config, _weights(one))


def _weights(manifest: Manifest) -> dict[str, str]:
    """Return the hashes of the weights among the inputs of a manifest."""
    found: dict[str, str] = {}
    for path in map(Path, manifest.inputs):
        if path.is_file() and (above := read_manifest(path)).stage == "weights":
            found.update(above.outputs)
    return found


CARD = Stage(
    name="card",
    version=2,
    help="describe a packed data set, with counts from the first row to the last",
    config=PackConfig,
    inputs={"packed": Input(stage="pack", reads=(PackRow,), many=True)},
)


@stage(CARD)
def write_card(packed: Sequence[Path], manifest: Path, config: PackConfig) -> None:
    """Write the card of a data set beside its shards, and then its manifest.

    Args:
        packed: Manifests of `pack`, one per shard.
        manifest: Path of the manifest to write.
        config: Section without keys.

    Raises:
        ShardError: See `funnel` and `provenance`.
    """
    job = CARD.job(manifest, config, packed)
    if job.is_up_to_date():
        return
    chains = [checked_chain(path) for path in packed]
    rows = funnel(chains)
    card = manifest.with_suffix(".md")
    contents = Contents.of(packed)
    write_text(card, render(title_of(packed), contents, rows, list(provenance(chains))))
    dropped = {f"{row.stage}/{reason}": count for row in rows for reason, count in row.dropped.items()}
    job.finish([card], read=rows[0].read, kept=rows[-1].kept, dropped=dropped, regions=rows[-1].regions)


@dataclass(frozen=True)
class Contents:
    """Contents of the shards: number of images by number of regions, number of shards, size of all tars, name of the first tar."""

    images_by_regions: Mapping[int, int]
    shards: int
    size_bytes: int
    first: str

    @classmethod
    def of(cls, packed: Sequence[Path]) -> "Contents":
        """Count the contents from the indices of the shards."""
        counts = Counter(row.regions for path in packed for row in kept_rows(path, PackRow))
        tars = [path.with_suffix(".tar") for path in packed]
        size = sum(tar.stat().st_size for tar in tars)
        return cls(dict(sorted(counts.items())), len(tars), size, tars[0].name if tars else "")

    @property
    def images(self) -> int:
        """Number of samples."""
        return sum(self.images_by_regions.values())

    @property
    def regions(self) -> int:
        """Number of regions of all samples."""
        return sum(regions * images for regions, images in self.images_by_regions.items())


def title_of(packed: Sequence[Path]) -> str:
    """Return names of data set, regions and captions from the path `data/<dataset>/pack/<regions>.<captions>` of the shards."""
    folders = {path.parent for path in packed}
    return ", ".join(sorted(f"{folder.parent.parent.name} {folder.name}".strip() for folder in folders))


def render(title: str, contents: Contents, rows: Sequence[StageCounts], made_by: Sequence[StageProvenance]) -> str:
    """Return the card in Markdown.

    Args:
        title: Name of the data set.
        contents: Totals of the packed shards.
        rows: Counts of each stage, in order.
        made_by: Version and configuration of each stage, in order.

    Returns:
        Markdown; equal arguments give equal text.
    """
    import jinja2

    uncaptioned = sum((Counter(row.uncaptioned) for row in rows), Counter[str]())
    environment = jinja2.Environment(  # noqa: S701 (the card is Markdown)
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("card.md.jinja").render(
        title=title,
        contents=contents,
        rows=rows,
        made_by=made_by,
        uncaptioned=uncaptioned,
        as_json=partial(json.dumps, ensure_ascii=False),
    )

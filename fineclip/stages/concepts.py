"""Stage `concepts`: list the names of objects in a scale, for methods that classify regions by name.

    labels      labels of the regions in the selected samples
    captions    nouns in the captions of the selected samples, counted once per caption

Every name has a row with its count, the most frequent first and equal counts by name. Dropped names have a reason.

Nouns are found by the Hanover Tagger (HanTa), a hidden Markov model whose English model is part of its package, and are
reduced to the singular. Captions are those that pass the filter, in lower case, so proper names are tagged as common nouns or
not at all. The tagger reads about 1,000 captions per second.

Source: Zhong et al. 2022, RegionCLIP: concepts parsed from captions, without those found fewer than 100 times. Its lists (4,764
concepts of COCO, 6,790 of CC3M) are released without the script that made them, so these lists differ. Deviations: the
reason `vague`, single nouns, and the singular.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from fineclip.config import ConceptsConfig
from fineclip.errors import ConfigError, DataError
from fineclip.shards import (
    ConceptRow,
    DetectRow,
    FilterRow,
    SelectRow,
    SourceRow,
    input_manifest,
    kept_rows,
    read_manifest,
)
from fineclip.stages.declaration import Input, Stage, stage
from fineclip.stages.filter import good_captions, limits_of
from fineclip.stages.upstream import KeptRows, keys_by_shard, manifest_of, manifests_of

log = logging.getLogger(__name__)

WORDS = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*|[.,;:!?]")  # the tagger uses punctuation as the end of a phrase
NOUNS = ("NN0", "NN1", "NN2")  # of either number, singular, plural; proper names are NP0

Nouns = Callable[[str], Collection[str]]


def pool(counts: Mapping[str, int], config: ConceptsConfig) -> list[ConceptRow]:
    """Return a row for every name, the most frequent first and equal counts by name."""
    rows: list[ConceptRow] = []
    kept = 0
    for name, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])):
        reason = _fault(name, count, config) or ("surplus" if kept == config.max_concepts else None)
        kept += reason is None
        rows.append(ConceptRow(key=name, kept=reason is None, reason=reason, count=count))
    return rows


def _fault(name: str, count: int, config: ConceptsConfig) -> str | None:
    if not name.strip():
        return "empty"
    if config.from_ == "captions" and name in config.exclude:
        return "vague"
    return "rare" if count < config.effective_min_count else None


def noun_finder() -> Nouns:
    """Return a function from an English caption to its nouns in the singular.

    Returns:
        Function that returns the lemmas, each of at least two letters.

    Raises:
        ConfigError: HanTa is not installed.
    """
    try:
        from HanTa.HanoverTagger import HanoverTagger
    except ModuleNotFoundError:
        raise ConfigError(
            "concepts.from: captions needs HanTa, which is not installed: pip install 'fineclip[data]'"
        ) from None
    tagger = HanoverTagger("morphmodel_en.pgz")

    def nouns(caption: str) -> set[str]:
        tagged = tagger.tag_sent(WORDS.findall(caption.lower().replace("\u2019", "'")))
        return {lemma for _, lemma, tag in tagged if tag in NOUNS and len(lemma) > 1}

    return nouns


CONCEPTS = Stage(
    name="concepts",
    version=2,
    help="name what the regions of a scale show",
    config=ConceptsConfig,
    section="concepts",
    inputs={
        "select": Input(stage="select", reads=(SelectRow, FilterRow, SourceRow)),
        "detected": Input(
            stage="detect", reads=(DetectRow,), note="for concepts from labels", required=False, many=True
        ),
    },
    row=ConceptRow,
    reasons={
        "empty": "a region has no label",
        "vague": "the noun is in exclude",
        "rare": "fewer than min_count regions or captions name it",
        "surplus": "it comes after the first max_concepts",
    },
)


@stage(CONCEPTS)
def concepts_of_scale(select: Path, manifest: Path, config: ConceptsConfig, *, detected: Sequence[Path] = ()) -> None:
    """Write the table of concepts of a scale, one row per name, and then its manifest.

    Args:
        select: Manifest of `select`.
        manifest: Path of the manifest to write; the table is written beside it.
        config: Origin of the names, and limits.
        detected: Manifests of `detect`, for labels; those of shards without selected samples are not read.

    Raises:
        ConfigError: HanTa is needed and not installed.
        DataError: No concept is left; states the number of names.
        ShardError: A required manifest is missing, or a table is absent or changed. Nothing is written then.
    """
    keys = keys_by_shard(select)
    if config.from_ == "labels":
        tables = manifests_of(keys, detected, stage="detect", select=select)
        names, phrase = _labels(keys, tables), "regions show"
    else:
        filters = [Path(name) for name in read_manifest(select).inputs]
        tables = manifests_of(keys, filters, stage="filter", select=select)
        names, phrase = _nouns(keys, tables), "nouns in captions name"

    def rows() -> list[ConceptRow]:
        counts = Counter(tqdm(names, desc=f"concepts {manifest.stem}", unit="name", disable=None))
        rows = pool(counts, config)
        concepts = [row for row in rows if row.kept]
        if not concepts:
            raise DataError(
                f"concepts of {select}: none of {len(rows)} names is left; they are named {counts.total()} times by {config.from_}."
                f" Lower concepts.min_count ({config.effective_min_count}), or change concepts.from."
            )
        named = sum(row.count for row in concepts)
        log.info("%d of %d %s one of %d concepts", named, counts.total(), phrase, len(concepts))
        return rows

    CONCEPTS.write_table(manifest, config, [select, *tables.values()], rows)


def read_concepts(manifest: Path) -> tuple[str, ...]:
    """Return the concepts, the most frequent first. The number of a concept is its index.

    Args:
        manifest: Manifest of `concepts`.

    Returns:
        Names of the kept rows of the table.

    Raises:
        ShardError: The table is absent or changed, or the manifest is of another stage.
    """
    manifest_of(manifest, "concepts")
    return tuple(row.key for row in kept_rows(manifest, ConceptRow))


def _labels(keys: Mapping[str, Collection[str]], tables: Mapping[str, Path]) -> Iterator[str]:
    for shard, manifest in tables.items():
        selected = set(keys[shard])
        for row in kept_rows(manifest, DetectRow):
            if row.key in selected:
                yield from (region.label or "" for region in row.regions)


def _nouns(keys: Mapping[str, Collection[str]], tables: Mapping[str, Path]) -> Iterator[str]:
    nouns = noun_finder()
    for shard, manifest in tables.items():
        limits, rows = limits_of(manifest), KeptRows(input_manifest(manifest, "source"), SourceRow)
        for key in sorted(keys[shard]):
            for caption in good_captions(rows[key].captions, limits):
                yield from nouns(caption)

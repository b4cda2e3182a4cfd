"""Names with their counts: from labels and from captions, of the selected samples alone, and why some are left out."""

from pathlib import Path
from typing import Any

import pytest

from fineclip.config import AnnotationsDetect, ConceptsConfig, FilterConfig, ScaleConfig, parse
from fineclip.errors import ConfigError, DataError, ShardError
from fineclip.shards import ConceptRow, kept_rows, read_manifest, read_rows, sha256_of
from fineclip.stages import concepts as stage
from fineclip.stages.concepts import concepts_of_scale, noun_finder, pool, read_concepts
from fineclip.stages.detect import detect_shard
from fineclip.stages.select import ScaledSelectConfig, select_scale
from tests.helpers.images import encoded
from tests.helpers.stages import Item, box, write_filtered

LIMITS = FilterConfig(min_side_px=1, min_words=1, max_words=12)


def config(**values: Any) -> ConceptsConfig:
    section: ConceptsConfig = parse(ConceptsConfig, values, where="test")
    return section


def item(color: int, labels: str, *captions: str) -> Item:
    boxes = [box(0, 0, 9, 9 + index, {"c": "cat", "d": "dog", "_": ""}[one]) for index, one in enumerate(labels)]
    return Item(encoded(color=color), list(captions or ["a thing"]), boxes)


SHARDS = {
    "s0": [
        item(1, "ccd", "Two cats sleep near a dog.", "a cat's bowl on the top of a table"),
        item(2, "_", "a cat and another cat", "word " * 13 + "elephants"),
        item(3, "", "the children"),
    ],
    "s1": [item(1, "dddd", "horses"), item(4, "d", "a man with scissors"), item(5, "dd", "a zebra")],
}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[Path]]:
    """A selection of four of six samples: one repeats an earlier one, one is not needed; and the detect manifests."""
    monkeypatch.chdir(tmp_path)
    data, filters, detected = Path("data/mine"), [], []
    for name, items in SHARDS.items():
        kept = write_filtered(data, items, name=name, config=LIMITS)
        manifest = data / f"detect/own/{name}.json"
        own = AnnotationsDetect(engine="annotations", min_side_px=1)
        detect_shard(kept, manifest, own, weights=None, batch_size=1, device="cpu")
        filters.append(kept)
        detected.append(manifest)
    select = data / "select/4.json"
    select_scale(filters, select, ScaledSelectConfig(scale=ScaleConfig(images=4)), scale="4")
    return select, detected


def table(manifest: Path) -> list[tuple[str, int, str | None]]:
    return [(row.key, row.count, row.reason) for row in read_rows(manifest, ConceptRow)]


def test_labels_of_the_selected_samples(world: tuple[Path, list[Path]]) -> None:
    select, detected = world
    manifest = Path("data/mine/concepts/own/4.json")
    concepts_of_scale(select, manifest, config(), detected=detected)
    assert table(manifest) == [("cat", 2, None), ("dog", 2, None), ("", 1, "empty")]  # of s1 the second sample alone
    made = read_manifest(manifest)
    assert (made.stage, made.read, made.kept, made.dropped) == ("concepts", 3, 2, {"empty": 1})
    assert set(made.inputs) == {select.as_posix(), *map(Path.as_posix, detected)}
    assert made.outputs == {"4.parquet": sha256_of(manifest.with_suffix(".parquet"))}
    assert read_concepts(manifest) == ("cat", "dog")


def test_nouns_of_good_captions(world: tuple[Path, list[Path]]) -> None:
    select, _ = world
    manifest = Path("data/mine/concepts/own/4.json")
    concepts_of_scale(select, manifest, config(**{"from": "captions", "min_count": 1, "exclude": ["top"]}))
    found = {name: (count, reason) for name, count, reason in table(manifest)}
    # each once a caption, in the singular; a caption that is too long is not read, nor one of a sample not selected
    assert found == {
        "cat": (3, None),
        **dict.fromkeys(("bowl", "child", "dog", "man", "scissors", "table"), (1, None)),
        "top": (1, "vague"),
    }
    assert read_concepts(manifest) == ("cat", "bowl", "child", "dog", "man", "scissors", "table")
    filters = {f"data/mine/filter/{name}.json" for name in SHARDS}
    assert set(read_manifest(manifest).inputs) == {select.as_posix(), *filters}


@pytest.mark.parametrize(
    ("caption", "nouns"),
    [
        ("A small dog is sitting in a bathroom sink", {"dog", "bathroom", "sink"}),
        ("three bears bear with a park bench", {"bear", "park", "bench"}),
        ("knives, forks and two glasses!", {"knife", "fork", "glass"}),
        ("she runs quickly", set()),
        ("the woman\u2019s umbrella", {"woman", "umbrella"}),
        ("3 \u2603 ...", set()),
        ("", set()),
    ],
)
def test_nouns(caption: str, nouns: set[str]) -> None:
    assert noun_finder()(caption) == nouns


COUNTS = {"b": 3, "a": 3, "c": 2, "vague": 9, "": 4, " ": 1, "d": 1}


@pytest.mark.parametrize(
    ("values", "reasons"),
    [
        ({}, {"": "empty", " ": "empty"}),
        ({"min_count": 3}, {"": "empty", " ": "empty", "c": "rare", "d": "rare"}),
        ({"max_concepts": 2}, {"": "empty", " ": "empty", "b": "surplus", "c": "surplus", "d": "surplus"}),
        ({"from": "captions", "min_count": 2}, {"vague": "vague", "": "empty", " ": "empty", "d": "rare"}),
    ],
)
def test_pool(values: dict[str, Any], reasons: dict[str, str]) -> None:
    rows = pool(COUNTS, config(exclude=["vague"], **values))
    assert [row.key for row in rows] == ["vague", "", "a", "b", "c", " ", "d"]  # by count, then by name
    assert {row.key: row.reason for row in rows if not row.kept} == reasons
    assert {row.key: row.count for row in rows} == COUNTS


def test_the_least_count_depends_on_where_names_come_from() -> None:
    assert (
        config().effective_min_count,
        config(**{"from": "captions"}).effective_min_count,
        config(min_count=7).effective_min_count,
    ) == (1, 100, 7)


def test_nothing_left_is_said_with_numbers(world: tuple[Path, list[Path]]) -> None:
    select, detected = world
    manifest = Path("data/mine/concepts/own/4.json")
    with pytest.raises(DataError, match=r"none of 3 names is left; they are named 5 times by labels. Lower .*\(9\)"):
        concepts_of_scale(select, manifest, config(min_count=9), detected=detected)
    assert not manifest.exists()


def test_the_same_bytes_again_and_nothing_to_do(
    world: tuple[Path, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    select, detected = world
    manifest, other = Path("a/4.json"), Path("b/4.json")
    for one, order in ((manifest, detected), (other, detected[::-1])):
        concepts_of_scale(select, one, config(), detected=order)
    assert manifest.read_bytes() == other.read_bytes()
    assert manifest.with_suffix(".parquet").read_bytes() == other.with_suffix(".parquet").read_bytes()
    manifest.unlink()
    monkeypatch.setattr(stage, "pool", lambda *_: pytest.fail("the table was made again"))
    concepts_of_scale(select, manifest, config(), detected=detected)
    assert manifest.read_bytes() == other.read_bytes()


def test_shards_that_the_selection_does_not_use_are_not_looked_at(world: tuple[Path, list[Path]]) -> None:
    select, detected = world
    manifest = Path("data/mine/concepts/own/4.json")
    concepts_of_scale(select, manifest, config(), detected=[*detected, Path("nowhere/s2.json")])
    with pytest.raises(ShardError, match="1 shards without a manifest of detect; the first is s1"):
        concepts_of_scale(select, manifest, config(), detected=detected[:1])


def test_another_manifest_is_refused(world: tuple[Path, list[Path]]) -> None:
    with pytest.raises(ShardError, match="is a manifest of select; expected concepts"):
        read_concepts(world[0])


def test_a_damaged_table_is_named(world: tuple[Path, list[Path]]) -> None:
    select, detected = world
    manifest = Path("data/mine/concepts/own/4.json")
    concepts_of_scale(select, manifest, config(), detected=detected)
    assert len(list(kept_rows(manifest, ConceptRow))) == 2
    manifest.with_suffix(".parquet").write_bytes(b"damaged")
    with pytest.raises(ShardError, match=r"4\.parquet: is not the one"):
        read_concepts(manifest)


def test_without_the_tagger_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "HanTa.HanoverTagger", None)
    with pytest.raises(ConfigError, match=r"pip install 'fineclip\[data\]'"):
        noun_finder()

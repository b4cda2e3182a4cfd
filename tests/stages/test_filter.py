"""Every reason of the filter, by a sample made for it, and what the edge does with bad bytes."""

import hashlib
from pathlib import Path

import pytest

from fineclip.config import FilterConfig
from fineclip.errors import ShardError
from fineclip.shards import FilterRow, Job, SourceRow, TableWriter, kept_rows, read_manifest, read_rows
from fineclip.stages.filter import apply_rules, caption_rejection_reason, filter_shard, good_captions
from fineclip.types import Candidate
from tests.helpers.images import HTML, bomb, encoded

CONFIG = FilterConfig(min_side_px=10, max_aspect=3, min_words=2, max_words=5)
GOOD = "two words"


def candidate(
    *, width: int = 20, height: int = 20, captions: tuple[str, ...] = (GOOD,), sha256: str = "a"
) -> Candidate:
    return Candidate("s-000000", width, height, captions, sha256)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (candidate(), None),
        (candidate(width=0, height=0), "unreadable"),
        (candidate(width=12_000, height=10_001), "too-large"),
        (candidate(width=2**31 - 1, height=1), "too-large"),
        (candidate(width=12_000, height=10_000), None),
        (candidate(width=9), "too-small"),
        (candidate(width=10, height=10), None),
        (candidate(width=60), None),
        (candidate(width=61), "too-elongated"),
        (candidate(height=61), "too-elongated"),
        (candidate(captions=()), "caption-empty"),
        (candidate(captions=(" \t\n",)), "caption-empty"),
        (candidate(captions=("one",)), "caption-short"),
        (candidate(captions=("one two three four five",)), None),
        (candidate(captions=("one two three four five six",)), "caption-long"),
        (candidate(captions=("Click  HERE now",)), "caption-boilerplate"),
        (candidate(captions=("do not click here",)), None),
        (candidate(captions=("holiday photo album",)), "caption-boilerplate"),
        (candidate(captions=("0 0.481 0.338 0.35 0.41",)), "caption-no-letter"),
        (candidate(captions=("0 1e-05 0.3",)), "caption-no-letter"),
        (candidate(captions=("...",)), "caption-no-letter"),
        (candidate(captions=("\u2028 \x85",)), "caption-empty"),
        (candidate(captions=("two\0 words",)), "caption-binary"),
        (candidate(captions=("狗",)), "caption-short"),
        (candidate(captions=("一只狗",)), None),
        (candidate(captions=("一只狗在海滩",)), "caption-long"),
        (candidate(captions=("12", "two\0words", GOOD)), None),
        (candidate(captions=("one", GOOD)), None),
        (candidate(captions=("img 2034", "one")), "caption-boilerplate"),
        (candidate(width=9, captions=("one",)), "too-small"),
    ],
)
def test_reasons(image: Candidate, reason: str | None) -> None:
    assert list(apply_rules([image], CONFIG)) == [reason]


@pytest.mark.parametrize(
    ("captions", "reason"),
    [
        ((), None),
        ((" \n", ""), None),
        (("one",), None),
        (("Click  HERE now",), "caption-boilerplate"),
        (("", "img 1"), "caption-empty"),
        (("1 2",), "caption-no-letter"),
        (("\0",), "caption-binary"),
        (("狗",), None),
    ],
)
def test_without_a_least_number_of_words_silent_images_stay(captions: tuple[str, ...], reason: str | None) -> None:
    limits = CONFIG.model_copy(update={"min_words": 0})
    assert list(apply_rules([candidate(captions=captions)], limits)) == [reason]
    assert "" not in good_captions(captions, limits)


def test_a_duplicate_is_one_of_an_image_that_was_kept() -> None:
    images = [candidate(captions=("one",)), candidate(), candidate(), candidate(sha256="b"), candidate(sha256="b")]
    assert list(apply_rules(images, CONFIG)) == ["caption-short", None, "duplicate", None, "duplicate"]


def test_good_captions_are_those_without_fault() -> None:
    faulty = ["one", "", "free download", "1 2", "a\0 b", "狗"]
    assert good_captions([*faulty, GOOD, "three more words"], CONFIG) == [GOOD, "three more words"]


@pytest.mark.parametrize("boilerplate", [(), ("x",)])
@pytest.mark.parametrize("min_words", [0, 1, 2])
@pytest.mark.parametrize("caption", ["0 0.5 0.5 0.1 0.1", "a dog\0 runs"])
def test_no_limit_keeps_numbers_or_nul(boilerplate: tuple[str, ...], min_words: int, caption: str) -> None:
    limits = FilterConfig(min_side_px=1, min_words=min_words, max_words=1000, boilerplate=boilerplate)
    [reason] = apply_rules([candidate(captions=(caption,))], limits)
    assert reason in ("caption-no-letter", "caption-binary")


def test_without_patterns_nothing_is_boilerplate() -> None:
    assert caption_rejection_reason("click here", CONFIG.model_copy(update={"boilerplate": ()})) is None
    assert (
        caption_rejection_reason("a cat", CONFIG.model_copy(update={"boilerplate": (r"(?i)a (.)at", "x")})) is not None
    )


def source_of(folder: Path, contents: list[bytes], captions: tuple[str, ...] = (GOOD,)) -> Path:
    """A source shard of files; its first row was dropped already."""
    manifest = folder / "source/s.json"
    manifest.parent.mkdir(parents=True)
    with TableWriter(Job(manifest, "source", 1, {}, {}), SourceRow) as table:
        table.write(SourceRow(key="s-000000", kept=False, reason="no-image", source_key="x", captions=["lost"]))
        for index, content in enumerate(contents, start=1):
            path = folder / f"{index}.jpg"
            path.write_bytes(b"before" + content)
            row = SourceRow(
                key=f"s-{index:06d}",
                kept=True,
                source_key=str(index),
                file=str(path),
                offset=6,
                size=len(content),
                captions=list(captions),
            )
            table.write(row)
    return manifest


def test_a_shard(tmp_path: Path) -> None:
    png = encoded(30, 12, kind="PNG")
    cut = encoded(256, 256, color=3)[:-40]
    contents = [encoded(20, 20), png, HTML, b"", bomb(), encoded(5, 20), encoded(20, 20), cut]
    source, manifest = source_of(tmp_path, contents), tmp_path / "filter/s.json"
    filter_shard(source, manifest, CONFIG)
    rows = list(read_rows(manifest, FilterRow))
    assert [row.reason for row in rows] == [
        None,
        None,
        "unreadable",
        "unreadable",
        "too-large",
        "too-small",
        "duplicate",
        None,  # the header of an image that is cut short is whole: detect is the first to decode
    ]
    assert [row.key for row in rows] == [f"s-{index:06d}" for index in range(1, 9)]
    assert rows[1] == FilterRow(
        key="s-000002", kept=True, width=30, height=12, format="PNG", sha256=hashlib.sha256(png).hexdigest()
    )
    assert (rows[2].width, rows[2].height, rows[2].format) == (0, 0, None)
    assert rows[2].sha256 == hashlib.sha256(HTML).hexdigest()
    made = read_manifest(manifest)
    assert (made.read, made.kept) == (8, 3)
    assert list(made.inputs) == [source.as_posix()]
    assert made.dropped == {"unreadable": 2, "too-large": 1, "too-small": 1, "duplicate": 1}


def test_the_same_work_is_not_done_twice(tmp_path: Path) -> None:
    source, manifest = source_of(tmp_path, [encoded(20, 20)]), tmp_path / "filter/s.json"
    filter_shard(source, manifest, CONFIG)
    before = manifest.read_bytes()
    (tmp_path / "1.jpg").unlink()
    filter_shard(source, manifest, CONFIG)  # would fail, if it looked
    assert manifest.read_bytes() == before
    with pytest.raises(ShardError, match="cannot be read"):
        filter_shard(source, manifest, CONFIG.model_copy(update={"min_side_px": 9}))
    assert manifest.read_bytes() == before


def test_a_file_that_was_cut_since_stops_the_job_and_writes_nothing(tmp_path: Path) -> None:
    source, manifest = source_of(tmp_path, [encoded(20, 20)]), tmp_path / "filter/s.json"
    (tmp_path / "1.jpg").write_bytes(b"short")
    with pytest.raises(ShardError, match=r"1\.jpg: ends at byte"):
        filter_shard(source, manifest, CONFIG)
    assert not manifest.exists()
    assert not manifest.with_suffix(".parquet").exists()


def test_an_empty_shard(tmp_path: Path) -> None:
    manifest = tmp_path / "filter/s.json"
    filter_shard(source_of(tmp_path, []), manifest, CONFIG)
    assert list(kept_rows(manifest, FilterRow)) == []
    assert read_manifest(manifest).read == 0

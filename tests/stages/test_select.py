"""A scale is a prefix; what repeats or leaks is left out; too little is said with numbers; more shards change nothing."""

import hashlib
from pathlib import Path

import pytest

from fineclip.config import FilterConfig, ScaleConfig, WebDatasetSource
from fineclip.errors import ConfigError, DataError, ShardError
from fineclip.shards import (
    BenchmarkRow,
    FilterRow,
    Job,
    SelectRow,
    TableWriter,
    kept_rows,
    read_manifest,
    read_rows,
    sha256_of,
)
from fineclip.stages.filter import filter_shard
from fineclip.stages.select import ScaledSelectConfig, select_scale
from fineclip.stages.source.shard import source_shard
from fineclip.stages.source.shard_plan import PlannedShard
from tests.helpers.images import encoded, write_tar


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def shard(folder: Path, name: str, images: str) -> Path:
    """A filter table with an image a letter; capitals were dropped by the filter."""
    manifest = folder / f"data/filter/{name}.json"
    manifest.parent.mkdir(parents=True, exist_ok=True)
    with TableWriter(Job(manifest, "filter", 1, {}, {}), FilterRow) as table:
        for index, letter in enumerate(images):
            table.write(
                FilterRow(
                    key=f"{name}-{index:06d}",
                    kept=letter.islower(),
                    reason=None if letter.islower() else "too-small",
                    width=9,
                    height=9,
                    format="JPEG",
                    sha256=digest(letter.lower()),
                )
            )
    return manifest


def benchmark(folder: Path, images: str) -> Path:
    """The index of a benchmark with an image a letter; capitals are left out of its scores."""
    manifest = folder / "data/index/b.json"
    manifest.parent.mkdir(parents=True, exist_ok=True)
    with TableWriter(Job(manifest, "index", 1, {}, {}), BenchmarkRow) as table:
        for letter in images:
            row = BenchmarkRow(
                key=letter, kept=letter.islower(), reason=None if letter.islower() else "no-text", file="x", offset=0, size=1,
                sha256=digest(letter.lower()), width=1, height=1, captions=[], boxes=[],
            )  # fmt: skip
            table.write(row)
    return manifest


def select(
    folder: Path,
    filters: list[Path],
    images: int | None,
    *,
    allow_fewer: bool = False,
    leaks: str = "",
    name: str = "n",
) -> Path:
    manifest = folder / f"data/select/{name}.json"
    select_scale(
        filters,
        manifest,
        ScaledSelectConfig(exclude=("b",) if leaks else (), scale=ScaleConfig(images=images, allow_fewer=allow_fewer)),
        benchmarks=[benchmark(folder, leaks)] if leaks else [],
        scale=name,
    )
    return manifest


def drawn(manifest: Path) -> list[tuple[str, str | None]]:
    return [(row.key, row.reason) for row in read_rows(manifest, SelectRow)]


def test_repeats_and_leaks_are_left_out(tmp_path: Path) -> None:
    filters = [shard(tmp_path, "p", "aBc"), shard(tmp_path, "q", "adecf")]
    manifest = select(tmp_path, filters, 3, leaks="dz")
    assert drawn(manifest) == [
        ("p-000000", None),
        ("p-000002", None),
        ("q-000000", "repeated"),
        ("q-000001", "benchmark"),
        ("q-000002", None),
    ]
    assert [row.shard for row in read_rows(manifest, SelectRow)] == ["p", "p", "q", "q", "q"]
    made = read_manifest(manifest)
    assert (made.stage, made.read, made.kept) == ("select", 5, 3)
    assert made.dropped == {"repeated": 1, "benchmark": 1}
    assert made.config == {"images": 3, "leave_out": ["b"]}
    assert [Path(path).as_posix().split("data/")[1] for path in made.inputs] == [
        "filter/p.json",
        "filter/q.json",
        "index/b.json",
    ]


def test_images_that_a_benchmark_does_not_score_are_left_out_too(tmp_path: Path) -> None:
    manifest = select(tmp_path, [shard(tmp_path, "p", "abcd")], 2, leaks="aC")
    assert drawn(manifest) == [
        ("p-000000", "benchmark"),
        ("p-000001", None),
        ("p-000002", "benchmark"),
        ("p-000003", None),
    ]


def test_a_scale_is_the_beginning_of_a_larger_one(tmp_path: Path) -> None:
    filters = [shard(tmp_path, "p", "abca"), shard(tmp_path, "q", ""), shard(tmp_path, "r", "bdef")]
    every = drawn(select(tmp_path, filters, None, name="all"))
    for images in range(1, 7):
        some = select(tmp_path, filters, images, name=str(images))
        assert drawn(some) == every[: len(drawn(some))]
        assert sum(1 for _ in kept_rows(some, SelectRow)) == images


def test_more_shards_than_needed_change_no_byte(tmp_path: Path) -> None:
    filters = [shard(tmp_path, "p", "abc"), shard(tmp_path, "q", "d"), shard(tmp_path, "r", "e")]
    short, long = select(tmp_path, filters[:2], 4, name="a"), select(tmp_path, filters, 4, name="b", allow_fewer=True)
    assert short.with_suffix(".parquet").read_bytes() == long.with_suffix(".parquet").read_bytes()
    assert read_manifest(short).inputs == read_manifest(long).inputs
    before = sha256_of(short)
    written = short.with_suffix(".parquet").stat().st_mtime_ns
    short.unlink()
    select(tmp_path, filters, 4, name="a")
    assert sha256_of(short) == before
    assert short.with_suffix(".parquet").stat().st_mtime_ns == written


def test_a_changed_shard_is_drawn_again(tmp_path: Path) -> None:
    filters = [shard(tmp_path, "p", "abc")]
    manifest = select(tmp_path, filters, 2)
    shard(tmp_path, "p", "Abc")
    select(tmp_path, filters, 2)
    assert drawn(manifest) == [("p-000001", None), ("p-000002", None)]


def test_a_prefix_too_short_says_how_many_and_what_to_change(tmp_path: Path) -> None:
    filters = [shard(tmp_path, "p", "aBcC"), shard(tmp_path, "q", "acdE")]
    with pytest.raises(ConfigError) as error:
        select(tmp_path, filters, 4, name="100k")
    message = str(error.value)
    assert message.startswith(
        "scales.100k.images: 4 are asked for, but 2 shards of 8 samples leave 3 (5 past the filter,"
    )
    for part in (
        "2 repeated",
        "lower plan.expected_keep_rate (to 0.38 or less)",
        "plan.shard_margin",
        "scales.100k.allow_fewer: true",
    ):
        assert part in message
    assert not (tmp_path / "data/select").exists()
    manifest = select(tmp_path, filters, 4, name="100k", allow_fewer=True)
    assert read_manifest(manifest).kept == 3


@pytest.mark.parametrize("images", [None, 5])
def test_a_scale_of_nothing_is_an_error(tmp_path: Path, images: int | None) -> None:
    filters = [shard(tmp_path, "p", "AB"), shard(tmp_path, "q", "c")]
    with pytest.raises(DataError, match=r"scales.n: nothing is left .*1 benchmark"):
        select(tmp_path, filters, images, allow_fewer=True, leaks="c")


def test_a_scale_of_nothing_names_the_reasons_of_the_stages_before(tmp_path: Path) -> None:
    filters = []
    for name in ("p", "q"):
        members = [(f"{index}.jpg", encoded(color=index)) for index in range(3)]
        tar = write_tar(tmp_path / f"{name}.tar", [*members, ("2.txt", b"a cat on a mat"), ("3.txt", b"of no image")])
        source, filtered = tmp_path / f"source/{name}.json", tmp_path / f"filter/{name}.json"
        config = WebDatasetSource(kind="webdataset", root=str(tmp_path))
        source_shard(PlannedShard(name, 0, 1, (tar.as_posix(),)), source, config)
        filter_shard(source, filtered, FilterConfig(min_side_px=10_000))
        filters.append(filtered)
    with pytest.raises(DataError, match="nothing is left") as error:
        select(tmp_path, filters, None)
    for counted in (
        "Of 8 samples, the stage source dropped 4 no-text, 2 no-image.",
        "the stage filter dropped 2 too-small",
    ):
        assert counted in str(error.value)


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    path = shard(tmp_path, "p", "ab")
    path.with_suffix(".parquet").write_bytes(b"damaged")
    with pytest.raises(ShardError, match=r"p\.parquet: is not the one"):
        select(tmp_path, [path], 1)

"""Training images that are images of a benchmark, counted by hash."""

from dataclasses import replace
from pathlib import Path

from fineclip.report.overlap import Overlap, collect_overlaps
from fineclip.report.page import collect_report, render
from fineclip.report.result_files import ResultFiles
from fineclip.shards import BenchmarkRow, FilterRow, Job, TableWriter, read_rows
from tests.report.world import SHARDS, World


def write_index(world: World, name: str, hashes: list[str]) -> None:
    manifest = world.root / f"data/{world.name}/index/{name}.json"
    row = BenchmarkRow(
        key="", kept=True, file="", offset=0, size=1, sha256="", width=1, height=1, captions=[], boxes=[]
    )
    with TableWriter(Job(manifest, "index", 1, {}, {}), BenchmarkRow) as table:
        table.write_all(replace(row, key=f"k{number}", sha256=digest) for number, digest in enumerate(hashes))


def digest(number: int) -> str:
    return f"{number:064x}"


def write_hashes(world: World) -> None:
    """A filter table of the shard that the scales select from, in which every image has a hash of its own."""
    manifest = world.root / f"data/{world.name}/filter/{SHARDS[-1]}.json"
    rows = [row for row in read_rows(manifest, FilterRow) if row.kept]
    with TableWriter(Job(manifest, "filter", 1, {}, {}), FilterRow) as table:
        table.write_all(replace(row, sha256=digest(int(row.key[-6:]))) for row in rows)


def test_selected_images_of_a_benchmark_are_counted(world: World) -> None:
    write_hashes(world)
    filtered = read_rows(world.root / f"data/{world.name}/filter/{SHARDS[-1]}.json", FilterRow)
    numbers = [number for row in filtered if (number := int(row.key[-6:])) not in (3, 7)]  # these two are not selected
    write_index(world, "boxes", [digest(number) for number in (*numbers[:2], 3, 7, 9999)])
    write_index(world, "retrieval", [digest(9999)])
    found = collect_overlaps(world.config, ResultFiles(world.root, world.name))
    assert found == (Overlap("500", "boxes", 2, 500), Overlap("2000", "boxes", 2, 2000))
    page = render(collect_report(world.config, world.root))
    assert "2 of the 500 training images of scale 500 are images of benchmark boxes" in page


def test_nothing_is_said_without_overlap_or_without_an_index(world: World) -> None:
    files = ResultFiles(world.root, world.name)
    assert collect_overlaps(world.config, files) == ()
    write_index(world, "boxes", [digest(9999)])
    assert collect_overlaps(world.config, files) == ()
    assert "are images of benchmark" not in render(collect_report(world.config, world.root))


def test_a_damaged_index_is_a_problem(world: World) -> None:
    write_index(world, "boxes", ["0" * 64])
    Path(world.root / f"data/{world.name}/index/boxes.parquet").write_bytes(b"x")
    files = ResultFiles(world.root, world.name)
    assert collect_overlaps(world.config, files) == ()
    assert [problem.what for problem in files.problems] == [f"data/{world.name}/index/boxes.json"]

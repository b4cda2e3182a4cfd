"""Shards are known before the first job, in an order that the seed fixes, and what is not there is said."""

import os
import time
from pathlib import Path

import pytest

from fineclip.config import CocoSource, FolderSource, MiniatureSource, ScaleConfig, WebDatasetSource
from fineclip.errors import ConfigError
from fineclip.readers.files import directory_fingerprint
from fineclip.stages.source.shard_plan import (
    image_folder,
    images_per_shard,
    planned_shards,
    require_outside,
    shards_needed,
)
from tests.helpers.images import encoded, write_tar


def tars(root: Path, *names: str) -> WebDatasetSource:
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / name).touch()
    return WebDatasetSource(kind="webdataset", root=str(root))


def names_of(config: WebDatasetSource) -> list[str]:
    return [shard.name for shard in planned_shards(config)]


def test_miniature_shards_stand_in_order() -> None:
    config = MiniatureSource(kind="miniature", images=1301, images_per_shard=650)
    shards = planned_shards(config)
    assert [shard.name for shard in shards] == ["miniature-0000", "miniature-0001", "miniature-0002"]
    assert [(shard.position, shard.of, shard.tars) for shard in shards] == [(0, 3, ()), (1, 3, ()), (2, 3, ())]
    assert images_per_shard(config) == 650


def test_image_files_fix_the_number_of_shards(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.PNG", "deep/er/c.d.webp", "a.txt", "notes.csv", ".hidden.jpg", ".trash/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded())
    config = FolderSource(kind="folder", root=str(tmp_path), images_per_shard=2)
    assert [shard.name for shard in planned_shards(config)] == ["folder-0000", "folder-0001"]


def test_linked_folders_count_once(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a.jpg").write_bytes(encoded())
    (tmp_path / "real/round").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    config = FolderSource(kind="folder", root=str(tmp_path / "link"), images_per_shard=1)
    assert len(planned_shards(config)) == 1
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/b.jfif").write_bytes(encoded())
    for name in ("one", "two"):
        (tmp_path / "real" / name).symlink_to(tmp_path / "elsewhere")
    assert len(planned_shards(config)) == 2


def test_a_folder_of_other_formats_is_refused_with_their_suffixes(tmp_path: Path) -> None:
    for name in ("a.avif", "b.AVIF", "c", "d.txt", "e.csv"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"source\.root: .* holds no image .*, only 2 \.avif, 1 without a suffix"):
        planned_shards(FolderSource(kind="folder", root=str(tmp_path)))


def test_tars_in_linked_folders(tmp_path: Path) -> None:
    tars(tmp_path / "elsewhere", "a.tar", "b.tar", ".c.tar")
    config = tars(tmp_path / "in", "d.tar")
    (tmp_path / "in/one").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/two").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/round").symlink_to("round")
    found = {
        pattern: sorted(names_of(config.model_copy(update={"pattern": pattern})))
        for pattern in ("**/*.tar", "*/*.tar", "one/**/[a].tar")
    }
    assert found["**/*.tar"] == ["a", "b", "d"]
    assert found["*/*.tar"] == ["a", "b"]
    assert found["one/**/[a].tar"] == ["a"]


def test_a_tar_that_is_a_broken_link_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tars(tmp_path, "a.tar")
    (tmp_path / "b.tar").symlink_to("nowhere")
    assert names_of(config) == ["a"]
    assert "1 tars are links that lead nowhere" in caplog.text


def test_a_glance_sees_what_comes_goes_and_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.jpg").write_bytes(encoded())
    (tmp_path / "a.txt").write_text("one cat")
    first = directory_fingerprint(tmp_path)
    (tmp_path / "notes.csv").write_text("not looked at")
    (tmp_path / ".b.jpg").write_bytes(encoded())
    assert directory_fingerprint(tmp_path) == first
    (tmp_path / "sub/b.jpg").write_bytes(encoded())
    assert directory_fingerprint(tmp_path) != first
    (tmp_path / "sub/b.jpg").unlink()
    assert directory_fingerprint(tmp_path) == first
    os.utime(tmp_path / "a.txt", ns=(1, 1))  # as if written to, at the same length
    changed = directory_fingerprint(tmp_path)
    assert changed != first
    monkeypatch.setattr("fineclip.readers.files.MOST_ASKED", 1)
    many = directory_fingerprint(tmp_path)
    os.utime(tmp_path / "a.txt", ns=(2, 2))
    assert directory_fingerprint(tmp_path) == many != changed


def test_the_folder_that_is_looked_at(tmp_path: Path) -> None:
    assert image_folder(FolderSource(kind="folder", root="in")) == Path("in")
    assert image_folder(CocoSource(kind="coco", root="in")) == Path("in/train2017")
    assert image_folder(WebDatasetSource(kind="webdataset", root="in")) is None


def test_an_empty_folder_says_what_to_put_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"source.root: .* holds no image .*\.jpg"):
        planned_shards(FolderSource(kind="folder", root=str(tmp_path)))
    with pytest.raises(ConfigError, match="no such folder. Put your images there, with captions"):
        planned_shards(FolderSource(kind="folder", root=str(tmp_path / "gone")))
    with pytest.raises(ConfigError, match="no such folder. Put the tars"):
        planned_shards(WebDatasetSource(kind="webdataset", root=str(tmp_path / "gone")))


def test_a_table_of_captions_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded())
    with pytest.raises(ConfigError, match="source.captions: no such file"):
        planned_shards(FolderSource(kind="folder", root=str(tmp_path), captions="c.csv"))
    with pytest.raises(ConfigError, match=r"neither \.csv, \.tsv nor \.parquet"):
        planned_shards(FolderSource(kind="folder", root=str(tmp_path), captions="c.xlsx"))


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ("train2017", "source.images: .*no such folder"),
        ("annotations/captions_train2017.json", "source.captions: .*no such file"),
        ("annotations/instances_train2017.json", "source.instances: .*or set source.instances to null"),
    ],
)
def test_a_part_of_coco_that_is_absent_is_named(tmp_path: Path, absent: str, message: str) -> None:
    (tmp_path / "train2017").mkdir()
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train2017/1.jpg").write_bytes(encoded())
    for name in ("captions", "instances"):
        (tmp_path / f"annotations/{name}_train2017.json").write_text("{}")
    config = CocoSource(kind="coco", root=str(tmp_path))
    assert [shard.name for shard in planned_shards(config)] == ["coco-0000"]
    (tmp_path / absent).rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=message):
        planned_shards(config)


def test_tars_are_grouped_by_name_and_shuffled_by_seed(tmp_path: Path) -> None:
    config = tars(tmp_path, *(f"cc3m-train-{number:04d}.tar" for number in reversed(range(7))), "stats.json")
    config = config.model_copy(update={"tars_per_shard": 2})
    shards = planned_shards(config)
    assert {shard.name: [Path(tar).stem[-1] for tar in shard.tars] for shard in shards} == {
        "cc3m-train-0000": ["0", "1"],
        "cc3m-train-0002": ["2", "3"],
        "cc3m-train-0004": ["4", "5"],
        "cc3m-train-0006": ["6"],
    }
    assert [shard.position for shard in shards] == [0, 1, 2, 3]
    orders = {tuple(names_of(config.model_copy(update={"seed": seed}))) for seed in range(5)}
    assert len(orders) > 1
    assert names_of(config) == names_of(config)
    assert images_per_shard(config) == 10_000


def test_a_tar_more_moves_no_other(tmp_path: Path) -> None:
    before = names_of(tars(tmp_path, "a.tar", "b.tar", "c.tar", "d.tar"))
    after = names_of(tars(tmp_path, "e.tar"))
    assert [name for name in after if name != "e"] == before


def test_dots_in_a_stem_do_not_get_into_keys(tmp_path: Path) -> None:
    assert names_of(tars(tmp_path / "a", "cc3m.train 00.tar")) == ["cc3m-train-00"]
    with pytest.raises(ConfigError, match="would both name the shard a-b"):
        names_of(tars(tmp_path / "b", "a.b.tar", "a-b.tar"))
    with pytest.raises(ConfigError, match="has no letter or digit"):
        names_of(tars(tmp_path / "c", "….tar"))


def test_half_a_copy_stops(tmp_path: Path) -> None:
    config = tars(tmp_path, "a.tar", "b.tar").model_copy(update={"expected_tars": 576})
    with pytest.raises(ConfigError, match=r"source.expected_tars: 2 tars match .*, but 576 are expected"):
        planned_shards(config)


@pytest.mark.parametrize(("pattern", "message"), [("*.tar.gz", "is compressed"), ("*.tar", "is compressed")])
def test_compressed_tars_are_refused(tmp_path: Path, pattern: str, message: str) -> None:
    config = tars(tmp_path, "a.tar.gz").model_copy(update={"pattern": pattern})
    with pytest.raises(ConfigError, match=message):
        planned_shards(config)


@pytest.mark.parametrize("pattern", ["", "../*.tar", "/tmp/*.tar", "nothing-*.tar", "a**.tar", "**/b.tar"])
def test_a_pattern_that_leads_nowhere_is_refused(tmp_path: Path, pattern: str) -> None:
    config = tars(tmp_path, "a.tar").model_copy(update={"pattern": pattern})
    with pytest.raises(ConfigError, match=r"source\.(pattern|root): "):
        planned_shards(config)


def test_cc3m_is_planned_from_names_alone_at_once(tmp_path: Path) -> None:
    config = tars(tmp_path, *(f"cc3m-train-{number:04d}.tar" for number in range(576)))
    started = time.process_time()
    assert len(planned_shards(config.model_copy(update={"tars_per_shard": 2, "expected_tars": 576}))) == 288
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("images", "expected_keep_rate", "shard_margin", "shards"),
    [
        (500, 0.8, 0.05, 2),  # 656 samples
        (2000, 0.8, 0.04, 4),  # 2600 samples: exactly four shards
        (2000, 0.8, 0.05, 5),  # 2625 samples
        (1, 1.0, 0.0, 1),
        (None, 0.8, 0.05, 9),
        (1_000_000, 0.8, 0.05, 9),
    ],
)
def test_shards_that_a_scale_needs(
    images: int | None, expected_keep_rate: float, shard_margin: float, shards: int
) -> None:
    scale = ScaleConfig(images=images)
    assert shards == shards_needed(
        scale, expected_keep_rate=expected_keep_rate, shard_margin=shard_margin, images_per_shard=650, available=9
    )


def test_nothing_expected_to_survive_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected_keep_rate"):
        shards_needed(ScaleConfig(images=5), expected_keep_rate=0, shard_margin=0, images_per_shard=5, available=1)


def test_outputs_and_inputs_do_not_lie_in_one_another(tmp_path: Path) -> None:
    (tmp_path / "data/coco").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data", target_is_directory=True)

    def source(root: Path) -> FolderSource:
        return FolderSource(kind="folder", root=str(root))

    require_outside(source(tmp_path / "data/coco"), tmp_path / "data/coco2017")
    for root in (tmp_path / "data", tmp_path / "link", tmp_path / "data/mine", tmp_path / "data/mine/input"):
        with pytest.raises(ConfigError, match="never written"):
            require_outside(source(root), tmp_path / "data/mine")
    require_outside(MiniatureSource(kind="miniature"), tmp_path)


def test_tars_are_named_as_seen_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_tar(Path("data/cc3m/a.tar"), [])
    config = WebDatasetSource(kind="webdataset", root="data/cc3m")
    assert planned_shards(config)[0].tars == ("data/cc3m/a.tar",)

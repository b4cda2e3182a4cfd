"""The comparison of two commits notices every kind of difference."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import identity
from tests.identity import compare

TAR = "data/miniature/pack/mini.mini/m-0000.tar"
WEIGHTS = "results/miniature/clip-mini-all-s0/model.safetensors"
SCORES = "results/miniature/clip-mini-all-s0/evals/boxes.json"
MEMBERS = {
    f"m-0000-{index:06d}.{suffix}": f"{suffix} of {index}".encode()
    for index in range(3)
    for suffix in ("jpg", "txt", "json")
}


def write_tar(path: Path, members: dict[str, bytes], *, mtime: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(content), mtime
            archive.addfile(entry, io.BytesIO(content))


def write_scores(path: Path, value: float, **more: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"scores": [{"metric": "things/top1", "value": value, "n": 3}], **more}))


def checkout(folder: Path) -> Path:
    """A folder with three samples, the weights of one run and one score file."""
    write_tar(folder / TAR, MEMBERS)
    (folder / WEIGHTS).parent.mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(b"weights")
    write_scores(folder / SCORES, 26.6)
    return folder


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    return checkout(tmp_path / "base"), checkout(tmp_path / "head")


def test_equal_results(sides: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    base, head = sides
    write_tar(head / TAR, MEMBERS, mtime=5)  # headers and other keys are no result
    write_scores(head / SCORES, 26.6, config={"new": "key"})
    assert compare(base, head) == 0
    assert capsys.readouterr().out == "5 of 5 identical (3 sample, 1 weights, 1 scores)\n"


def one_byte_of_an_image(root: Path) -> None:
    write_tar(root / TAR, MEMBERS | {"m-0000-000001.jpg": b"jpg of 7"})


def a_renamed_member(root: Path) -> None:
    write_tar(root / TAR, {name.replace("000001.txt", "000001.cap"): value for name, value in MEMBERS.items()})


def a_missing_sample(root: Path) -> None:
    write_tar(root / TAR, {name: value for name, value in MEMBERS.items() if "000002" not in name})


def a_repeated_member(root: Path) -> None:
    path = root / TAR
    write_tar(path, MEMBERS)
    with tarfile.open(path, "a") as archive:
        archive.addfile(tarfile.TarInfo("m-0000-000000.txt"), io.BytesIO(b""))


def other_weights(root: Path) -> None:
    (root / WEIGHTS).write_bytes(b"weightz")


def missing_weights(root: Path) -> None:
    (root / WEIGHTS).unlink()


def the_last_bit_of_a_score(root: Path) -> None:
    write_scores(root / SCORES, 26.6 + 4e-15)


def a_missing_score_file(root: Path) -> None:
    (root / SCORES).unlink()


def another_score_file(root: Path) -> None:
    write_scores(root / SCORES.replace("boxes", "retrieval"), 1.0)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    ("change", "kind", "same", "of"),
    [
        (one_byte_of_an_image, "sample differs", 4, 5),
        (a_renamed_member, "sample differs", 4, 5),
        (a_missing_sample, "sample only in", 4, 5),
        (a_repeated_member, "sample differs", 4, 5),
        (other_weights, "weights differs", 4, 5),
        (missing_weights, "weights only in", 4, 5),
        (the_last_bit_of_a_score, "scores differs", 4, 5),
        (a_missing_score_file, "scores only in", 4, 5),
        (another_score_file, "scores only in", 5, 6),
    ],
)
def test_a_difference_on_either_side(
    sides: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    side: int,
    change: Callable[[Path], None],
    kind: str,
    same: int,
    of: int,
) -> None:
    change(sides[side])
    assert compare(*sides) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(kind) and last.startswith(f"{same} of {of} identical")


@pytest.mark.parametrize("change", [missing_weights, a_missing_score_file])
def test_a_kind_that_neither_side_has(sides: tuple[Path, Path], change: Callable[[Path], None]) -> None:
    """Two workflows that made nothing are not identical results."""
    for side in sides:
        change(side)
    assert compare(*sides) == 1


def test_pins_of_the_base_must_be_ours(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    ours = (identity.ROOT / "requirements.lock").read_text().splitlines()
    lock.write_text("\n".join(ours[1:]))
    identity.require_pins(lock)
    lock.write_text("\n".join([*ours, "torch==1.0"]))
    with pytest.raises(SystemExit, match=r"torch==1\.0"):
        identity.require_pins(lock)


@pytest.mark.parametrize("status", [0, 3])
def test_a_commit_runs_from_its_own_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """In a clone of HEAD a stand-in for Snakemake records where it runs, and what it would import."""
    stand_in = tmp_path / "stand-in" / "python"
    stand_in.parent.mkdir()
    stand_in.write_text(f'#!/bin/sh\npwd > ran\necho "$PYTHONPATH" "$@" >> ran\nexit {status}\n')
    stand_in.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(stand_in))
    head = identity.git("rev-parse", "HEAD")
    clone = tmp_path / head
    if status:
        with pytest.raises(SystemExit, match=str(status)):
            identity.run_miniature("HEAD", tmp_path)
    else:
        assert identity.run_miniature("HEAD", tmp_path) == clone
    assert (clone / "ran").read_text().split() == [str(clone), str(clone), "-m", "snakemake", "--cores", "2"]
    (clone / "ran").unlink()
    if not status:
        identity.run_miniature("HEAD", tmp_path)
        assert not (clone / "ran").exists()  # it ran to its end before

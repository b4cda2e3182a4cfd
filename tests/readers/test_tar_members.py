"""Members of a tar: what a link stands for, keys by the first and by the last dot, and what the log says about skipped ones."""

import io
import logging
import tarfile
from pathlib import Path

import pytest

from fineclip.errors import ShardError
from fineclip.readers import tar_members
from fineclip.readers.tar_headers import Entry
from fineclip.readers.tar_members import index_tar, key_to_first_dot, key_to_last_dot, link_targets, samples_of
from tests.helpers.images import write_tar


def write_linked(path: Path, members: list[tuple[str, bytes | str]], kind: bytes) -> Path:
    """A tar whose members have content, or are links to a name."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            header = tarfile.TarInfo(name)
            if isinstance(content, str):
                header.type, header.linkname = kind, content
                tar.addfile(header)
            else:
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
    return path


def contents(tar: Path) -> list[tuple[str, bytes]]:
    whole = tar.read_bytes()
    found = index_tar(tar).members
    return [(one.name, whole[one.piece.offset : one.piece.offset + one.piece.size]) for one in found]


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_a_link_stands_for_a_member_before_or_after_it(tmp_path: Path, kind: bytes) -> None:
    members = [("c.jpg", "b.jpg"), ("b.jpg", "./a.jpg"), ("a.jpg", b"A"), ("a.txt", b"text"), ("b.txt", "a.txt")]
    tar = write_linked(tmp_path / "a.tar", members, kind)
    assert contents(tar) == [("c.jpg", b"A"), ("b.jpg", b"A"), ("a.jpg", b"A"), ("a.txt", b"text"), ("b.txt", b"text")]
    assert [one.content for one in index_tar(tar).members if one.kind == "text"] == [b"text", b"text"]


def test_a_symbolic_link_is_relative_to_its_folder_and_a_hard_link_is_not(tmp_path: Path) -> None:
    members: list[tuple[str, bytes | str]] = [("a", b"outer"), ("d/a", b"inner"), ("d/l.jpg", "a"), ("d/m.jpg", "../a")]
    symbolic = write_linked(tmp_path / "s.tar", members, tarfile.SYMTYPE)
    assert contents(symbolic) == [("d/l.jpg", b"inner"), ("d/m.jpg", b"outer")]
    hard = write_linked(tmp_path / "h.tar", members, tarfile.LNKTYPE)
    assert contents(hard) == [("d/l.jpg", b"outer")]


def test_links_out_of_the_tar_in_a_circle_or_to_themselves_are_skipped_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outside = tmp_path / "secret.jpg"
    outside.write_bytes(b"secret")
    targets = {
        "a": outside.as_posix(),
        "b": "../secret.jpg",
        "c": "secret.jpg",
        "d": "e.jpg",
        "e": "d.jpg",
        "f": "f.jpg",
    }
    members: list[tuple[str, bytes | str]] = [(f"{name}.jpg", target) for name, target in targets.items()]
    tar = write_linked(tmp_path / "a.tar", [("k.jpg", b"K"), *members], tarfile.SYMTYPE)
    assert contents(tar) == [("k.jpg", b"K")]
    assert "6 links lead to no member" in caplog.text
    assert "'a.jpg'" in caplog.text


def test_a_chain_of_links_has_a_limit() -> None:
    chain = [Entry(f"{number}", "symbolic link", 0, 0, f"{number + 1}") for number in range(60)]
    entries = [*chain, Entry("60", "file", 512, 1)]
    targets = link_targets(entries)
    assert [number for number, target in targets.items() if target is None] == list(range(60 - tar_members.MAX_LINKS))


def test_a_link_in_a_joined_tar_stands_for_a_member_of_the_same_part(tmp_path: Path) -> None:
    parts = []
    for number, content in enumerate((b"first", b"second")):
        members: list[tuple[str, bytes | str]] = [("l.jpg", "a.jpg"), ("a.jpg", content), ("m.jpg", "a.jpg")]
        parts.append(write_linked(tmp_path / f"{number}", members, tarfile.LNKTYPE).read_bytes())
    (tmp_path / "a.tar").write_bytes(b"".join(parts))
    assert [content for _, content in contents(tmp_path / "a.tar")] == [b"first"] * 3 + [b"second"] * 3


def test_a_link_takes_the_last_member_of_its_name_before_it() -> None:
    link = Entry("l", "hard link", 0, 0, "a")
    entries = [Entry("a", "file", 1, 1), Entry("a", "file", 2, 1), link, Entry("a", "file", 3, 1)]
    assert link_targets(entries) == {2: entries[1]}


def test_another_target_is_another_fingerprint(tmp_path: Path) -> None:
    prints = set()
    for target in ("a.jpg", "b.jpg", "none.jpg"):
        tar = write_linked(tmp_path / "a.tar", [("a.jpg", b"A"), ("b.jpg", b"B"), ("l.jpg", target)], tarfile.LNKTYPE)
        prints.add(index_tar(tar).fingerprint)
    assert len(prints) == 3


@pytest.mark.parametrize(
    ("name", "last", "first"),
    [
        ("0001.image.jpg", "0001.image", "0001"),
        ("./a.b/c.d.txt", "a.b/c.d", "a.b/c"),
        ("k.jpg", "k", "k"),
        ("../x.y.json", "../x.y", "../x"),
    ],
)
def test_keys(name: str, last: str, first: str) -> None:
    assert (key_to_last_dot(name), key_to_first_dot(name)) == (last, first)


def test_samples_by_either_key(tmp_path: Path) -> None:
    names = [f"{number}.{part}" for number in range(2) for part in ("image.jpg", "caption.txt", "meta.json")]
    index = index_tar(write_tar(tmp_path / "a.tar", [(name, b"{}") for name in names]))
    assert len(samples_of(index.members, key_to_last_dot)) == 6
    by_first = samples_of(index.members, key_to_first_dot)
    assert [(parts.key, sorted(parts.members)) for parts in by_first] == [
        (key, ["image", "json", "text"]) for key in "01"
    ]


def test_skipped_members_are_counted_by_suffix(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_members, "MAX_TEXT", 1 << 20)
    caplog.set_level(logging.INFO)
    names = ["k.npy", "l.npy", "k.AVIF", "README", "._k.jpg", "k.a\nb"]
    tar = write_tar(tmp_path / "a.tar", [(name, b"") for name in names] + [("k.json", b" " * ((1 << 20) + 1))])
    assert index_tar(tar).members == []
    assert "7 members are skipped" in caplog.text
    for counted in ("2 .npy", "1 .avif", "1 without a suffix", "1 hidden", "1 .json of more than 1 MiB", r"1 '.a\nb'"):
        assert counted in caplog.text


def test_only_the_commonest_suffixes_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    index_tar(write_tar(tmp_path / "a.tar", [(f"k.{number:04d}", b"") for number in range(500)]))
    assert "500 members are skipped" in caplog.text
    assert len(caplog.text) < 1000


def test_texts_beyond_what_memory_should_hold_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_members, "MAX_TEXTS", 1 << 20)
    tar = write_tar(tmp_path / "a.tar", [(f"{number}.txt", b"x" * (1 << 19)) for number in range(2)])
    assert len(index_tar(tar).members) == 2
    write_tar(tar, [(f"{number}.txt", b"x" * (1 << 19)) for number in range(3)])
    with pytest.raises(ShardError, match="more than 1 MiB"):
        index_tar(tar)

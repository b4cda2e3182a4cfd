"""Embeddings in a file: what goes in comes out, of any text, and what is damaged is named."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fineclip.errors import ShardError
from fineclip.shards import TextsFile, write_texts

TEXTS = ["a dog", "", "zwei Wörter", "a cat", *(f"text {number}" for number in range(200))]
WIDTH = 5


def features(count: int = len(TEXTS)) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, WIDTH)).astype(np.float32)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "s.safetensors"
    write_texts(path, TEXTS, features(), text_tower="abc")
    return path


def test_every_text_finds_its_embedding(file: Path) -> None:
    opened = TextsFile(file)
    assert (len(opened), opened.width, opened.text_tower) == (len(TEXTS), WIDTH, "abc")
    np.testing.assert_array_equal(opened.features(TEXTS), features())
    np.testing.assert_array_equal(opened.features(["a cat", "", "a cat"]), features()[[3, 1, 3]])
    assert opened.features([]).shape == (0, WIDTH)


def test_what_is_given_is_a_copy_that_may_be_written_to(file: Path) -> None:
    opened = TextsFile(file)
    opened.features(["a dog"])[:] = 0
    np.testing.assert_array_equal(opened.features(["a dog"]), features()[:1])


@pytest.mark.parametrize("text", ["a Dog", "a dog ", "\0", "zzz"])
def test_a_text_that_is_not_there(file: Path, text: str) -> None:
    with pytest.raises(KeyError) as raised:
        TextsFile(file).features(["a cat", text])
    assert raised.value.args == (text,)
    assert text not in TextsFile(file) and "a cat" in TextsFile(file)


def test_safetensors_reads_it(file: Path) -> None:
    tensors = load_file(file)
    assert {name: (value.shape, value.dtype.name) for name, value in tensors.items()} == {
        "features": ((len(TEXTS), WIDTH), "float32"),
        "rows": ((len(TEXTS),), "int32"),
        "hashes": ((len(TEXTS), 16), "uint8"),
    }
    np.testing.assert_array_equal(tensors["features"], features())
    assert [bytes(row) for row in tensors["hashes"]] == sorted(bytes(row) for row in tensors["hashes"])


def test_no_text_is_a_file_too(tmp_path: Path) -> None:
    write_texts(tmp_path / "s.safetensors", [], features(0), text_tower="abc")
    opened = TextsFile(tmp_path / "s.safetensors")
    assert (len(opened), opened.width, opened.features([]).shape) == (0, WIDTH, (0, WIDTH))
    with pytest.raises(KeyError):
        opened.features(["a dog"])


def test_the_same_bytes_again_and_nothing_else_left(file: Path) -> None:
    other = file.with_name("t.safetensors")
    write_texts(other, TEXTS, features(), text_tower="abc")
    assert other.read_bytes() == file.read_bytes()
    assert sorted(path.name for path in file.parent.iterdir()) == ["s.safetensors", "t.safetensors"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], r"hashes are \[204, 16\] of U8 in 3,263 bytes"),
        (lambda content: content[:100], ""),
        (lambda content: b"<html>no file</html>", "a header of"),
        (lambda content: content.replace(b'"I32"', b'"I64"'), "rows are .*I64"),
        (lambda content: content.replace(b"text_tower", b"text_power"), "text_tower"),
        (lambda content: b"", ""),
    ],
)
def test_a_damaged_file_is_named(file: Path, damage: object, message: str) -> None:
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    with pytest.raises(ShardError, match=rf"s\.safetensors: is not a file of texts, or is damaged \(.*{message}"):
        TextsFile(file)


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"s\.safetensors: cannot be read \(No such file"):
        TextsFile(tmp_path / "s.safetensors")


def test_texts_stand_there_once(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="distinct texts"):
        write_texts(tmp_path / "s.safetensors", ["a", "a"], features(2), text_tower="abc")

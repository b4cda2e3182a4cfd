"""Bytes of any encoding become text, a file becomes captions, and words are counted in every script."""

import codecs

import pytest

from fineclip.readers.json_documents import parse_json
from fineclip.readers.text import captions_of_file, count_words, decode_text, has_word, lines_of, stated_captions

TEXT = "a café,\na “dog” 猫 🐕"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_every_encoding_with_a_mark_and_utf_8(encoding: str) -> None:
    assert decode_text(TEXT.encode(encoding)) == TEXT


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
def test_both_orders_of_bytes(mark: bytes, encoding: str) -> None:
    assert decode_text(mark + TEXT.encode(encoding)) == TEXT


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", ""),
        (codecs.BOM_UTF8, ""),
        (codecs.BOM_UTF16_LE, ""),
        (b"caf\xe9 \x93dog\x94 \x80 5", "café “dog” € 5"),
        (b"\x81\x8d\x8f\x90\x9d caf\xe9", "\x81\x8d\x8f\x90\x9d café"),  # not defined in Windows-1252
        (codecs.BOM_UTF8 + b"caf\xe9", "café"),
        (codecs.BOM_UTF16_LE + b"a\0b\0c", "ab\ufffd"),
        (codecs.BOM_UTF16_LE + b"\0\0a\0b\0", "\0ab"),  # begins as UTF-32 does
        ("a\u2028b\x85c".encode(), "a\u2028b\x85c"),
    ],
)
def test_bytes_by_hand(content: bytes, text: str) -> None:
    assert decode_text(content) == text


def test_any_bytes_are_decoded() -> None:
    every = bytes(range(256))
    assert len(decode_text(every)) == 256
    for mark in (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):
        assert isinstance(decode_text(mark + every), str)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_json_of_every_encoding(encoding: str) -> None:
    assert parse_json(f'{{"caption": "{TEXT[:6]}"}}'.encode(encoding)) == {"caption": TEXT[:6]}


def test_json_in_windows_1252_and_what_is_no_json() -> None:
    assert parse_json(b'["caf\xe9"]') == ["café"]
    for content in (b"", b"{", b"\0\0", codecs.BOM_UTF16_LE + b"{", b"\xff"):
        with pytest.raises(ValueError):
            parse_json(content)


@pytest.mark.parametrize("separator", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
def test_other_separators_end_no_caption(separator: str) -> None:
    found = captions_of_file(f"two{separator}words\r\nnext\rlast\n".encode())
    assert found == [f"two{separator}words", "next", "last"]
    assert found[0].split() == ["two", "words"]


def test_lines() -> None:
    assert lines_of("a\n\nb\r\n") == ["a", "", "b", ""]
    assert lines_of("a\n\rb") == ["a", "", "b"]


@pytest.mark.parametrize(
    ("content", "stated", "captions"),
    [
        (b"", [], [""]),
        (b" \n\t\r\n", [], [""]),
        (b"one\ntwo\n\n", [], ["one", "two"]),
        (b"one\ntwo", ["another"], ["one", "two"]),
        (b"one\ntwo", ["one", "two"], ["one", "two"]),
        (b"one\ntwo\n", ["one\ntwo"], ["one\ntwo"]),
        (b"one\r\ntwo", ["other", " one two "], ["one\r\ntwo"]),
        ("one\ntwo".encode("utf-16"), ["one two"], ["one\ntwo"]),
    ],
)
def test_captions_of_a_file(content: bytes, stated: list[str], captions: list[str]) -> None:
    assert captions_of_file(content, stated) == captions


def test_stated_captions() -> None:
    assert stated_captions({"caption": "a", "captions": ["b", 1, None, "c"]}) == ["a", "b", "c"]
    assert stated_captions({"caption": None, "captions": "b"}) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        (" \u2028 ", 0),
        ("a dog , running", 4),
        ("ein süßer Hund", 3),
        ("собака бежит", 2),
        ("강아지가 해변을 달린다", 3),
        ("狗", 1),
        ("一只狗在海滩上奔跑", 9),
        ("一只狗\uff0c在海滩\u3002", 6),
        ("犬が海辺を走っている", 10),
        ("ｶﾒﾗ", 3),
        ("二〇二四年", 5),
        ("สุนัขวิ่ง", 5),
        ("ໝາ", 2),
        ("ឆ្កែ", 2),
        ("ခွေး", 1),
        ("ကလေး", 2),
        ("𠮷野家", 3),
        ("iPhone 6s手机", 4),
        ("猫 - a cat", 4),
    ],
)
def test_words(text: str, words: int) -> None:
    assert count_words(text) == words


@pytest.mark.parametrize("text", ["a", "狗", "ß", "1st place", "3D", "x = 5", "0x", "5 €/kg", "é"])
def test_letters(text: str) -> None:
    assert has_word(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "12",
        "0 0.481 0.338 0.35 0.41",
        "1,0.5,4e-05,.5",
        "+1E10 -3.",
        "...",
        "🐕 🐈",
        "2034-05-06",
        "\u2028",
        "_",
    ],
)
def test_no_letters(text: str) -> None:
    assert not has_word(text)

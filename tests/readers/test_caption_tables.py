"""Tables as Excel, pandas and people write them; what is wrong is said with the line."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fineclip.errors import DataError
from fineclip.readers.caption_tables import captions_by_image


def read(tmp_path: Path, content: bytes | str, name: str = "c.csv") -> dict[str, list[str]]:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return captions_by_image(path)


def read_parquet(tmp_path: Path, **columns: object) -> dict[str, list[str]]:
    pq.write_table(pa.table(columns), tmp_path / "c.parquet")
    return captions_by_image(tmp_path / "c.parquet")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    content = "image,caption\r\n1.jpg,a café\r\n".encode(encoding)
    assert read(tmp_path, content) == {"1.jpg": ["a café"]}


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_that_of_the_first_line(tmp_path: Path, separator: str) -> None:
    others = "; , | and \t"
    content = f'image{separator}n{separator}caption\n1.jpg{separator}7{separator}"a {others} b"\n'
    assert read(tmp_path, content) == {"1.jpg": [f"a {others} b"]}


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;"])
def test_excels_line_of_the_separator(tmp_path: Path, first: str) -> None:
    assert read(tmp_path, f"{first}\r\nimage;caption\r\n1.jpg;a, b\r\n") == {"1.jpg": ["a, b"]}
    with pytest.raises(DataError, match="line 4 has 3 values"):
        read(tmp_path, f"{first}\r\nimage;caption\r\n1.jpg;a\r\n2.jpg;b;c\r\n")


def test_a_tsv(tmp_path: Path) -> None:
    assert read(tmp_path, "caption\timage\na, b\t1.jpg\n", "c.tsv") == {"1.jpg": ["a, b"]}


def test_blank_lines_and_rows_without_a_name_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = "\n\nimage,caption\n\n1.jpg,a\n   \n,\n,nobody\n1.jpg,\n"
    assert read(tmp_path, content) == {"1.jpg": ["a", ""]}
    assert "1 rows name no image" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,caption\n1.jpg,a, b\n", r"c\.csv: line 2 has 3 values, and the first line 2: '1\.jpg,a, b'"),
        ("image,caption,url\n1.jpg,a,b\n2.jpg,a\n", r"line 3 has 2 values, and the first line 3"),
        ('image,caption\n1.jpg,"a\nb\r\nc"\n\n2.jpg,a,b\n', r"line 6 has 3 values"),
        ('image,caption\r1.jpg,"a\rb"\r2.jpg\r', r"line 4 has 1 values"),
        ("image,caption\n1.jpg,a\u2028b\x0cc\n2.jpg,a,b\n", r"line 3 has"),
        ("image;caption\n1.jpg;a; b\n", r"line 2 has 3 values.*contains semicolons"),
        ("image\tcaption\n1.jpg a\n", r"line 2 has 1 values.*contains tabs"),
        ('image,caption\n1.jpg,a\n2.jpg,"b" c\n', r"line 3 cannot be read as CSV"),
        ('image,caption\n1.jpg,"a\nb\n', r"line 2 cannot be read as CSV"),
        ("Image,caption\n1.jpg,a\n", r"no column image; it has Image, caption\. Rename 'Image' to 'image'"),
        ("image; caption\n1.jpg;a\n", r"Rename ' caption' to 'caption'"),
        ("image,caption,caption\n1.jpg,a,b\n", r"has 2 columns caption"),
        ("file,text\n1.jpg,a\n", r"has no column image and no column caption; it has file, text"),
        ("\n \n", r"it has none"),
    ],
)
def test_what_is_wrong_in_a_csv(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, content)


def test_the_limit_of_a_field_is_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2 cannot be read as CSV: field larger"):
        read(tmp_path, f"image,caption\n1.jpg,{'a' * 200_000}\n")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.binary()])
def test_types_of_text_in_a_parquet(tmp_path: Path, kind: pa.DataType) -> None:
    texts = [text.encode() if kind == pa.binary() else text for text in ("é.jpg", "a café")]
    image, caption = (pa.array([text], kind) for text in texts)
    assert read_parquet(tmp_path, image=image, caption=caption) == {"é.jpg": ["a café"]}


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.string(), 2)])
def test_lists_of_captions(tmp_path: Path, kind: pa.DataType) -> None:
    caption = pa.array([["a", "b"], None, ["c", None]], kind)
    found = read_parquet(tmp_path, image=["1.jpg", "2.jpg", "1.jpg"], caption=caption)
    assert found == {"1.jpg": ["a", "b", "c"], "2.jpg": []}


@pytest.mark.parametrize(
    "numbers", [pa.array([1, 20, None]), pa.array([1.0, 20.0, None]), pa.array([1.0, 20.0, float("nan")])]
)
def test_names_that_are_numbers(tmp_path: Path, numbers: pa.Array, caplog: pytest.LogCaptureFixture) -> None:
    assert read_parquet(tmp_path, image=numbers, caption=["a", "b", "c"]) == {"1": ["a"], "20": ["b"]}
    assert "1 rows name no image" in caplog.text


def test_bytes_in_a_parquet_are_decoded_as_every_text(tmp_path: Path) -> None:
    caption = pa.array([b"caf\xe9", "café".encode("utf-16")], pa.binary())
    assert read_parquet(tmp_path, image=["1.jpg", "1.jpg"], caption=caption) == {"1.jpg": ["café", "café"]}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [{"path": "1.jpg"}], "caption": ["a"]}, "column image is of type struct"),
        (
            {"image": ["1.jpg"], "caption": [[{"raw": "a"}]]},
            "column caption is of type list<.*expected texts, or lists",
        ),
        ({"image": [["1.jpg"]], "caption": ["a"]}, "column image is of type list"),
        ({"image": ["1.jpg"], "Caption ": ["a"]}, "Rename 'Caption ' to 'caption'"),
    ],
)
def test_what_is_wrong_in_a_parquet(tmp_path: Path, columns: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_parquet(tmp_path, **columns)

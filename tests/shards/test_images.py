"""Every depth and color type of PNG and TIFF shows the pixels that were stored; transparent ones are white; huge ones have a header."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from fineclip.shards.images import MAX_PIXELS, UndecodableImage, decode, read_header

WIDTH, HEIGHT = 6, 2
GRAY, COLOR, PALETTE, GRAY_ALPHA, COLOR_ALPHA = 0, 2, 3, 4, 6


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(bits: int, color: int, rows: list[bytes], *more: bytes, width: int = WIDTH, height: int | None = None) -> bytes:
    """A PNG of these rows, packed as in the file, with chunks `more` before the pixels."""
    header = struct.pack(">IIBBBBB", width, height or len(rows), bits, color, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"".join([PngImagePlugin._MAGIC, chunk(b"IHDR", header), *more, chunk(b"IDAT", data), chunk(b"IEND", b"")])


def words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


def shown(content: bytes) -> list[tuple[int, ...]]:
    """The first row as it is decoded."""
    image = decode(content)
    assert image.mode == "RGB"
    return [image.getpixel((column, 0)) for column in range(image.width)]


def gray(*values: int) -> list[tuple[int, ...]]:
    return [(value,) * 3 for value in values]


def test_gray_of_16_bits_with_a_transparent_value() -> None:
    row = words(0, 1, 255, 256, 32768, 65535)
    assert shown(png(16, GRAY, [row])) == gray(0, 0, 0, 1, 128, 255)
    assert shown(png(16, GRAY, [row], chunk(b"tRNS", words(1)))) == gray(0, 255, 0, 1, 128, 255)
    assert shown(png(16, GRAY, [row], chunk(b"tRNS", words(32768)))) == gray(0, 0, 0, 1, 255, 255)


@pytest.mark.parametrize(
    ("bits", "packed", "levels"),
    [
        (1, b"\b", [0, 0, 0, 0, 255, 0]),
        (2, b"\x1b\x40", [0, 85, 170, 255, 85, 0]),
        (4, b"\x01\x2f\x30", [0, 17, 34, 255, 51, 0]),
        (8, bytes([0, 1, 2, 255, 7, 9]), [0, 1, 2, 255, 7, 9]),
    ],
)
def test_gray_of_few_bits_with_a_transparent_value(bits: int, packed: bytes, levels: list[int]) -> None:
    assert shown(png(bits, GRAY, [packed])) == gray(*levels)
    step = 255 // (2**bits - 1)
    for value in {level // step for level in levels}:
        seen = shown(png(bits, GRAY, [packed], chunk(b"tRNS", words(value))))
        assert seen == gray(*(255 if level == value * step else level for level in levels))


def test_color_of_16_bits_with_a_transparent_color_compares_all_bits() -> None:
    colors = [(0x1234, 0x5678, 0x9ABC), (0x1234, 0x5678, 0x9ABD), (0x1235, 0x5678, 0x9ABC), (0, 0, 0), (65535, 0, 1)]
    row = b"".join(words(*color) for color in colors)
    upper = [tuple(value >> 8 for value in color) for color in colors]
    assert shown(png(16, COLOR, [row, row], width=5)) == upper
    for number, color in enumerate(colors):
        seen = shown(png(16, COLOR, [row, row], chunk(b"tRNS", words(*color)), width=5))
        assert seen == [(255, 255, 255) if number == other else value for other, value in enumerate(upper)]


def test_alpha_of_16_bits_and_of_palettes() -> None:
    row = words(0, 0, 0x4000, 0xFFFF, 0xFF00, 0xFFFF, 0x8000, 0, 1, 0xFFFF, 0, 0)
    assert shown(png(16, GRAY_ALPHA, [row])) == gray(255, 64, 255, 255, 0, 255)
    color = b"".join(words(0x1200, 0x3400, 0x5600, alpha) for alpha in (0, 0xFFFF))
    assert shown(png(16, COLOR_ALPHA, [color], width=2)) == [(255, 255, 255), (0x12, 0x34, 0x56)]
    colors = chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60, 70, 80, 90]))
    for alphas in (b"\xff\0", b"\xff\0\xff"):
        seen = shown(png(2, PALETTE, [b"\x18\x40"], colors, chunk(b"tRNS", alphas)))
        assert seen[:3] == [(10, 20, 30), (255, 255, 255), (70, 80, 90)]


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_gray_tiffs_of_16_bits(order: str, compression: str | None) -> None:
    values = np.array([[0, 256, 0x1234, 32768, 0xFF00, 65535]] * HEIGHT, dtype=np.uint16)
    image = Image.frombytes("I;16" if order == "<" else "I;16B", (WIDTH, HEIGHT), values.astype(f"{order}u2").tobytes())
    file = io.BytesIO()
    image.save(file, "TIFF", compression=compression)
    assert shown(file.getvalue()) == gray(0, 1, 0x12, 128, 255, 255)


def tiff(rows: bytes, *, order: str, bits: int, photometric: int, samples: int = 1) -> bytes:
    """A TIFF of `HEIGHT` rows in one strip."""
    word, size = f"{order}H", len(rows)
    per_sample = 8 + 10 * 12 + 6
    entries = [
        (256, 3, 1, WIDTH), (257, 3, 1, HEIGHT), (258, 3, samples, bits if samples == 1 else per_sample), (259, 3, 1, 1),
        (262, 3, 1, photometric), (273, 4, 1, per_sample + 8), (277, 3, 1, samples), (278, 3, 1, HEIGHT), (279, 4, 1, size),
        (284, 3, 1, 1),
    ]  # fmt: skip
    content = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(entries))
    for tag, kind, count, value in entries:
        is_short = kind == 3 and count == 1
        content += struct.pack(f"{order}HHI", tag, kind, count)
        content += struct.pack(word, value) + b"\0\0" if is_short else struct.pack(f"{order}I", value)
    content += struct.pack(f"{order}I", 0) + struct.pack(f"{order}4H", *[bits] * 4)
    return content + rows


@pytest.mark.parametrize("order", ["<", ">"])
def test_color_tiffs_of_16_bits(order: str) -> None:
    row = struct.pack(f"{order}{3 * WIDTH}H", *[0x1234, 0, 65535] * WIDTH)
    assert shown(tiff(row * HEIGHT, order=order, bits=16, photometric=2, samples=3)) == [(0x12, 0, 255)] * WIDTH


def test_gray_tiffs_whose_zero_is_white_and_of_12_bits() -> None:
    row = struct.pack("<6H", 0, 256, 0x1234, 32768, 0xFF00, 65535)
    assert shown(tiff(row * HEIGHT, order="<", bits=16, photometric=1)) == gray(0, 1, 0x12, 128, 255, 255)
    assert shown(tiff(row * HEIGHT, order="<", bits=16, photometric=0)) == gray(255, 254, 0xED, 127, 0, 0)
    twelve = bytes([0x00, 0x08, 0x00, 0xFF, 0xFF, 0xFF, 0x12, 0x34, 0x56])  # three bytes for two pixels
    seen = shown(tiff(twelve * HEIGHT, order="<", bits=12, photometric=1))
    assert seen == gray(0x00, 0x80, 0xFF, 0xFF, 0x12, 0x45)


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt", "iCCP"])
@pytest.mark.parametrize("is_behind", [False, True])
def test_pngs_with_large_texts_and_profiles_are_read(kind: str, is_behind: bool) -> None:
    unpacked = b"x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1)
    data = {
        "tEXt": b"Comment\0" + unpacked,
        "zTXt": b"Comment\0\0" + zlib.compress(unpacked),
        "iTXt": b"Comment\0\1\0\0\0" + zlib.compress(unpacked),
        "iCCP": b"profile\0\0" + zlib.compress(unpacked),
    }[kind]
    large = chunk(kind.encode(), data)
    content = png(8, GRAY, [bytes(range(WIDTH))], *([] if is_behind else [large]))
    if is_behind:
        content = content[:-12] + large + content[-12:]
    assert read_header(content) == (WIDTH, 1, "PNG")
    assert shown(content) == gray(*range(WIDTH))


def test_pngs_with_many_texts_are_read() -> None:
    texts = [chunk(b"tEXt", b"Comment\0" + b"x" * 900_000)] * 80  # more than Pillow keeps
    assert shown(png(8, GRAY, [bytes(range(WIDTH))], *texts)) == gray(*range(WIDTH))


def test_png_with_a_chunk_longer_than_the_file_is_refused() -> None:
    content = png(8, GRAY, [bytes(WIDTH)])
    with pytest.raises(UndecodableImage):
        decode(content[:33] + struct.pack(">I", 2**31 - 1) + b"tEXt" + content[41:60])


def huge(kind: str) -> bytes:
    """An image of a few bytes whose header states 15000 x 12000 pixels, which Pillow refuses too."""
    width, height = 15_000, 12_000
    if kind == "PNG":
        return png(8, COLOR, [b""], width=width, height=height)
    if kind == "GIF":
        return b"GIF89a" + struct.pack("<HH3sc4HB", width, height, b"\0\0\0", b",", 0, 0, width, height, 0) + b"\x08\0"
    if kind == "BMP":
        return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    if kind == "WEBP":
        sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + sides
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, kind)
    start = file.getvalue().index(b"\xff\xc0") + 5
    return file.getvalue()[:start] + struct.pack(">HH", height, width) + file.getvalue()[start + 4 :]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_huge_images_have_a_header_and_are_refused_without_a_warning(kind: str) -> None:
    content = huge(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        header = read_header(content)
        assert header == (15_000, 12_000, kind) and header.is_too_large
        with pytest.raises(UndecodableImage, match=f"15000 x 12000 are more than {MAX_PIXELS} pixels"):
            decode(content)


def test_images_between_the_two_limits_open_without_a_warning() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None and Image.MAX_IMAGE_PIXELS < 10_000 * 10_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        header = read_header(png(8, GRAY, [b""], width=10_000, height=10_000))
    assert header == (10_000, 10_000, "PNG") and not header.is_too_large


def test_a_side_that_no_table_can_hold_is_no_image() -> None:
    content = png(8, GRAY, [b""], width=2**32 - 1)
    assert read_header(content) is None

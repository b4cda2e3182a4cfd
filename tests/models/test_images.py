"""Decoding, refusal of damaged files, resizing, random crops and normalization."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from fineclip.models.images import (
    BICUBIC,
    LETTERBOX,
    LETTERBOX_CENTERED,
    MEAN,
    SQUASH,
    STD,
    normalize_pixels,
    random_resized_crop,
    to_batch,
)
from fineclip.shards.images import MAX_PIXELS, UndecodableImage, crop, decode, read_header
from fineclip.types import Box


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int = 30, width: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def huge_png() -> bytes:
    """A valid header of 20,000 x 20,000 pixels with nothing behind it."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_format_has_header_and_pixels(kind: str) -> None:
    content = encoded(noise(), kind)
    assert read_header(content) == (40, 30, kind)
    image = decode(content)
    assert (image.mode, image.size) == ("RGB", (40, 30))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<!DOCTYPE html><html>not found</html>",
        b"\xff\xd8\xff",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ],
    ids=["empty", "html", "jpeg-magic-alone", "postscript"],
)
def test_no_image(content: bytes) -> None:
    assert read_header(content) is None
    with pytest.raises(UndecodableImage):
        decode(content)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_cut_short_has_a_header_but_no_pixels(kind: str) -> None:
    content = encoded(noise(300, 400), kind)
    cut = content[: len(content) // 2]
    with pytest.raises(UndecodableImage):
        decode(cut)
    if kind != "WEBP":  # whose header says how long the file is
        assert read_header(cut) == (400, 300, kind)


def test_too_many_pixels_are_refused_by_the_header() -> None:
    assert MAX_PIXELS < 20_000 * 20_000
    header = read_header(huge_png())
    assert header is not None and header.is_too_large
    with pytest.raises(UndecodableImage, match="pixels"):
        decode(huge_png())


def test_exif_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    content = encoded(noise(), "JPEG", exif=exif.tobytes())
    assert decode(content).size == (40, 30)
    assert read_header(content)[:2] == (40, 30)


def test_transparent_pixels_are_white() -> None:
    see_through = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    see_through.putpixel((0, 0), (200, 0, 0, 255))
    pixels = np.asarray(decode(encoded(see_through)))
    assert pixels[0, 0].tolist() == [200, 0, 0]
    assert pixels[3, 3].tolist() == [255, 255, 255]


def test_a_palette_with_a_transparent_color() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 0)
    pixels = np.asarray(decode(encoded(image, "PNG", transparency=1)))
    assert pixels[0, 0].tolist() == [10, 20, 30]
    assert pixels[3, 3].tolist() == [255, 255, 255]


def test_sixteen_bit_gray_is_scaled_and_not_clipped() -> None:
    gray = Image.fromarray(np.array([[0, 256, 0x8000, 0xFFFF]], dtype=np.uint16))
    assert np.asarray(decode(encoded(gray)))[0].tolist() == [[0] * 3, [1] * 3, [128] * 3, [255] * 3]


def test_cmyk_is_converted() -> None:
    pixels = np.asarray(decode(encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG")))
    assert pixels.min() >= 250


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(UndecodableImage, match="floating point"):
        decode(encoded(Image.new("F", (4, 4), 0.5), "TIFF"))


@pytest.mark.parametrize(
    ("box", "size"),
    [
        (Box(0.5, 1.5, 10.5, 11.5), (10, 10)),  # halves go to the even number: 0, 2, 10, 12
        (Box(-20, -20, 100, 100), (40, 30)),
        (Box(39.8, 29.8, 40, 30), (1, 1)),
        (Box(5.1, 5.1, 5.2, 5.2), (1, 1)),
    ],
)
def test_crop_rounds_as_pillow_and_is_never_empty(box: Box, size: tuple[int, int]) -> None:
    assert crop(noise(), box).size == size


def test_squash_is_pillows_resize_to_a_square() -> None:
    square = SQUASH(noise(), 16)
    assert (square.shape, square.dtype) == ((3, 16, 16), torch.uint8)
    expected = np.asarray(noise().resize((16, 16), Image.Resampling.BILINEAR))
    assert np.array_equal(square.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize(("height", "width"), [(30, 40), (40, 30), (25, 25), (3, 200), (200, 3), (1, 1)])
def test_a_letterboxed_image_keeps_its_aspect_beside_black(height: int, width: int) -> None:
    image, longer = Image.new("RGB", (width, height), (200, 100, 50)), max(height, width)
    wide, high = (max(1, round(20 * side / longer)) for side in (width, height))
    corner, middle = (place(image, 20).numpy().transpose(1, 2, 0) for place in (LETTERBOX, LETTERBOX_CENTERED))
    expected = np.zeros((20, 20, 3), dtype=np.uint8)
    expected[:high, :wide] = (200, 100, 50)
    assert np.array_equal(corner, expected)
    top, left = (20 - high) // 2, (20 - wide) // 2
    assert np.array_equal(middle, np.roll(expected, (top, left), axis=(0, 1)))


def test_letterboxed_pixels_are_pillows_bicubic() -> None:
    expected = np.asarray(noise(30, 40).resize((20, 15), BICUBIC))
    found = LETTERBOX(noise(30, 40), 20).permute(1, 2, 0).numpy()
    assert np.array_equal(found[:15], expected)
    assert np.array_equal(LETTERBOX_CENTERED(noise(30, 40), 20).permute(1, 2, 0).numpy()[2:17], expected)


class TorchDraws:
    """Draws of torch's global generator, in the form of numpy's."""

    def uniform(self, low: float, high: float) -> float:
        return torch.empty(1).uniform_(low, high).item()

    def integers(self, high: int) -> int:
        return torch.randint(0, high, (1,)).item()


@pytest.mark.parametrize(("width", "height"), [(64, 64), (80, 60), (60, 80), (200, 10), (10, 200), (1, 1), (640, 427)])
@pytest.mark.parametrize("area", [(0.9, 1.0), (0.08, 1.0), (0.25, 0.25)])
def test_random_crops_are_those_of_torchvision_of_the_same_draws(
    width: int, height: int, area: tuple[float, float]
) -> None:
    image = Image.new("RGB", (width, height))
    for seed in range(50):
        torch.manual_seed(seed)
        top, left, high, wide = RandomResizedCrop.get_params(image, list(area), [3 / 4, 4 / 3])
        torch.manual_seed(seed)
        box = random_resized_crop(width, height, TorchDraws(), area=area)
        assert box == (left, top, left + wide, top + high)


def test_a_random_crop_is_a_function_of_the_generator() -> None:
    boxes = {random_resized_crop(80, 60, np.random.default_rng(seed), area=(0.1, 0.5)) for seed in range(20)}
    assert len(boxes) == 20
    assert random_resized_crop(80, 60, np.random.default_rng(3), area=(0.1, 0.5)) in boxes
    assert all(0.09 < box.width * box.height / 4800 < 0.52 for box in boxes)


def test_normalized_values() -> None:
    black = normalize_pixels(torch.zeros(3, 2, 2, dtype=torch.uint8))
    assert black[:, 0, 0].tolist() == pytest.approx([-m / s for m, s in zip(MEAN, STD, strict=True)])


def test_a_batch_and_an_empty_one() -> None:
    images = [SQUASH(noise(), 16), SQUASH(noise(50, 20), 16)]
    batch = to_batch(images, size=16)
    assert (batch.shape, batch.dtype) == ((2, 3, 16, 16), torch.float32)
    assert torch.equal(batch[1], normalize_pixels(images[1]))
    assert to_batch([], size=16).shape == (0, 3, 16, 16)

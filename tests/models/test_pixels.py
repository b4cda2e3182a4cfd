"""The fast path is close to Pillow's pixels, and leaves files that it cannot decode to Pillow."""

import io
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fineclip.boxes import enlarge
from fineclip.miniature.scenes import draw_scene, jpeg
from fineclip.models import pixels as pixels_module
from fineclip.models.images import (
    LETTERBOX,
    LETTERBOX_CENTERED,
    SQUASH,
    SQUASH_BICUBIC,
    ResizeRule,
)
from fineclip.models.pixels import (
    CropPlan,
    DecodeRequest,
    Pixels,
    ResizeTarget,
    crop_on_device,
    decode_for_device,
    resize_and_crop,
)
from fineclip.shards.images import UndecodableImage, crop, decode, read_header
from fineclip.types import Box
from tests.helpers.images import HTML, bomb, encoded

COCO = Path(__file__).parents[3] / "shared/data/coco/train2017"
WORST = {"bilinear": 54.0, "bicubic": 50.0}  # dB from Pillow's pixels
MEDIAN = {"bilinear": 70.0, "bicubic": 70.0}
ON_DEVICE = {"bilinear": 54.0, "bicubic": 50.0}
FITS = {
    "squash": (SQUASH, SQUASH),
    "letterbox": (LETTERBOX, LETTERBOX_CENTERED),
    "cut out": (SQUASH_BICUBIC, SQUASH_BICUBIC),
}


def photographs() -> list[bytes]:
    return [path.read_bytes() for path in sorted(COCO.glob("*.jpg"))[:40]]


def scenes() -> list[bytes]:
    return [jpeg(draw_scene(7, index)) for index in range(12)]


def textures() -> list[bytes]:
    """Smooth and rough images of several shapes."""
    rng, contents = np.random.default_rng(3), []
    for width, height in ((640, 480), (333, 500), (97, 61), (1200, 300)):
        coarse = rng.integers(0, 256, (height // 12, width // 12, 3), dtype=np.uint8)
        fine = rng.normal(0, 8, (height, width, 3))
        pixels = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)) + fine
        contents.append(saved(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), quality=92))
    return contents


def saved(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def request(content: bytes, fits: tuple[ResizeRule, ResizeRule], *, crops: int = 5, seed: int = 0) -> DecodeRequest:
    """The image at 224 px, and crops of all sizes, some over its edge."""
    width, height = Image.open(io.BytesIO(content)).size
    rng = np.random.default_rng(seed)
    boxes = []
    for _ in range(crops):
        wide, high = np.exp(rng.uniform(np.log(0.08), np.log(0.9), 2)) * (width, height)
        left, top = rng.uniform(0, 1, 2) * (width - wide, height - high)
        boxes.append(enlarge(Box(left, top, left + wide, top + high), 1.5))
    return DecodeRequest(ResizeTarget(fits[0], 224), ResizeTarget(fits[1], 112), boxes)


def decibels(found: torch.Tensor, expected: torch.Tensor) -> float:
    error = (found.double() - expected.double()).square().mean().item()
    return 99.0 if error == 0 else 10 * np.log10(255**2 / error)


def squares(pixels: Pixels) -> list[torch.Tensor]:
    return [pixels.image, *pixels.crops]


def cropped_on_device(content: bytes, want: DecodeRequest) -> list[torch.Tensor]:
    decoded = decode_for_device(content, want)
    images, crops = crop_on_device(decoded.image.permute(1, 2, 0).reshape(-1), [decoded.crop_plan])
    return [images[0], *crops]


def compared(contents: list[bytes], fits: tuple[ResizeRule, ResizeRule]) -> tuple[list[float], list[float]]:
    """Of every square, how near the fast way and the device come to Pillow."""
    fast, device = [], []
    for seed, content in enumerate(contents):
        want = request(content, fits, seed=seed)
        expected = squares(resize_and_crop(content, want, pillow=True))
        fast += map(decibels, squares(resize_and_crop(content, want, pillow=False)), expected)
        device += map(decibels, cropped_on_device(content, want), expected)
    return fast, device


@pytest.mark.parametrize("of", [scenes, textures, photographs])
@pytest.mark.parametrize("fits", FITS.values(), ids=FITS)
def test_fast_pixels_are_close_to_pillows(of: object, fits: tuple[ResizeRule, ResizeRule]) -> None:
    contents = of()
    if not contents:
        pytest.skip(f"no photographs at {COCO}")
    kind = fits[1].filter
    fast, device = compared(contents, fits)
    assert min(fast) >= WORST[kind]
    assert np.median(fast) >= MEDIAN[kind]
    assert min(device) >= ON_DEVICE[kind]


@pytest.mark.parametrize("fits", FITS.values(), ids=FITS)
def test_the_pillow_path_is_pillow_to_the_bit(fits: tuple[ResizeRule, ResizeRule]) -> None:
    for content in textures():
        want, image = request(content, fits), decode(content)
        found = resize_and_crop(content, want, pillow=True)
        assert torch.equal(found.image, fits[0](image, 224))
        for box, pixels in zip(want.boxes, found.crops, strict=True):
            assert torch.equal(pixels, fits[1](crop(image, box), 112))


KINDS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "no subsampling": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "RGB": {"keep_rgb": True},
}


def picture(width: int = 61, height: int = 47) -> Image.Image:
    pixels = np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


FILES = {
    **{kind: saved(picture(), **options) for kind, options in KINDS.items()},
    "gray": saved(picture().convert("L")),
    "CMYK": saved(picture().convert("CMYK")),
    "turned by its note": saved(
        picture(),
        exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00",
    ),
    "PNG": saved(picture(), "PNG"),
    "transparent": saved(picture().convert("RGBA").resize((30, 20)), "PNG"),
    "palette": saved(picture().convert("P"), "GIF"),
    "WEBP": saved(picture(), "WEBP"),
    "followed by rubbish": saved(picture()) + bytes(range(256)) * 8,
}


@pytest.mark.parametrize("name", FILES)
def test_decoded_is_what_pillow_decodes(name: str) -> None:
    content = FILES[name]
    expected = torch.from_numpy(np.array(decode(content)))
    height, width = expected.shape[:2]
    want = DecodeRequest(ResizeTarget(SQUASH, 8), ResizeTarget(SQUASH, 8))
    decoded = decode_for_device(content, want)
    assert torch.equal(decoded.image.permute(1, 2, 0), expected)
    assert decoded.crop_plan == CropPlan(height, width, want.image, (0, 0, width, height), want.crop, None)


BROKEN = {
    "cut short": saved(picture(200, 160))[:-900],
    "cut in its header": saved(picture())[:200],
    "page": HTML,
    "empty": b"",
    "jpeg in name": b"\xff\xd8\xff\xe0" + bytes(40),
    "bomb": bomb(),
}


@pytest.mark.parametrize("name", BROKEN)
def test_undecodable_files_give_pillows_message(name: str) -> None:
    want = DecodeRequest(ResizeTarget(SQUASH, 8), ResizeTarget(SQUASH, 8))
    with pytest.raises(UndecodableImage) as expected:
        decode(BROKEN[name])
    for way in (
        lambda: resize_and_crop(BROKEN[name], want, pillow=False),
        lambda: decode_for_device(BROKEN[name], want),
    ):
        with pytest.raises(UndecodableImage) as found:
            way()
        assert str(found.value) == str(expected.value)


def test_a_jpeg_of_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    content = bytearray(encoded(64, 48))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = (12_000).to_bytes(2, "big") * 2
    with pytest.raises(UndecodableImage, match="12000 x 12000 are more than 120000000 pixels"):
        resize_and_crop(bytes(content), DecodeRequest(ResizeTarget(SQUASH, 8), ResizeTarget(SQUASH, 8)), pillow=False)


LIMIT = 61 * 47
DECODERS = {
    "fast": lambda content: resize_and_crop(
        content, DecodeRequest(ResizeTarget(SQUASH, 8), ResizeTarget(SQUASH, 8)), pillow=False
    ),
    "pillow": lambda content: resize_and_crop(
        content, DecodeRequest(ResizeTarget(SQUASH, 8), ResizeTarget(SQUASH, 8)), pillow=True
    ),
    "for the device": lambda content: decode_for_device(
        content, DecodeRequest(ResizeTarget(SQUASH, 8), ResizeTarget(SQUASH, 8))
    ),
    "whole": decode,
}


def limit_pixels(monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    """The limit at a size that a test can decode, everywhere."""
    for module in ("fineclip.shards.images", "fineclip.models.pixels"):
        monkeypatch.setattr(f"{module}.MAX_PIXELS", pixels)


@pytest.mark.parametrize("way", DECODERS)
@pytest.mark.parametrize("kind", ["baseline", "progressive", "gray", "CMYK", "PNG", "WEBP"])
def test_a_valid_picture_of_one_pixel_too_many_is_refused(way: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_pixels(monkeypatch, LIMIT)
    DECODERS[way](FILES[kind])
    assert read_header(FILES[kind]) is not None
    limit_pixels(monkeypatch, LIMIT - 1)
    with pytest.raises(UndecodableImage, match=f"61 x 47 are more than {LIMIT - 1} pixels"):
        DECODERS[way](FILES[kind])
    header = read_header(FILES[kind])
    assert header is not None and header.is_too_large


@pytest.mark.parametrize("side", [(1, 3000), (3000, 1)])
@pytest.mark.parametrize("way", DECODERS)
def test_the_limit_counts_pixels_and_not_sides(
    way: str, side: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_pixels(monkeypatch, 3000)
    DECODERS[way](saved(picture(*side)))
    limit_pixels(monkeypatch, 2999)
    with pytest.raises(UndecodableImage, match=f"{side[0]} x {side[1]} are more"):
        DECODERS[way](saved(picture(*side)))


@pytest.mark.parametrize(("most", "keeps"), [(LIMIT * 3, True), (LIMIT * 3 - 1, False)])
def test_memory_of_a_very_large_picture_is_not_kept(most: int, keeps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels_module, "_kept", threading.local())
    monkeypatch.setattr(pixels_module, "MAX_KEPT_BYTES", most)
    DECODERS["fast"](FILES["baseline"])
    assert hasattr(pixels_module._kept, "memory_N") == keeps


@pytest.mark.parametrize("pillow", [False, True])
def test_tiny_and_narrow_crops_have_pixels(pillow: bool) -> None:
    content = saved(picture(300, 200), "PNG")
    boxes = [Box(5, 5, 5.2, 5.2), Box(0, 0, 300, 1), Box(299, 0, 300, 200), Box(299.7, 199.6, 400, 400)]
    for fits in FITS.values():
        want = DecodeRequest(ResizeTarget(fits[0], 32), ResizeTarget(fits[1], 16), boxes)
        found = resize_and_crop(content, want, pillow=pillow)
        expected = resize_and_crop(content, want, pillow=True)
        assert [crop.shape for crop in found.crops] == [(3, 16, 16)] * 4
        assert min(map(decibels, squares(found), squares(expected))) >= WORST["bicubic"]
        assert min(map(decibels, cropped_on_device(content, want), squares(expected))) >= 45


def test_decoding_another_image_leaves_earlier_squares_unchanged() -> None:
    contents = textures()
    want = [request(content, FITS["squash"]) for content in contents]
    drawn = [resize_and_crop(content, each, pillow=False) for content, each in zip(contents, want, strict=True)]
    for content, each, pixels in zip(contents, want, drawn, strict=True):
        again = resize_and_crop(content, each, pillow=False)
        assert torch.equal(again.image, pixels.image)
        assert all(map(torch.equal, again.crops, pixels.crops))


def test_device_crops_of_a_batch_equal_those_of_single_images() -> None:
    """Pictures of many sizes, one after another, with as many crops as they have."""
    contents = [FILES["PNG"], *textures()[:2], FILES["gray"]]
    wants = [
        request(content, FITS["letterbox"], crops=count) for content, count in zip(contents, (2, 0, 3, 1), strict=True)
    ]
    decoded = [decode_for_device(content, want) for content, want in zip(contents, wants, strict=True)]
    flat = torch.cat([each.image.permute(1, 2, 0).reshape(-1) for each in decoded])
    images, crops = crop_on_device(flat, [each.crop_plan for each in decoded])
    alone = [cropped_on_device(content, want) for content, want in zip(contents, wants, strict=True)]
    assert torch.equal(images, torch.stack([each[0] for each in alone]))
    assert torch.equal(crops, torch.stack([square for each in alone for square in each[1:]]))


def test_without_crops_the_device_makes_none() -> None:
    decoded = decode_for_device(FILES["PNG"], DecodeRequest(ResizeTarget(SQUASH, 8), ResizeTarget(SQUASH, 8)))
    assert crop_on_device(decoded.image.permute(1, 2, 0).reshape(-1), [decoded.crop_plan])[1] is None


def test_a_large_shrink_takes_two_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    content = textures()[3]
    want = DecodeRequest(ResizeTarget(SQUASH, 8), ResizeTarget(LETTERBOX_CENTERED, 8), [Box(0, 0, 1200, 300)])
    whole = cropped_on_device(content, want)
    monkeypatch.setattr(pixels_module, "MAX_SHRINK", 4)
    for found, expected in zip(cropped_on_device(content, want), whole, strict=True):
        assert (found.int() - expected.int()).abs().max() <= 1  # another order of sums


def stripes(width: int, height: int) -> bytes:
    """Blocks of strong colors, so that a pass that mixes neighbors is seen."""
    coarse = (
        np.random.default_rng(11).integers(0, 2, (max(height // 9, 2), max(width // 9, 2), 3), dtype=np.uint8) * 255
    )
    return saved(Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST), "PNG")


SHAPES = {
    "squash": [(1200, 12), (12, 1200), (900, 40), (40, 900), (300, 300)],
    "cut out": [(1200, 12), (12, 1200), (900, 40), (40, 900), (300, 300)],
    "letterbox": [(1200, 60), (300, 1200), (640, 200), (200, 640), (300, 300)],
}


@pytest.mark.parametrize(("fit", "size"), [(fit, size) for fit, sizes in SHAPES.items() for size in sizes])
def test_two_passes_are_one_pass_for_pictures_of_any_shape(
    fit: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    width, height = size
    content, fits = stripes(width, height), FITS[fit]
    boxes = [Box(0, 0, width, height), Box(width // 4, 0, width, height), Box(0, height // 4, width, height)]
    want = DecodeRequest(ResizeTarget(fits[0], 16), ResizeTarget(fits[1], 8), boxes)
    whole, expected = cropped_on_device(content, want), squares(resize_and_crop(content, want, pillow=True))
    monkeypatch.setattr(pixels_module, "MAX_SHRINK", 2)
    for found, one_pass, pillow in zip(cropped_on_device(content, want), whole, expected, strict=True):
        assert (found.int() - one_pass.int()).abs().max() <= 1  # another order of sums
        assert (found.int() - pillow.int()).abs().float().mean() < 2


@pytest.mark.parametrize(("width", "height"), [(1000, 30), (30, 1000), (500, 400)])
def test_the_first_pass_changes_the_width_alone(width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    passes, resize = [], pixels_module.interpolate

    def interpolate(values: torch.Tensor, *, size: tuple[int, int], **options: object) -> torch.Tensor:
        passes.append((tuple(values.shape[2:]), tuple(size)))
        return resize(values, size=size, **options)

    monkeypatch.setattr(pixels_module, "interpolate", interpolate)
    monkeypatch.setattr(pixels_module, "MAX_SHRINK", 20)
    want = DecodeRequest(ResizeTarget(SQUASH, 16), ResizeTarget(SQUASH, 8))
    cropped_on_device(saved(picture(width, height), "PNG"), want._replace(boxes=[]))
    two = [((width, height), (16, height)), ((height, 16), (16, 16))]  # the first with its axes exchanged
    assert passes == (two if width > 20 * 16 else [((height, width), (16, 16))])


def test_images_for_the_device_do_not_share_memory() -> None:
    want = DecodeRequest(ResizeTarget(SQUASH, 8), ResizeTarget(SQUASH, 8))
    first = decode_for_device(FILES["baseline"], want).image
    before = first.clone()
    decode_for_device(FILES["progressive"], want)
    assert torch.equal(first, before)

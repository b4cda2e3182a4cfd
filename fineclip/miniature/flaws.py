"""Flaws of web images and texts. Each is named by the reason for which the pipeline should drop the image."""

import io
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from fineclip.miniature.scenes import JPEG_QUALITY, THINGS, Scene, jpeg
from fineclip.miniature.wording import BOILERPLATE_TEXTS

THUMBNAIL_PX = (24, 64)  # the shorter side
BANNER_HEIGHT_PX = 128
BANNER_ASPECT = (3.5, 5.0)

NOT_FOUND_PAGE = b"""<!DOCTYPE html>
<html><head><title>404 Not Found</title></head>
<body><h1>Not Found</h1><p>The picture that you are looking for has moved.</p></body></html>
"""


class Content(NamedTuple):
    """Bytes of an image file, and its text."""

    image: bytes
    caption: str


Flaw = Callable[[Scene, np.random.Generator], Content]


def thumbnail(scene: Scene, generator: np.random.Generator) -> Content:
    """Shrink the scene to a thumbnail."""
    image = Image.fromarray(scene.pixels)
    factor = generator.integers(*THUMBNAIL_PX, endpoint=True) / min(image.size)
    return Content(_encoded(image.resize([round(side * factor) for side in image.size])), scene.alt)


def banner(scene: Scene, generator: np.random.Generator) -> Content:
    """Stretch the middle of the scene to a banner."""
    image = Image.fromarray(scene.pixels)
    strip = (0, image.height // 3, image.width, 2 * image.height // 3)
    size = (round(BANNER_HEIGHT_PX * generator.uniform(*BANNER_ASPECT)), BANNER_HEIGHT_PX)
    return Content(_encoded(image.resize(size, box=strip)), scene.alt)


def truncated(scene: Scene, generator: np.random.Generator) -> Content:
    """Truncate the JPEG; its header stays valid."""
    whole = jpeg(scene)
    return Content(whole[: int(len(whole) * generator.uniform(0.3, 0.7))], scene.alt)


def unreadable(scene: Scene, generator: np.random.Generator) -> Content:
    """Replace the image by an HTML page, an empty file or a JPEG with an overwritten header."""
    kind = generator.integers(3)
    if kind == 0:
        return Content(NOT_FOUND_PAGE, scene.alt)
    if kind == 1:
        return Content(b"", scene.alt)
    overwritten = generator.integers(1, 128, size=1024, dtype=np.uint8).tobytes()
    return Content(overwritten + jpeg(scene)[1024:], scene.alt)


def without_caption(scene: Scene, _: np.random.Generator) -> Content:
    """Remove the text."""
    return Content(jpeg(scene), "")


def with_one_word(scene: Scene, generator: np.random.Generator) -> Content:
    """Replace the text by one word, which may be correct."""
    word = scene.things[0].label if scene.things else THINGS[generator.integers(len(THINGS))]
    return Content(jpeg(scene), word)


def with_boilerplate(scene: Scene, generator: np.random.Generator) -> Content:
    """Replace the text by boilerplate of a web page."""
    return Content(jpeg(scene), BOILERPLATE_TEXTS[generator.integers(len(BOILERPLATE_TEXTS))])


FLAWS: Mapping[str, Flaw] = {
    "unreadable": unreadable,
    "too-small": thumbnail,
    "too-elongated": banner,
    "caption-empty": without_caption,
    "caption-short": with_one_word,
    "caption-boilerplate": with_boilerplate,
    "undecodable": truncated,
}


def _encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()

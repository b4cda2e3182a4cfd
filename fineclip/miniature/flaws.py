"""Flaws of web images and texts. Each is named by the reason for which the pipeline should drop the image."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from fineclip.miniature.scenes import encode_jpeg, jpeg
from fineclip.miniature.shapes import THINGS
from fineclip.miniature.wording import BOILERPLATE_TEXTS
from fineclip.miniature.world import Scene

THUMBNAIL_PX = (24, 64)  # the shorter side
BANNER_HEIGHT_PX = 128
BANNER_ASPECT = (3.5, 5.0)

NOT_FOUND_PAGE = b"""<!DOCTYPE html>
<html><head><title>404 Not Found</title></head>
<body><h1>Not Found</h1><p>The picture that you are looking for has moved.</p></body></html>
"""


def thumbnail(scene: Scene, generator: np.random.Generator) -> bytes:
    """Shrink the scene to a thumbnail."""
    image = Image.fromarray(scene.pixels)
    factor = generator.integers(*THUMBNAIL_PX, endpoint=True) / min(image.size)
    return encode_jpeg(image.resize([round(side * factor) for side in image.size]))


def banner(scene: Scene, generator: np.random.Generator) -> bytes:
    """Stretch the middle of the scene to a banner."""
    image = Image.fromarray(scene.pixels)
    strip = (0, image.height // 3, image.width, 2 * image.height // 3)
    size = (round(BANNER_HEIGHT_PX * generator.uniform(*BANNER_ASPECT)), BANNER_HEIGHT_PX)
    return encode_jpeg(image.resize(size, box=strip))


def truncated(scene: Scene, generator: np.random.Generator) -> bytes:
    """Truncate the JPEG; its header stays valid."""
    whole = jpeg(scene)
    return whole[: int(len(whole) * generator.uniform(0.3, 0.7))]


def unreadable(scene: Scene, generator: np.random.Generator) -> bytes:
    """Replace the image by an HTML page, an empty file or a JPEG with an overwritten header."""
    kind = generator.integers(3)
    if kind == 0:
        return NOT_FOUND_PAGE
    if kind == 1:
        return b""
    overwritten = generator.integers(1, 128, size=1024, dtype=np.uint8).tobytes()
    return overwritten + jpeg(scene)[1024:]


def one_word(scene: Scene, generator: np.random.Generator) -> str:
    """Return one word, which may be correct."""
    return scene.things[0].label if scene.things else THINGS[generator.integers(len(THINGS))]


def boilerplate(_: Scene, generator: np.random.Generator) -> str:
    """Return boilerplate of a web page."""
    return BOILERPLATE_TEXTS[generator.integers(len(BOILERPLATE_TEXTS))]


IMAGE_FLAWS: dict[str, Callable[[Scene, np.random.Generator], bytes]] = {
    "unreadable": unreadable,
    "too-small": thumbnail,
    "too-elongated": banner,
    "undecodable": truncated,
}
CAPTION_FLAWS: dict[str, Callable[[Scene, np.random.Generator], str]] = {
    "caption-empty": lambda _scene, _generator: "",
    "caption-short": one_word,
    "caption-boilerplate": boilerplate,
}

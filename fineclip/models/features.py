"""An encoder for people: pictures, texts and boxes in, features out.

    encoder = fineclip.load("mini")
    region_RD = encoder.encode_regions(picture, [(10, 20, 110, 90)])      # x1, y1, x2, y2 in pixels
    text_ND = encoder.encode_text(["a photo of a dog", "a photo of a cat"])
    best = (region_RD @ text_ND.T).argmax(dim=1)

Pixels are those that training and evaluation see: the whole picture is squashed to a square, bilinearly, and its boxes
with it. A picture is taken as it is stored, never turned by its EXIF note (for that: `PIL.ImageOps.exif_transpose` first),
what is transparent is shown on white, 16-bit gray is scaled to 8 bits.

Legend: B pictures, N texts, R boxes, D embedding.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from fineclip.boxes import clip
from fineclip.errors import ConfigError, DataError
from fineclip.models.batches import batches
from fineclip.models.checkpoints import find_encoder
from fineclip.models.device import resolve_device
from fineclip.models.encoder import RegionEncoder
from fineclip.models.images import squash, to_batch
from fineclip.models.tokenizer import trim_padding
from fineclip.shards.images import rgb
from fineclip.types import Box

BATCH_SIZE = 64

Tokenize = Callable[[Sequence[str]], Tensor]


def load(
    path_or_name: Path | str, *, encoder: str | None = None, image_size: int | None = None, device: str = "auto"
) -> "FeatureEncoder":
    """The encoder of a run's folder, of a folder of open_clip's, of a file of weights, or a shipped one by its name.

    Args:
        path_or_name: `results/<dataset>/<run>`, any folder with open_clip_config.json, any file of weights, or `mini`.
        encoder: of a file: which model it is of, the name of an open_clip model such as EVA02-B-16 or the path of a JSON.
        image_size: side of the square in pixels, whole patches; None takes the encoder's own.
        device: auto, cpu, cuda or mps.

    Raises:
        CheckpointError: there is no such file, it does not say of which model it is, or is of another.
        ConfigError: there is no such model or device, or the size is not whole patches.
    """
    found = find_encoder(path_or_name, encoder=encoder)
    size = found.config.image_size if image_size is None else image_size
    return FeatureEncoder(found.load(), found.tokenizer(), image_size=size, device=device)


class FeatureEncoder:
    """Encode images, texts and boxes in batches: unit vectors, float32, without gradient.

    The batch size changes no result but its rounding. On a GPU, convolutions use no TF32.

    Attributes:
        width: D.
        image_size: Side of the square that images are squashed to, in pixels.
        batch_size: Images or texts in one forward pass.
        device: Device of the encoder and the features.
    """

    def __init__(
        self,
        encoder: RegionEncoder,
        tokenize: Tokenize,
        *,
        image_size: int,
        batch_size: int = BATCH_SIZE,
        device: str = "auto",
    ) -> None:
        """Move the encoder to its device, in float32 and evaluation mode.

        Args:
            encoder: Encoder.
            tokenize: Maps N texts to token ids, (N, L).
            image_size: Side of the square, in pixels, a multiple of the patch.
            batch_size: Images or texts in one forward pass.
            device: auto, cpu, cuda or mps.

        Raises:
            ConfigError: The size is not whole patches, or there is no such device.
        """
        self._encoder, self._tokenize, self.batch_size = encoder, tokenize, batch_size
        self.require_whole_patches(image_size)
        self.device = resolve_device(device)
        self.image_size, self.width = image_size, encoder.width
        self._encoder = encoder.to(self.device, torch.float32).eval()

    def encode_image(self, images: Image.Image | Sequence[Image.Image]) -> Tensor:
        """Return the features of whole images, (B, D); one image gives (1, D), none gives (0, D).

        Raises:
            DataError: One is not an image of Pillow, or broken.
        """
        pictures = [images] if isinstance(images, Image.Image | str | Path) else list(images)
        return self._cat([self.encode_pixels(self._pixels(batch)) for batch in batches(pictures, self.batch_size)])

    def encode_text(self, texts: str | Sequence[str]) -> Tensor:
        """Return the features of texts, (N, D); one text gives (1, D), none gives (0, D).

        A text that is too long is cut. Equal texts are encoded once, so that their features are equal in every bit.

        Raises:
            DataError: One is not a text.
        """
        rows = [texts] if isinstance(texts, str) else list(texts)
        for row in rows:
            if not isinstance(row, str):
                raise DataError(f"{row!r:.60} is no text")
        position = {text: index for index, text in enumerate(dict.fromkeys(rows))}
        tokens_NL = trim_padding(self._tokenize(list(position)))
        with _exact():
            parts = [
                normalize(self._encoder.encode_text(batch_NL.to(self.device)).float(), dim=-1)
                for batch_NL in (torch.split(tokens_NL, self.batch_size) if rows else ())
            ]
        return self._cat(parts)[[position[text] for text in rows]]

    def encode_regions(self, image: Image.Image, boxes: Sequence[Sequence[float]] | np.ndarray | Tensor) -> Tensor:
        """Return the features of boxes of one image, (R, D), from its dense features; no box gives (0, D).

        Args:
            image: Image of Pillow.
            boxes: R rows x1, y1, x2, y2 in pixels of the image as it is stored, from its upper left corner. What extends
                beyond the image is cut off.

        Raises:
            DataError: It is not an image, or a row is not four finite numbers or has no area inside the image.
        """
        pixels_13SS = self._pixels([image])
        boxes_R4 = fractions(boxes, width=image.width, height=image.height)
        return self.encode_pixel_regions(pixels_13SS, boxes_R4, torch.zeros(len(boxes_R4), dtype=torch.int64))

    def encode_pixels(self, pixels_B3SS: Tensor) -> Tensor:
        """Return the features of normalized images, (B, D), in one forward pass."""
        with _exact():
            return normalize(self._encoder.encode_image(pixels_B3SS.to(self.device)).float(), dim=-1)

    def encode_pixel_regions(self, pixels_B3SS: Tensor, boxes_R4: Tensor, box_to_image_R: Tensor) -> Tensor:
        """Return the features of boxes of normalized images, (R, D), in one forward pass.

        Args:
            pixels_B3SS: Normalized images.
            boxes_R4: x1, y1, x2, y2 as fractions of the image, float32.
            box_to_image_R: Index of the image of each box, int64.
        """
        with _exact():
            region_RD = self._encoder.encode_regions(
                pixels_B3SS.to(self.device), boxes_R4.to(self.device), box_to_image_R.to(self.device)
            )
            return normalize(region_RD.float(), dim=-1)

    def require_whole_patches(self, image_size: int) -> None:
        """Check that a square of `image_size` pixels is whole patches of the encoder.

        Raises:
            ConfigError: It is not.
        """
        height, width = self._encoder.patch
        if image_size < 1 or image_size % height or image_size % width:
            raise ConfigError(f"image_size {image_size} px is not whole patches of the encoder's {height} x {width} px")

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        for image in images:
            if not isinstance(image, Image.Image):
                raise DataError(f"{image!r:.60} is no picture: open it with PIL.Image.open first")
        return to_batch([squash(rgb(image), self.image_size) for image in images], size=self.image_size)

    def _cat(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([torch.zeros(0, self.width, device=self.device), *parts])


@contextmanager
def _exact() -> Iterator[None]:
    """Run without gradient and, on a GPU, without TF32 in convolutions, which PyTorch allows by default."""
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


def fractions(boxes: Sequence[Sequence[float]] | np.ndarray | Tensor, *, width: int, height: int) -> Tensor:
    """(R, 4) float32: boxes in pixels, clipped to a picture of that size, as fractions of it.

    Raises:
        DataError: a row is not four finite numbers, or has no area inside the picture.
    """
    try:
        values = boxes.detach().cpu().numpy() if isinstance(boxes, Tensor) else boxes
        rows_R4 = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"boxes: expected rows of x1, y1, x2, y2 in pixels: {error}") from None
    if rows_R4.size == 0:
        return torch.zeros(0, 4)
    if rows_R4.ndim != 2 or rows_R4.shape[1] != 4:
        raise DataError(f"boxes: have the shape {rows_R4.shape}; expected (R, 4): a row x1, y1, x2, y2 for each box")
    fractions_R4 = []
    for index, row in enumerate(rows_R4.tolist()):
        box = clip(Box(*row), width, height)
        if not (np.isfinite(row).all() and box.width > 0 and box.height > 0):
            raise DataError(
                f"boxes: row {index}, {row}, has no area inside the picture of {width} x {height} pixels; expected x1, y1, x2, y2"
                " in pixels with x1 < x2 and y1 < y2 (not x, y, width, height; not fractions)"
            )
        fractions_R4.append((box.x1 / width, box.y1 / height, box.x2 / width, box.y2 / height))
    return torch.tensor(fractions_R4, dtype=torch.float32)

"""Encode images, texts and boxes with a trained encoder: the public interface for inference.

    encoder = fineclip.load("mini")
    region_RD = encoder.encode_regions(image, [(10, 20, 110, 90)])      # x1, y1, x2, y2 in pixels
    text_ND = encoder.encode_text(["a photo of a dog", "a photo of a cat"])
    best = (region_RD @ text_ND.T).argmax(dim=1)

Preprocessing equals that of training and evaluation: the whole image is squashed to a square with bilinear resampling, and
its boxes with it. The EXIF orientation is ignored (apply `PIL.ImageOps.exif_transpose` first if it matters), transparent
pixels are blended with white, and 16-bit gray is scaled to 8 bits.

Legend: B images, N texts, R boxes, D embedding.
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
from fineclip.errors import DataError
from fineclip.models.batches import batches
from fineclip.models.device import resolve_device
from fineclip.models.encoder import RegionEncoder
from fineclip.models.images import SQUASH, to_batch
from fineclip.models.tokenizer import trim_padding
from fineclip.shards.images import rgb
from fineclip.types import Box

BATCH_SIZE = 64

Tokenize = Callable[[Sequence[str]], Tensor]


class FeatureEncoder:
    """Encode images, texts and boxes in batches: unit vectors, float32, without gradient.

    The encoder is moved to its device, in float32 and evaluation mode. The batch size changes results by rounding only. On a
    GPU, convolutions use no TF32.

    Args:
        encoder: Changed in place.
        tokenize: Maps N texts to token ids, (N, L).
        image_size: Side of the square in pixels, a multiple of the patch.
        batch_size: Images or texts in one forward pass.
        device: auto, cpu, cuda or mps.

    Attributes:
        width: D.
        image_size: Side of the square that images are squashed to, in pixels.
        batch_size: Images or texts in one forward pass.
        device: Device of the encoder and the features.

    Raises:
        ConfigError: The size is not a multiple of the patch, or there is no such device.
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
        self._encoder, self._tokenize, self.batch_size = encoder, tokenize, batch_size
        self.require_whole_patches(image_size)
        self.device = resolve_device(device)
        self.image_size, self.width = image_size, encoder.width
        self._encoder = encoder.to(self.device, torch.float32).eval()

    def encode_image(self, images: Image.Image | Sequence[Image.Image]) -> Tensor:
        """Return the features of whole images.

        Args:
            images: One Pillow image or a sequence of B; any mode and size.

        Returns:
            (B, D) unit vectors, float32; (1, D) for one image, (0, D) for none.

        Raises:
            DataError: An element is not a Pillow image, or is damaged.
        """
        sequence = [images] if isinstance(images, Image.Image | str | Path) else list(images)
        return self._cat([self.encode_pixels(self._pixels(batch)) for batch in batches(sequence, self.batch_size)])

    def encode_text(self, texts: str | Sequence[str]) -> Tensor:
        """Return the features of texts. Equal texts are encoded once, so that their features are equal in every bit.

        Args:
            texts: One text or a sequence of N; texts that are too long are truncated.

        Returns:
            (N, D) unit vectors, float32; (1, D) for one text, (0, D) for none.

        Raises:
            DataError: An element is not a string.
        """
        rows = [texts] if isinstance(texts, str) else list(texts)
        for row in rows:
            if not isinstance(row, str):
                raise DataError(f"{row!r:.60} is not a text")
        position = {text: index for index, text in enumerate(dict.fromkeys(rows))}
        tokens_NL = trim_padding(self._tokenize(list(position)))
        with _exact():
            parts = [
                normalize(self._encoder.encode_text(batch_NL.to(self.device)).float(), dim=-1)
                for batch_NL in (torch.split(tokens_NL, self.batch_size) if rows else ())
            ]
        return self._cat(parts)[[position[text] for text in rows]]

    def encode_regions(self, image: Image.Image, boxes: Sequence[Sequence[float]] | np.ndarray | Tensor) -> Tensor:
        """Return the features of boxes of one image, pooled from its dense features.

        Args:
            image: Pillow image.
            boxes: R rows x1, y1, x2, y2 in pixels of the stored image, from its upper left corner; clipped to the image.

        Returns:
            (R, D) unit vectors, float32; (0, D) for no boxes.

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
        """Return the features of boxes of normalized images in one forward pass.

        Args:
            pixels_B3SS: Normalized images.
            boxes_R4: x1, y1, x2, y2 as fractions of the image, float32.
            box_to_image_R: Index of the image of each box, int64.

        Returns:
            (R, D) unit vectors, float32, in the order of the boxes.
        """
        with _exact():
            region_RD = self._encoder.encode_regions(
                pixels_B3SS.to(self.device), boxes_R4.to(self.device), box_to_image_R.to(self.device)
            )
            return normalize(region_RD.float(), dim=-1)

    def require_whole_patches(self, image_size: int) -> None:
        """Check that an image size is a multiple of the encoder's patch.

        Args:
            image_size: Side of the square in pixels.

        Raises:
            ConfigError: It is less than 1 or not a multiple of the patch height and width.
        """
        self._encoder.require_whole_patches(image_size, what="image_size")

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        for image in images:
            if not isinstance(image, Image.Image):
                raise DataError(f"{image!r:.60} is not an image: open it with PIL.Image.open first")
        return to_batch([SQUASH(rgb(image), self.image_size) for image in images], size=self.image_size)

    def _cat(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([torch.zeros(0, self.width, device=self.device), *parts])


@contextmanager
def _exact() -> Iterator[None]:
    """Run without gradient and, on a GPU, without TF32 in convolutions, which PyTorch allows by default."""
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


def fractions(boxes: Sequence[Sequence[float]] | np.ndarray | Tensor, *, width: int, height: int) -> Tensor:
    """Return boxes clipped to their image, as fractions of it.

    Args:
        boxes: R rows x1, y1, x2, y2 in pixels.
        width: Width of the image in pixels.
        height: Height of the image in pixels.

    Returns:
        (R, 4) float32 in [0, 1].

    Raises:
        DataError: A row is not four finite numbers, or has no area inside the image.
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
                f"boxes: row {index}, {row}, has no area inside the image of {width} x {height} pixels; expected x1, y1, x2, y2"
                " in pixels with x1 < x2 and y1 < y2 (not x, y, width, height; not fractions)"
            )
        fractions_R4.append((box.x1 / width, box.y1 / height, box.x2 / width, box.y2 / height))
    return torch.tensor(fractions_R4, dtype=torch.float32)

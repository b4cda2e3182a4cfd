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

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from fineclip.errors import ConfigError, DataError
from fineclip.models.batches import batches, chosen_device
from fineclip.models.checkpoints import find_encoder
from fineclip.models.encoder import RegionEncoder
from fineclip.models.images import squash, to_batch
from fineclip.models.tokenizer import trim_padding
from fineclip.shards.images import rgb
from fineclip.types import Box

AT_ONCE = 64  # pictures or texts


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
    """Pictures, texts and boxes to unit vectors, float32, on the encoder's device; without gradient.

    Attributes:
        width: D.
        image_size: side of the square that pictures are squashed to, in pixels.
        device: where the encoder is and the features are.
    """

    def __init__(
        self,
        encoder: RegionEncoder,
        tokenize: Callable[[Sequence[str]], Tensor],
        *,
        image_size: int,
        device: str = "auto",
    ) -> None:
        """Of an encoder and its tokenizer; as `load` says."""
        height, width = encoder.patch
        if image_size < 1 or image_size % height or image_size % width:
            raise ConfigError(f"image_size {image_size} px is not whole patches of the encoder's {height} x {width} px")
        self.device = chosen_device(device)
        self.image_size, self.width = image_size, encoder.width
        self._encoder, self._tokenize = encoder.to(self.device, torch.float32).eval(), tokenize

    @torch.no_grad()
    def encode_image(self, images: Image.Image | Sequence[Image.Image]) -> Tensor:
        """(B, D) features of whole pictures; one picture gives (1, D), none gives (0, D).

        Raises:
            DataError: one is no picture of Pillow's, or broken.
        """
        pictures = [images] if isinstance(images, Image.Image | str | Path) else list(images)
        parts = [self._encoder.encode_image(self._pixels(batch)) for batch in batches(pictures, AT_ONCE)]
        return self._joined(parts)

    @torch.no_grad()
    def encode_text(self, texts: str | Sequence[str]) -> Tensor:
        """(N, D) features of texts; one text gives (1, D), none gives (0, D). A text that is too long is cut.

        Raises:
            DataError: one is no text.
        """
        rows = [texts] if isinstance(texts, str) else list(texts)
        for row in rows:
            if not isinstance(row, str):
                raise DataError(f"{row!r:.60} is no text")
        tokens = (trim_padding(self._tokenize(batch)) for batch in batches(rows, AT_ONCE))
        parts = [self._encoder.encode_text(tokens_NL.to(self.device)) for tokens_NL in tokens]
        return self._joined(parts)

    @torch.no_grad()
    def encode_regions(self, image: Image.Image, boxes: Sequence[Sequence[float]] | np.ndarray | Tensor) -> Tensor:
        """(R, D) features of boxes of one picture, from its dense features; no box gives (0, D).

        Args:
            image: the picture.
            boxes: R rows x1, y1, x2, y2 in pixels of the picture as it is stored, from its upper left corner; what reaches
                outside is cut off.

        Raises:
            DataError: it is no picture, or a row is not four finite numbers or has no area inside the picture.
        """
        pixels_13SS = self._pixels([image])
        boxes_R4 = fractions(boxes, width=image.width, height=image.height).to(self.device)
        owner_R = torch.zeros(len(boxes_R4), dtype=torch.int64, device=self.device)
        return self._joined([self._encoder.encode_regions(pixels_13SS, boxes_R4, owner_R)])

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        for image in images:
            if not isinstance(image, Image.Image):
                raise DataError(f"{image!r:.60} is no picture: open it with PIL.Image.open first")
        squares = [squash(rgb(image), self.image_size) for image in images]
        return to_batch(squares, size=self.image_size).to(self.device)

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        return normalize(torch.cat([torch.zeros(0, self.width, device=self.device), *parts]), dim=-1)


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
        box = Box(*row).clipped(width, height)
        if not (np.isfinite(row).all() and box.width > 0 and box.height > 0):
            raise DataError(
                f"boxes: row {index}, {row}, has no area inside the picture of {width} x {height} pixels; expected x1, y1, x2, y2"
                " in pixels with x1 < x2 and y1 < y2 (not x, y, width, height; not fractions)"
            )
        fractions_R4.append((box.x1 / width, box.y1 / height, box.x2 / width, box.y2 / height))
    return torch.tensor(fractions_R4, dtype=torch.float32)

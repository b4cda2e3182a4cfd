"""From image-text pairs to a region-level CLIP: data pipeline, training, evaluation.

encoder = fineclip.load("mini")
encoder.encode_image(picture)    encoder.encode_text(["a dog"])    encoder.encode_regions(picture, [(x1, y1, x2, y2)])
"""

from pathlib import Path
from typing import TYPE_CHECKING

from fineclip.version import __version__

if TYPE_CHECKING:
    from fineclip.models.features import FeatureEncoder

__all__ = ["__version__", "load"]


def load(
    path_or_name: Path | str, *, encoder: str | None = None, image_size: int | None = None, device: str = "auto"
) -> "FeatureEncoder":
    """An encoder that turns pictures, texts and pixel boxes into features; see `fineclip.models.features.load`.

    Args:
        path_or_name: `results/<dataset>/<run>`, any folder with open_clip_config.json, any file of weights, or `mini`.
        encoder: of a file: which model it is of, the name of an open_clip model such as EVA02-B-16 or the path of a JSON.
        image_size: side of the square that pictures are squashed to, whole patches; None takes the encoder's own.
        device: auto, cpu, cuda or mps.

    Raises:
        FineclipError: the message says what is wrong with the file, the name or the size.
    """
    from fineclip.models import features  # torch is loaded when an encoder is, not with the package

    return features.load(path_or_name, encoder=encoder, image_size=image_size, device=device)

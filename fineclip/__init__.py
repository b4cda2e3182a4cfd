"""Region-level CLIP from image-text pairs: data pipeline, training and evaluation. `fineclip.load` is the entry point."""

from pathlib import Path
from typing import TYPE_CHECKING

from fineclip.version import __version__

if TYPE_CHECKING:
    from fineclip.models.features import FeatureEncoder

__all__ = ["__version__", "load"]


def load(
    path_or_name: Path | str, *, encoder: str | None = None, image_size: int | None = None, device: str = "auto"
) -> "FeatureEncoder":
    """Load an encoder of images, texts and regions. torch is imported here and not with the package.

    Args:
        path_or_name: Folder of a run (`results/<dataset>/<run>`), folder with open_clip_config.json or of transformers'
            CLIPModel, file of weights, or the shipped encoder `mini`.
        encoder: Model of the weights, required for a file: name of an open_clip model such as EVA02-B-16, or path of a JSON.
        image_size: Images are resized to a square of this side in pixels, a multiple of the patch. None takes the encoder's
            own size.
        device: auto, cpu, cuda, mps, or a GPU by its number, such as cuda:1.

    Returns:
        Encoder with `encode_image`, `encode_text` and `encode_regions`, which return unit vectors.

    Raises:
        CheckpointError: There is no such file, its model is not known, or it holds the weights of another model.
        ConfigError: There is no such model or device, or the size is not a multiple of the patch.

    Examples:
        >>> import fineclip
        >>> from PIL import Image
        >>> encoder = fineclip.load("mini", device="cpu")
        >>> image = Image.new("RGB", (200, 100), "red")
        >>> region_RD = encoder.encode_regions(image, [(10, 20, 110, 90), (0, 0, 200, 100)])  # x1, y1, x2, y2 in pixels
        >>> text_ND = encoder.encode_text(["a red star", "a blue cup", "a photo of the sky"])
        >>> (region_RD @ text_ND.T).shape
        torch.Size([2, 3])
        >>> encoder.encode_image([image, image]).shape == (2, encoder.width)
        True
    """
    from fineclip.models.checkpoints import find_encoder
    from fineclip.models.features import FeatureEncoder

    found = find_encoder(path_or_name, encoder=encoder)
    size = found.config.image_size if image_size is None else image_size
    return FeatureEncoder(found.load(), found.tokenizer(), image_size=size, device=device)

"""Find the models of the miniature world, which are shipped with the package. torch is not imported."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from fineclip.config import EncoderConfig, WeightsConfig
from fineclip.errors import ConfigError
from fineclip.miniature import WEIGHTS

PREFIX = "shipped:"
FOLDER = WEIGHTS
ENCODERS: Mapping[str, EncoderConfig] = MappingProxyType(
    {
        "mini": EncoderConfig(
            model="shipped:encoder/mini.json",
            weights=WeightsConfig(shipped="encoder/model.safetensors"),
            tokenizer=WeightsConfig(shipped="encoder/bpe.txt.gz"),
            head="mean",
            image_size=96,
            crop_size=48,
        )
    }
)


def shipped(name: str) -> Path:
    """Return the path of a shipped file or folder.

    Args:
        name: Path below the folder of shipped models, such as `encoder/mini.json`.

    Returns:
        Existing path.

    Raises:
        ConfigError: No shipped file has that name, or the path is outside the folder.
    """
    path = (FOLDER / name).resolve()
    if not path.is_relative_to(FOLDER.resolve()):
        raise ConfigError(f"shipped:{name}: is outside the folder of shipped models")
    if not path.exists():
        there = sorted(entry.name for entry in FOLDER.iterdir()) if FOLDER.is_dir() else []
        raise ConfigError(f"shipped:{name}: no such shipped model; choose from {', '.join(there) or 'none'}")
    return path

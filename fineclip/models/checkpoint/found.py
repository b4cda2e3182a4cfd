"""What a path or a name stands for: an encoder's architecture, its weights and its vocabulary.

results/coco2017/fineclip-eva02.b16-all-s0    the folder of a finished run
exported/                                     a folder of open_clip's: open_clip_config.json and weights
FineCLIP_coco_vitb16.pt and EVA02-B-16        a file of weights, and the model that they are of
mini                                          what comes with the package
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import open_clip

from fineclip.config import EncoderConfig, WeightsConfig
from fineclip.errors import CheckpointError, ConfigError
from fineclip.models.architecture import architecture
from fineclip.models.checkpoint.files import WEIGHTS, weights_file
from fineclip.models.checkpoint.loading import load_encoder
from fineclip.models.checkpoint.published import ARCHITECTURE, RUN, VOCABULARY, published_config
from fineclip.models.encoder import RegionEncoder
from fineclip.models.images import MEAN, STD
from fineclip.models.shipped import PREFIX, shipped
from fineclip.models.tokenizer import Tokenizer, load_tokenizer

SHIPPED: Mapping[str, EncoderConfig] = MappingProxyType(
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
NONE: Mapping[str, EncoderConfig] = MappingProxyType({})


@dataclass(frozen=True)
class FoundEncoder:
    """An encoder that lies on disk: its configuration, the file of its weights, its own vocabulary if it has one."""

    config: EncoderConfig
    weights: Path
    vocabulary: Path | None

    def load(self) -> RegionEncoder:
        """In float32 on the CPU.

        Raises:
            CheckpointError: the file cannot be read, or is not of this architecture.
        """
        return load_encoder(self.config, self.weights)

    def tokenizer(self) -> Tokenizer:
        """With the vocabulary beside the weights, or the one that the configuration names, or CLIP's own.

        Raises:
            ConfigError: it is of another size than the model's.
        """
        return load_tokenizer(self.config, self.vocabulary)


def find_encoder(
    path_or_name: Path | str, *, encoder: str | None = None, catalogue: Mapping[str, EncoderConfig] = NONE
) -> FoundEncoder:
    """The encoder that a path or a name stands for. A shipped name comes first: write `./mini` for a folder of that name.

    Args:
        path_or_name: the folder of a run, a folder of open_clip's, a file of weights, or `mini`, which is shipped.
        encoder: which model the weights are of, where the path does not say it: an entry of `catalogue`, the name of an
            open_clip model such as EVA02-B-16, the path of a JSON in open_clip's format, or `mini`.
        catalogue: section `encoders` of a configuration.

    Raises:
        CheckpointError: there is no such path, or it does not say which model it is of.
        ConfigError: there is no such model.
    """
    path = Path(path_or_name)
    if encoder is None and str(path_or_name) in SHIPPED:
        config = SHIPPED[str(path_or_name)]
        path = shipped(str(config.weights.shipped))
    elif not path.exists():
        raise CheckpointError(_absent(str(path_or_name)))
    elif encoder is not None:
        config = encoder_named(encoder, weights=path, catalogue=catalogue)
    elif (path / RUN).is_file():
        config = published_config(path)
        path = path / WEIGHTS
    elif (path / ARCHITECTURE).is_file():
        config = _described(str(path / ARCHITECTURE), weights=path)
    else:
        raise CheckpointError(_does_not_say(path))
    path = weights_file(path)
    beside = path.parent / VOCABULARY
    return FoundEncoder(config, path, beside if beside.is_file() else None)


def encoder_named(name: str, *, weights: Path, catalogue: Mapping[str, EncoderConfig] = NONE) -> EncoderConfig:
    """The configuration of an encoder by its name, as `find_encoder` says.

    Raises:
        ConfigError: there is no such model.
    """
    if name in catalogue:
        return catalogue[name]
    if name in SHIPPED:
        return SHIPPED[name]
    try:
        return _described(name, weights=weights)
    except ConfigError as error:
        entries = f"no entry of `encoders` ({', '.join(catalogue)}), and " if catalogue else ""
        raise ConfigError(f"encoder {name}: {entries}{error}") from None


def _described(model: str, *, weights: Path) -> EncoderConfig:
    """What open_clip's description says: pooling, and the size of images, which in a folder stands beside the model."""
    vision: Mapping[str, Any] = architecture(model)["vision_cfg"]
    pixels = _preprocessing(model)
    for name, ours in (("mean", MEAN), ("std", STD)):
        if (theirs := pixels.get(name)) is not None and tuple(theirs) != ours:
            raise ConfigError(
                f"{model}: its pixels have {name} {theirs}; only models with CLIP's, {list(ours)}, are read"
            )
    size = pixels.get("size") or vision["image_size"]
    side = min(size) if isinstance(size, list | tuple) else size
    return EncoderConfig(
        model=model,
        weights=WeightsConfig(path=str(weights)),
        head="mean" if vision.get("pool_type") == "avg" else "cls",
        image_size=side,
        crop_size=side,
    )


def _preprocessing(model: str) -> Mapping[str, Any]:
    """What a description in JSON says of pixels; nothing where it does not."""
    if not model.endswith(".json") or model.startswith(PREFIX):
        return {}
    content = json.loads(Path(model).read_text(encoding="utf-8"))
    return content.get("preprocess_cfg") or {}


def _absent(name: str) -> str:
    if name in open_clip.list_models():
        return (
            f"{name}: is an architecture that open_clip knows, and no weights: nothing is fetched here. Bring a file of weights and "
            f"name the architecture beside it: encoder {name}."
        )
    return f"{name}: no such file or folder, and no encoder that the package ships ({', '.join(SHIPPED)})"


def _does_not_say(path: Path) -> str:
    if path.is_dir():
        return (
            f"{path}: holds neither {RUN} of a finished run nor {ARCHITECTURE}, so it does not say of which model its weights "
            "are. Name it as encoder, for example EVA02-B-16."
        )
    folder = f", or give the folder {path.parent}" if (path.parent / ARCHITECTURE).is_file() else ""
    return f"{path}: does not say of which model it is. Name it as encoder, for example EVA02-B-16{folder}."

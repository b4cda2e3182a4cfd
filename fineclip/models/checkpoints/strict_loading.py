"""Load weights into an encoder strictly: missing or unexpected keys and other shapes are errors that name them."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fineclip.config import EncoderConfig
from fineclip.errors import CheckpointError
from fineclip.models.architecture import architecture
from fineclip.models.checkpoints.weights_files import read_weights, some
from fineclip.models.checkpoints.layouts import NOT_WEIGHTS, as_open_clip, with_texts
from fineclip.models.encoder import RegionEncoder, build_encoder


def load_encoder(config: EncoderConfig, weights: Path) -> RegionEncoder:
    """Build an encoder and load its weights, in float32 on the CPU.

    Args:
        config: Architecture, head and sizes.
        weights: File or folder, in a layout of `layouts`.

    Returns:
        The encoder in training mode.

    Raises:
        CheckpointError: The file cannot be read, its keys or shapes are those of another model, or OpenAI's own weights are
            loaded into a model without QuickGELU, a difference that keys do not show.
        ConfigError: The architecture is not supported.
    """
    encoder = build_encoder(config)
    found = read_weights(weights)
    if not found.keys().isdisjoint(NOT_WEIGHTS) and not architecture(config.model).get("quick_gelu"):
        raise CheckpointError(
            f"{weights} as {config.model}: these weights are OpenAI's own ({some(sorted(NOT_WEIGHTS & found.keys()))} are among them), which"
            f" were trained with QuickGELU, but this model has no QuickGELU. Use {config.model}-quickgelu."
        )
    load_state_dict_strict(encoder, as_open_clip(found), where=f"{weights} as {config.model}")
    return encoder


def load_state_dict_strict(encoder: RegionEncoder, weights: Mapping[str, Tensor], *, where: str) -> None:
    """Set all weights of an encoder, converted to float32.

    Args:
        encoder: Changed in place.
        weights: Under open_clip's names; the text tower may be nested or not.
        where: Start of the error message, such as the file.

    Raises:
        CheckpointError: A key is missing or unexpected, or has another shape or an integer type.
    """
    wanted = encoder.state_dict()
    weights = with_texts(weights, nested=any(name.startswith("text.") for name in wanted))
    common = [name for name in wanted if name in weights]
    problems = {
        "keys are missing": sorted(wanted.keys() - weights.keys()),
        "keys are not expected": sorted(weights.keys() - wanted.keys()),
        "have another shape": [
            f"{name} is {tuple(weights[name].shape)}, not {tuple(wanted[name].shape)}"
            for name in common
            if weights[name].shape != wanted[name].shape
        ],
        "are not floating-point numbers": [name for name in common if not weights[name].is_floating_point()],
    }
    complaints = [f"{len(names)} {problem}: {some(names)}" for problem, names in problems.items() if names]
    if complaints:
        raise CheckpointError(f"{where}: these weights are of another model; {'; '.join(complaints)}")
    encoder.load_state_dict({name: weights[name].float() for name in wanted}, strict=True)

"""Weights into an encoder: every key there, none to spare, each of the right shape, or an error that names it."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fineclip.config import EncoderConfig
from fineclip.errors import CheckpointError
from fineclip.models.architecture import architecture
from fineclip.models.checkpoint.files import read_weights, some
from fineclip.models.checkpoint.layouts import NOT_WEIGHTS, as_open_clip, with_texts
from fineclip.models.encoder import RegionEncoder, build_encoder


def load_encoder(config: EncoderConfig, weights: Path) -> RegionEncoder:
    """The encoder that `config` describes with the weights of a file or folder, in float32 on the CPU.

    Raises:
        CheckpointError: the file cannot be read, or is not of this architecture: names the first few keys; or OpenAI's own
            weights are to go into a model with another activation, which the keys do not show.
        ConfigError: the architecture cannot be used.
    """
    encoder = build_encoder(config)
    found = read_weights(weights)
    if not found.keys().isdisjoint(NOT_WEIGHTS) and not architecture(config.model).get("quick_gelu"):
        raise CheckpointError(
            f"{weights} as {config.model}: these weights are OpenAI's own ({some(sorted(NOT_WEIGHTS & found.keys()))} are among them), which"
            f" were trained with QuickGELU, and this model is built without. Name the one with: {config.model}-quickgelu."
        )
    fill(encoder, as_open_clip(found), where=f"{weights} as {config.model}")
    return encoder


def fill(encoder: RegionEncoder, weights: Mapping[str, Tensor], *, where: str) -> None:
    """Set every weight of `encoder`; half precision becomes float32.

    Raises:
        CheckpointError: a key is missing, unexpected, or of another shape or kind.
    """
    wanted = encoder.state_dict()
    weights = with_texts(weights, nested=any(name.startswith("text.") for name in wanted))
    complaints = []
    if missing := sorted(wanted.keys() - weights.keys()):
        complaints.append(f"{len(missing)} keys are missing: {some(missing)}")
    if strange := sorted(weights.keys() - wanted.keys()):
        complaints.append(f"{len(strange)} keys are not expected: {some(strange)}")
    shapes = [
        f"{name} is {tuple(weights[name].shape)}, not {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in weights and weights[name].shape != value.shape
    ]
    if shapes:
        complaints.append(f"{len(shapes)} have another shape: {some(shapes)}")
    if whole := [name for name in wanted if name in weights and not weights[name].is_floating_point()]:
        complaints.append(f"{len(whole)} are no floating point numbers: {some(whole)}")
    if complaints:
        raise CheckpointError(f"{where}: these weights are of another model; {'; '.join(complaints)}")
    encoder.load_state_dict({name: weights[name].float() for name in wanted}, strict=True)

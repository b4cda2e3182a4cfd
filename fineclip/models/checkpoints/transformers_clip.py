"""Layout of transformers' CLIPModel: a map from open_clip's names to its names.

    open_clip                                   transformers
    transformer.resblocks.N.attn.in_proj_*      encoder.layers.N.self_attn.{q,k,v}_proj.*, one below the other
    visual.proj, text_projection                visual_projection.weight, text_projection.weight, transposed

Source: transformers, convert_clip_original_pytorch_to_hf.py.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

TOWERS = ("vision_model.", "text_model.")
POSITION_IDS = frozenset(f"{tower}embeddings.position_ids" for tower in TOWERS)  # 0, 1, 2, ... in early files
TRANSPOSED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
PLACES = {  # whole names
    "logit_scale": "logit_scale",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
}
PARTS = (  # beginnings and parts of names
    ("visual.ln_pre.", "vision_model.pre_layrnorm."),  # their spelling
    ("visual.ln_post.", "vision_model.post_layernorm."),
    ("ln_final.", "text_model.final_layer_norm."),
    ("visual.transformer.resblocks.", "vision_model.encoder.layers."),
    ("transformer.resblocks.", "text_model.encoder.layers."),
)
IN_BLOCK = (
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".attn.out_proj.", ".self_attn.out_proj."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
)
PACKED = ".attn.in_proj_"


class Origin(NamedTuple):
    """Tensors of transformers that make one of open_clip's.

    Attributes:
        names: One name, or those of query, key and value.
        transposed: The matrix is transposed.
    """

    names: tuple[str, ...]
    transposed: bool = False


def origins(wanted: Iterable[str]) -> dict[str, Origin] | None:
    """Return where the tensors of a model are in a CLIPModel.

    Args:
        wanted: open_clip's names, with the text tower at the top or nested.

    Returns:
        An origin for each name, or None if CLIPModel has no place for one of them.
    """
    found = {name: _origin(name.removeprefix("text.")) for name in wanted}
    return None if None in found.values() else {name: origin for name, origin in found.items() if origin}


def _origin(name: str) -> Origin | None:
    if name in TRANSPOSED:
        return Origin((TRANSPOSED[name],), transposed=True)
    if name in PLACES:
        return Origin((PLACES[name],))
    ours, theirs = next(((ours, theirs) for ours, theirs in PARTS if name.startswith(ours)), ("", ""))
    part = name.removeprefix(ours)
    if not ours or "resblocks" not in ours:
        return Origin((theirs + part,)) if ours else None
    if PACKED in part:
        block, what = part.split(PACKED)
        return Origin(tuple(f"{theirs}{block}.self_attn.{letter}_proj.{what}" for letter in "qkv"))
    renamed = next((part.replace(before, after) for before, after in IN_BLOCK if before in part), None)
    return None if renamed is None else Origin((theirs + renamed,))


def from_transformers(
    weights: Mapping[str, Tensor], places: Mapping[str, Origin], *, shapes: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """Return tensors under open_clip's names.

    Args:
        weights: Dense tensors; all names of `places` are there.
        places: From `origins`.
        shapes: Of open_clip's tensors. Query, key and value that do not fit are not joined, so that a file cannot take more
            memory than the model.

    Returns:
        A tensor for each name of `places`; a part of those that do not fit, which has another shape than `shapes`.
    """
    converted = {}
    for name, origin in places.items():
        parts = [weights[part] for part in origin.names]
        if len(parts) == 1:
            converted[name] = parts[0].t() if origin.transposed and parts[0].ndim == 2 else parts[0]
        else:
            third = (shapes[name][0] // len(parts), *shapes[name][1:])
            wrong = [part for part in parts if tuple(part.shape) != third]
            converted[name] = wrong[0] if wrong else torch.cat([part.float() for part in parts])
    return converted

"""Checkpoint layouts: pure functions that rename tensors. Tensors that are not renamed keep their name and value.

    open_clip    open_clip's names, which are used here: `visual.trunk.*` (timm's EVA-02) or `visual.*` (open_clip's
                 VisionTransformer), the text tower under `text.*` or, in OpenAI's models, at the top
    eva_clip     EVA-02-CLIP, CLIPSelf and FineCLIP as their authors save them, with rotary tables
    transformers transformers' CLIPModel, read only (`transformers_clip`)
    backbone     the vision tower with its head, under timm's names

Source of the maps: the authors' eva_vit_model.py and timm's eva.py; timm's `_convert_openai_clip`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fineclip.errors import CheckpointError
from fineclip.models.checkpoints.transformers_clip import origins
from fineclip.models.checkpoints.weights_files import some

NOT_WEIGHTS = frozenset(
    {"input_resolution", "context_length", "vocab_size"}
)  # entries of OpenAI's files that are not weights
ROTARY_TABLE = re.compile(r"^visual\.(.+\.)?rope\.freqs_(cos|sin)$")  # computed again for every grid
BLOCK = re.compile(r"^visual\.blocks\.(\d+)\.")
TRUNK = "visual.trunk."

OFFICIAL_PARTS = (  # of a block: the authors' name, timm's
    (".attn.q_bias", ".attn.q_proj.bias"),
    (".attn.v_bias", ".attn.v_proj.bias"),
    (".attn.inner_attn_ln.", ".attn.norm."),
    (".mlp.w1.", ".mlp.fc1_g."),
    (".mlp.w2.", ".mlp.fc1_x."),
    (".mlp.w3.", ".mlp.fc2."),
    (".mlp.ffn_ln.", ".mlp.norm."),
)
OFFICIAL_NAME = re.compile(
    r"visual\.(cls_token|pos_embed|(patch_embed\.proj|norm|head)\.(weight|bias)"
    r"|blocks\.\d+\.(norm[12]\.(weight|bias)"
    r"|attn\.([qkv]_proj\.weight|[qv]_bias|(inner_attn_ln|proj)\.(weight|bias))"
    r"|mlp\.(w1|w2|w3|ffn_ln)\.(weight|bias)))"
    r"|text\..*|logit_scale"
)
TIMM_PARTS = (  # open_clip's VisionTransformer, timm's
    ("class_embedding", "cls_token"),
    ("positional_embedding", "pos_embed"),
    ("conv1.", "patch_embed.proj."),
    ("ln_pre.", "norm_pre."),
    ("ln_post.", "norm."),
    ("transformer.resblocks.", "blocks."),
    (".ln_1.", ".norm1."),
    (".ln_2.", ".norm2."),
    (".ls_1.", ".ls1."),
    (".ls_2.", ".ls2."),
    (".attn.in_proj_", ".attn.qkv."),
    (".attn.out_proj.", ".attn.proj."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
)


def layouts_of(wanted: Mapping[str, Any]) -> list[frozenset[str]]:
    """Return the names of a model's tensors in each layout that is read, without those that may be absent.

    Args:
        wanted: By open_clip's names.

    Returns:
        open_clip's with the text tower at the top and nested, then the authors' likewise, then transformers'.
    """
    found = [frozenset(with_texts(wanted, nested=nested)) for nested in (False, True)]
    if any(name.startswith(TRUNK) for name in wanted):
        pairs = [(TRUNK, "visual."), *((ours, theirs) for theirs, ours in OFFICIAL_PARTS)]
        found += [
            frozenset(_renamed(name, pairs) if name.startswith(TRUNK) else name for name in names) for names in found
        ]
    places = origins(wanted)
    return found if places is None else [*found, frozenset(name for place in places.values() for name in place.names)]


def as_open_clip(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors to open_clip's names; those of open_clip and OpenAI keep their names."""
    weights = {name: value for name, value in weights.items() if name not in NOT_WEIGHTS}
    if not any(map(BLOCK.match, weights)):
        return weights
    pairs = [("visual.", TRUNK), *OFFICIAL_PARTS]
    return {
        _renamed(name, pairs) if name.startswith("visual.") else name: value
        for name, value in weights.items()
        if not ROTARY_TABLE.match(name)
    }


def as_eva_clip(weights: Mapping[str, Tensor], *, tables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors to the names of EVA-02-CLIP's authors, and add the rotary tables that their files have.

    Args:
        weights: Under open_clip's names.
        tables: Cosines `cos` and sines `sin` of the trunk's native grid, (P, E) each with P patches and E channels of a head;
            they are written once at the top and once for every block. Empty for a trunk without rotary positions.

    Returns:
        Tensors by the authors' names.

    Raises:
        CheckpointError: The authors' model has no place for one of the tensors.
    """
    if not any(name.startswith(TRUNK) for name in weights):
        raise CheckpointError(
            "the layout eva_clip is that of timm's EVA-02 trunks, such as EVA02-B-16; this vision tower is not one."
            " It can be exported as open_clip or as backbone."
        )
    pairs = [(TRUNK, "visual."), *((ours, theirs) for theirs, ours in OFFICIAL_PARTS)]
    texts_placed = with_texts(weights, nested=True)
    official = {
        _renamed(name, pairs) if name.startswith(TRUNK) else name: value for name, value in texts_placed.items()
    }
    strange = [name for name in official if not OFFICIAL_NAME.fullmatch(name)]
    if strange:
        raise CheckpointError(
            f"the layout eva_clip has no place for {some(strange)}: EVA-02-CLIP has no such tensors."
            " This encoder can be exported as open_clip or as backbone."
        )
    blocks = sorted({int(found[1]) for name in official if (found := BLOCK.match(name))})
    places = ["visual.rope", *(f"visual.blocks.{number}.attn.rope" for number in blocks)]
    return official | {f"{place}.freqs_{what}": table for place in places for what, table in tables.items()}


def as_backbone(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the vision tower under timm's names, for a timm model with `num_classes` equal to the width of the embedding.

    open_clip's projection becomes timm's head; its bias, which open_clip does not have, is zero.

    Args:
        weights: Under open_clip's names.

    Returns:
        Tensors by timm's names.
    """
    if any(name.startswith(TRUNK) for name in weights):
        return {name.removeprefix(TRUNK): value for name, value in weights.items() if name.startswith(TRUNK)}
    tower = {name.removeprefix("visual."): value for name, value in weights.items() if name.startswith("visual.")}
    projection_CD = tower.pop("proj")
    renamed = {_renamed(name, TIMM_PARTS): value for name, value in tower.items()}
    renamed["cls_token"] = renamed["cls_token"][None, None]
    renamed["pos_embed"] = renamed["pos_embed"][None]
    return renamed | {"head.weight": projection_CD.T, "head.bias": torch.zeros(projection_CD.shape[1])}


def with_texts(weights: Mapping[str, Any], *, nested: bool) -> Mapping[str, Any]:
    """Move the text tower under `text.` if `nested`, else to the top."""
    is_nested = any(name.startswith("text.") for name in weights)
    if is_nested == nested:
        return weights
    if is_nested:
        return {name.removeprefix("text."): value for name, value in weights.items()}
    keep = ("visual.", "logit_scale", "logit_bias")
    return {name if name.startswith(keep) else f"text.{name}": value for name, value in weights.items()}


def _renamed(name: str, pairs: Sequence[tuple[str, str]]) -> str:
    for before, after in pairs:
        name = name.replace(before, after)
    return name

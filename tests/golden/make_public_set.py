"""Write tests/golden/data, the part of the golden vectors that is in the repository (under 1 MB).

    FINECLIP_GOLDEN=<the full set> python -m tests.golden.make_public_set

Left out are large arrays of one test each, and everything that seeds determine: weights and random images are
described in `drawn.json`, from which `tests.helpers.golden` draws them.
"""

import json
import math
import re
import shutil
import sys
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.helpers.golden import FULL, PUBLIC

# file: a pattern of the ends of the names of the arrays that are kept
ARRAYS = {
    "eva_tiny/inputs.npz": "boxes|box_to_image|caption_tokens|region_tokens|masks.*|mask_to_image",
    "eva_tiny/outputs.npz": ".*",
    "openai_tiny/inputs.npz": "boxes|box_to_image|caption_tokens|region_tokens|masks.*|mask_to_image",
    "openai_tiny/outputs.npz": ".*",
    "eva_b16/outputs.npz": ".*",
    "losses/clim.npz": "caption_tokens|boxes|box_to_mosaic|caption_layout",
    "losses/cliploss.npz": ".*",
    "losses/clipself.npz": "clipself_locked/.*|crop_embed|loss|cls_token|v_bias|inner_attn_ln.weight|visual.norm.weight|head.weight",
    "losses/ensemble_alpha07.npz": ".*",
    "losses/fineclip_w1_grads.npz": "cls_token|v_bias|inner_attn_ln.weight|visual.norm.weight|head.weight|logit_scale",
    "losses/fineclip_w2_grads.npz": "cls_token|v_bias|inner_attn_ln.weight|visual.norm.weight|head.weight|logit_scale",
    "losses/regionclip.npz": "raw|labels|a100|a20|temperature|cls_token|v_bias|inner_attn_ln.weight|head.weight",
    "metrics/macc.npz": "labels|is_thing|correct_top5",
    "metrics/retrieval.npz": "features|index",
    "transforms/clipself_letterbox.npz": ".*",
    "transforms/fineclip_squash.npz": ".*",
    "transforms/grid.npz": ".*",
}
VALUES = (
    "eva_tiny/model_config.json",
    "openai_tiny/model_config.json",
    "eva_b16/meta.json",
    "losses/meta_clim.json",
    "losses/meta_eva.json",
    "metrics/macc.json",
    "metrics/retrieval.json",
    "prompts/prompts.json",
    "schedule/lr.json",
    "schedule/param_groups_eva_tiny.json",
    "schedule/param_groups_openai_tiny.json",
    "transforms/meta_fineclip.json",
)
SEEDS = {
    "eva_tiny/weights.safetensors": 1000,
    "losses/clipself_teacher.safetensors": 1500,
    "openai_tiny/weights.safetensors": 11000,
}


def scale_of(name: str, shape: tuple[int, ...], *, eva: bool) -> float:
    """Return the factor of the normal numbers that a tensor is drawn from."""
    if "token_embedding" in name:
        return 0.5
    if re.search(r"pos_embed|positional|cls_token|class_embedding", name):
        return 0.4
    if len(shape) == 1:
        return 0.15 if name.endswith(".weight") else 0.1
    fan_in = shape[0] if name.endswith("visual.proj") else math.prod(shape[1:])
    more = 1.6 if re.search(r"[qk]_proj", name) else 1.3 if "in_proj" in name and not eva else 1.0
    return more / math.sqrt(fan_in)


def order_of(stored: dict[str, Tensor], seed: int, *, eva: bool) -> list[str]:
    """Return the names of the tensors in the order in which they were drawn."""
    generator, left, order = torch.Generator().manual_seed(seed), dict(stored), list[str]()
    while left:
        state = generator.get_state()
        ahead = torch.randn(16, generator=generator)[:8]
        generator.set_state(state)
        name = next((name for name, value in left.items() if follows(name, value, ahead, eva=eva)), "logit_scale")
        torch.randn(left.pop(name).shape, generator=generator)
        order.append(name)
    return order


def follows(name: str, value: Tensor, ahead: Tensor, *, eva: bool) -> bool:
    """Return whether a tensor begins with the numbers that the generator draws next."""
    first = value.flatten()[:8] - float(is_gain(name, value))
    return len(first) == 8 and torch.allclose(first, ahead * scale_of(name, value.shape, eva=eva), atol=1e-5)


def is_gain(name: str, value: Tensor) -> bool:
    return value.dim() == 1 and name.endswith(".weight")


def recipe_of(name: str) -> dict[str, Any]:
    """Return how the tensors of a file of weights are drawn (see `tests.helpers.golden.drawn`)."""
    stored, seed, eva = load_file(FULL / name), SEEDS[name], "openai" not in name
    weights = {key: value for key, value in stored.items() if ".rope." not in key}
    draws = [
        [key, list(weights[key].shape), float(is_gain(key, weights[key])), scale_of(key, weights[key].shape, eva=eva)]
        for key in order_of(weights, seed, eva=eva)
    ]
    tables = {key: ["eva_tiny/outputs.npz", f"rope_{key[-3:]}"] for key in stored if key not in weights}
    constants = {"logit_scale": weights["logit_scale"].item()}
    return {"streams": [{"seed": seed, "draws": draws}], "constants": constants, "copies": tables}


def inputs_recipe(seed: int, tokens: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return how the random images, crops and tokens of `inputs.npz` are drawn."""
    draws = [
        ["images", [4, 3, 32, 32], 0.0, 1.0],
        ["images48", [4, 3, 48, 48], 0.0, 1.0],
        [None, [9, 4], 0.0, 1.0],  # the boxes, which are stored
        ["crops", [9, 3, 32, 32], 0.0, 1.0],
    ]
    streams = [{"seed": seed + 1, "draws": draws}, {"seed": seed + 9, "draws": [[tokens, list(shape), 0.0, 1.0]]}]
    return {"streams": streams, "constants": {}, "copies": {}}


def main() -> int:
    """Write the set anew."""
    shutil.rmtree(PUBLIC, ignore_errors=True)
    for name, kept in ARRAYS.items():
        (PUBLIC / name).parent.mkdir(parents=True, exist_ok=True)
        with np.load(FULL / name) as stored:
            arrays = {key: stored[key] for key in stored.files if re.search(rf"(?:{kept})$", key)}
        np.savez_compressed(PUBLIC / name, allow_pickle=False, **arrays)
    for name in VALUES:
        (PUBLIC / name).parent.mkdir(parents=True, exist_ok=True)
        (PUBLIC / name).write_text(json.dumps(json.loads((FULL / name).read_text())) + "\n", encoding="utf-8")
    drawn = {name: recipe_of(name) for name in SEEDS} | {
        "eva_tiny/inputs.npz": inputs_recipe(1000, "block_tokens", (2, 17, 64)),
        "openai_tiny/inputs.npz": inputs_recipe(11000, "block_tokens_lnd", (17, 2, 64)),
    }
    (PUBLIC / "drawn.json").write_text(json.dumps(drawn) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

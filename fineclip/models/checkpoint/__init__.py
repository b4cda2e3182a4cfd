"""Weights in and out of files: strictly, and without ever running what a file says.

Read are the layouts of open_clip and OpenAI, of EVA-02-CLIP, CLIPSelf and FineCLIP as their authors saved them, and our
own, which is open_clip's. A key that is missing, unexpected or of another shape is an error: the authors load with
`strict=False`, and a wrong file then trains silently from random weights.
"""

from fineclip.models.checkpoint.exporting import LAYOUTS, export, official_weights
from fineclip.models.checkpoint.files import WEIGHTS, read_weights, write_weights
from fineclip.models.checkpoint.found import FoundEncoder, find_encoder
from fineclip.models.checkpoint.layouts import RotaryTables, as_backbone, as_eva_clip, as_open_clip
from fineclip.models.checkpoint.loading import fill, load_encoder
from fineclip.models.checkpoint.published import (
    ARCHITECTURE,
    VOCABULARY,
    load_published,
    publish,
    published_config,
    published_tokenizer,
)

__all__ = [
    "ARCHITECTURE",
    "LAYOUTS",
    "VOCABULARY",
    "WEIGHTS",
    "FoundEncoder",
    "RotaryTables",
    "as_backbone",
    "as_eva_clip",
    "as_open_clip",
    "export",
    "fill",
    "find_encoder",
    "load_encoder",
    "load_published",
    "official_weights",
    "publish",
    "published_config",
    "published_tokenizer",
    "read_weights",
    "write_weights",
]

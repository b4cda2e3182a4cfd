"""Load and save encoders: find a checkpoint, read its layout strictly, write it for other programs.

Supported layouts are those of open_clip and OpenAI, and of EVA-02-CLIP, CLIPSelf and FineCLIP as their authors save them. Ours
is open_clip's. A missing or unexpected key or another shape is an error; the authors load with `strict=False`, and training
then starts from random weights without a message. No code in a file is ever run.
"""

from fineclip.models.checkpoints.exporting import LAYOUTS, export, official_weights
from fineclip.models.checkpoints.weights_files import WEIGHTS, read_weights, write_weights
from fineclip.models.checkpoints.discovery import EncoderSpec, find_encoder
from fineclip.models.checkpoints.layouts import RotaryTables, as_backbone, as_eva_clip, as_open_clip
from fineclip.models.checkpoints.strict_loading import load_state_dict_strict, load_encoder
from fineclip.models.checkpoints.encoder_folder import (
    ARCHITECTURE,
    VOCABULARY,
    load_saved_encoder,
    save_encoder,
    saved_config,
    saved_tokenizer,
)

__all__ = [
    "ARCHITECTURE",
    "LAYOUTS",
    "VOCABULARY",
    "WEIGHTS",
    "EncoderSpec",
    "RotaryTables",
    "as_backbone",
    "as_eva_clip",
    "as_open_clip",
    "export",
    "load_state_dict_strict",
    "find_encoder",
    "load_encoder",
    "load_saved_encoder",
    "official_weights",
    "save_encoder",
    "saved_config",
    "saved_tokenizer",
    "read_weights",
    "write_weights",
]

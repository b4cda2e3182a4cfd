"""Load and save encoders: find a checkpoint, read its layout strictly, write it for other programs.

Supported layouts are those of open_clip and OpenAI, of EVA-02-CLIP, CLIPSelf and FineCLIP as their authors save them, and of
transformers' CLIPModel. Ours is open_clip's. A missing or unexpected key or another shape is an error; the authors load with
`strict=False`, and training then starts from random weights without a message. No code in a file is ever run.

    file_kinds, weights_files, torch_files    a file: what it is, its tensors, without running code
    naming, layouts, transformers_clip        names: place, prefix, layout
    matching, programs                        tensors against a model; what a file is that does not fit
    discovery, loading, exporting             paths and names of encoders; their weights; layouts of other programs
"""

from fineclip.models.checkpoints.discovery import ARCHITECTURE, VOCABULARY, EncoderSpec, find_encoder
from fineclip.models.checkpoints.exporting import export, save_encoder
from fineclip.models.checkpoints.loading import load_encoder
from fineclip.models.checkpoints.weights_files import WEIGHTS

__all__ = [
    "ARCHITECTURE",
    "VOCABULARY",
    "WEIGHTS",
    "EncoderSpec",
    "export",
    "find_encoder",
    "load_encoder",
    "save_encoder",
]

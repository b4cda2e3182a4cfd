"""How the name of a class becomes a text, or several, for the text tower, and the embeddings of these its own.

Legend: K classes, P prompts of a class, D embedding.
"""

from typing import Literal

import numpy as np

from fineclip.evals.sources import BenchmarkClass
from fineclip.models.prompt_templates import VILD_TEMPLATES, prompts_for

__all__ = ["VILD_TEMPLATES", "class_embedding", "prompts_of"]


def prompts_of(one: BenchmarkClass, kind: Literal["photo", "vild"]) -> list[str]:
    """The texts that stand for a class, as `models/prompts.py` has them; as many for every class."""
    return prompts_for(one.name, kind, is_thing=one.is_thing)


def class_embedding(prompt_KPD: np.ndarray) -> np.ndarray:
    """(K, D) float32 unit vectors: the mean of a class's prompts, each of them a unit vector, made one again."""
    mean_KD = prompt_KPD.astype(np.float64).mean(axis=1)
    length_K1 = np.linalg.norm(mean_KD, axis=1, keepdims=True)
    embedding_KD: np.ndarray = (mean_KD / np.maximum(length_K1, 1e-12)).astype(np.float32)
    return embedding_KD

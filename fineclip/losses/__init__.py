"""Losses as pure functions of tensors. Each is a mean over the rows of all ranks (see `contrastive.py`)."""

from fineclip.losses.concepts import concept_contrastive_loss, concept_distillation_loss, federated_loss
from fineclip.losses.contrastive import contrastive_loss
from fineclip.losses.distillation import distillation_loss

__all__ = [
    "concept_contrastive_loss",
    "concept_distillation_loss",
    "contrastive_loss",
    "distillation_loss",
    "federated_loss",
]

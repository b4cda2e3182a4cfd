"""Losses as pure functions of tensors. Each is a mean over the rows of all ranks (see `contrastive.py`)."""

"""Shared parts of `train_encoder`, `train_detector` and `train_captioner`, which train the three shipped models."""

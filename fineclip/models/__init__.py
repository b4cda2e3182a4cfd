"""Encoders, detectors and captioners: the only modules that import open_clip, timm, ultralytics and transformers."""

from fineclip.models.lean_imports import defer_compiler

defer_compiler()

"""From image-text pairs to a region-level CLIP: data pipeline, training, evaluation."""

from fineclip.version import __version__

__all__ = ["__version__"]

"""Of the package; results carry the VERSION of their stage instead."""

__version__ = "0.1.0"

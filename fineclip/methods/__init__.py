"""Training methods: one file each, named as its section in the configuration (see `base.py`).

Examples:
    >>> METHODS["fineclip"].__name__  # the name of a method in reports
    'FineCLIP'
    >>> METHODS["clip"].config_type().train_text
    False
"""

from importlib import import_module
from typing import Any

from fineclip.config import MethodsConfig
from fineclip.methods.base import Method


def _method_class(name: str) -> type[Method[Any]]:
    """Return the method that `fineclip/methods/<name>.py` defines for the section of that name."""
    module, section = import_module(f"{__name__}.{name}"), MethodsConfig.model_fields[name].annotation
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and getattr(value, "config_type", None) is section
    )


METHODS: dict[str, type[Method[Any]]] = {name: _method_class(name) for name in MethodsConfig.model_fields}

__all__ = ["METHODS", "Method"]

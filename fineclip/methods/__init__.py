"""Training methods: one file each, named as its section in the configuration (see `base.py`).

Examples:
    >>> METHODS["fineclip"].__name__  # the name of a method in reports
    'FineCLIP'
    >>> METHODS["clip"].config_type().train_text
    False
"""

from importlib import import_module
from typing import Any, cast

from fineclip.config import MethodConfig, MethodsConfig
from fineclip.methods.base import Method


def _method_class(name: str) -> type[Method[Any]]:
    """Return the method of a section: `<Method>` in `fineclip/methods/<name>.py` for a section `<Method>Config`."""
    section = cast("type[MethodConfig]", MethodsConfig.model_fields[name].annotation)
    method: type[Method[Any]] = getattr(import_module(f"{__name__}.{name}"), section.__name__.removesuffix("Config"))
    return method


METHODS: dict[str, type[Method[Any]]] = {name: _method_class(name) for name in MethodsConfig.model_fields}

__all__ = ["METHODS", "Method"]

"""The examples in the docstrings of the public API."""

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "fineclip",
        "fineclip.models.encoder",
        "fineclip.models.tokenizer",
        "fineclip.models.architecture",
        "fineclip.models.checkpoints.discovery",
        "fineclip.models.checkpoints.naming",
        "fineclip.models.checkpoints.programs",
        "fineclip.models.model_folders",
        "fineclip.models.checkpoints.exporting",
    ],
)
def test_examples(module: str) -> None:
    result = doctest.testmod(import_module(module))
    assert result.attempted > 0
    assert result.failed == 0

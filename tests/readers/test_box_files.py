"""Examples in the docstrings of the readers of own boxes. tests/stages/test_own_boxes.py tests the readers with the stages."""

import doctest
from importlib import import_module

import pytest

MODULES = ("box_files", "masks", "yolo_boxes")


@pytest.mark.parametrize("module", MODULES)
def test_examples(module: str) -> None:
    found = doctest.testmod(import_module(f"fineclip.readers.{module}"))
    assert (found.failed, found.attempted > 0) == (0, True)

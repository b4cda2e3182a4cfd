"""What every test leaves as it was."""

from collections.abc import Iterator

import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def pillow_as_it_was() -> Iterator[None]:
    """Importing ultralytics outside its adapter, as its training command does, puts another function here."""
    before = Image.open
    yield
    Image.open = before

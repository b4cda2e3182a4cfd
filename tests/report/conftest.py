"""One synthetic tree of results for all tests of the report; tests that damage something get a copy."""

import shutil
from pathlib import Path

import pytest

from tests.report.world import World, build_world, config_of


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two scales, two methods, two benchmarks, nothing missing. Not to be written to."""
    return build_world(tmp_path_factory.mktemp("whole"), config_of())


@pytest.fixture
def world(whole: World, tmp_path: Path) -> World:
    """A copy to break."""
    shutil.copytree(whole.root, tmp_path, dirs_exist_ok=True)
    return World(tmp_path, whole.config)

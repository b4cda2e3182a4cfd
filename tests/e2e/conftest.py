"""One small world, run once from its first row to its report; tests that change it work on copies."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.dag import run_all, small_world


@pytest.fixture(scope="session")
def finished_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    small_world(folder)
    run_all(folder)
    return folder


@pytest.fixture
def copy_of_finished(finished_world: Path, tmp_path: Path) -> Callable[[], Path]:
    def copy() -> Path:
        folder = tmp_path / "world"
        shutil.copytree(finished_world, folder, symlinks=True)
        return folder

    return copy
